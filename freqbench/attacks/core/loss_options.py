"""Away from the truth or towards a target, on every voxel or on some structures alone."""

from dataclasses import dataclass

from freqbench.attacks.core.base import Attack
from freqbench.attacks.core.targets import Rule, canonical, highest_class
from freqbench.core.errors import ParameterError


@dataclass(frozen=True, kw_only=True)
class AimedAttack(Attack):
    """An attack that knows which voxels count and where they are to go.

    Args:
        organs: class indices; only voxels whose true label is one of them count. None: everything counts.
        target: the labels to move towards, made from the truth, which `labels` then are: `least-likely`, the class of
            least clean probability at each voxel, for one forward pass more; `next-class`, (label + 1) mod K;
            `("swap", a, b)`, each where the other is; `("erase", a)`, background where a is. The last two keep other
            labels, so that they pull towards the truth where neither class is. None: away from the truth.
    """

    organs: tuple[int, ...] | None = None
    target: Rule | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        # One spelling each, as attacks are told apart by their parameters.
        if self.organs is not None:
            object.__setattr__(self, "organs", tuple(sorted(set(self.organs))))
        if self.target is not None:
            object.__setattr__(self, "target", canonical(self.target))
        for parameter, complaint in (("targeted", self._about_labels()), ("organs", self._about_organs())):
            if complaint:
                raise ParameterError(self.name, parameter, complaint)

    def _about_labels(self) -> str | None:
        if self.targeted and self.target is not None:
            return "expected false beside a target rule, got true: with a rule the labels are the truth"
        if self.targeted and self.organs is not None:
            return "expected false beside organs, got true: these are found by the truth: use a target rule"
        return None

    def _about_organs(self) -> str | None:
        if self.organs is None or not isinstance(self.target, tuple) or set(self.organs) & set(self.target[1:]):
            return None
        kind, *classes = self.target
        return f"expected one of those to {kind}, {classes}, got {list(self.organs)}: these would keep their labels"

    def check_classes(self, num_classes: int) -> None:
        """No class is named beyond the last."""
        for parameter, highest in (("organs", max(self.organs or (0,))), ("target", highest_class(self.target))):
            if highest >= num_classes:
                complaint = f"expected classes in 0..{num_classes - 1}, got {highest}"
                raise ParameterError(self.name, parameter, complaint)
