"""AutoAttack for segmentation.  Croce and Hein, ICML 2020, arXiv:2003.01690; Daza et al., MICCAI 2021."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from freqbench.attacks.apgd import APGD
from freqbench.attacks.ensemble import Ensemble
from freqbench.attacks.gradient import LinfGradientAttack
from freqbench.attacks.square import Square
from freqbench.attacks.targets import LEAST_LIKELY
from freqbench.errors import ParameterError
from freqbench.ops.voxel_losses import FEWEST_CLASSES

SQUARE = "square"
APGD_MEMBERS: Mapping[str, Mapping[str, Any]] = {
    "apgd-ce": {"loss": "ce"},
    "apgd-dlr": {"loss": "dlr"},
    "apgd-dlr-targeted": {"loss": "dlr-targeted", "target": LEAST_LIKELY},
}
SQUARE_SHARE = 0.8


@dataclass(frozen=True, kw_only=True)
class AutoAttack(Ensemble):
    """Attacks that fail for different reasons, each on the windows that withstood those before it.

    A window has fallen when its mean Dice is below `threshold`. The first member attacks all windows, as a mean Dice is
    reported and no rate of success; a window that has fallen keeps the worst volumes until then.

    Args:
        eps: radius on the [0, 1] intensity scale.
        steps: gradient steps of each Auto-PGD member.
        queries: forward passes of `square`, which begins with cubes of 0.8 of the window, as AutoAttack has it.
        threshold: mean Dice below which a window has fallen; 0: every member attacks every window, which then keeps
            volumes at least as bad as those of any member alone.
        members: of `apgd-ce`, `apgd-dlr` (3 classes), `apgd-dlr-targeted` (4 classes; towards the class of least clean
            probability at each voxel) and `square`, in their order.

    What ensembles take beside: `freqbench.attacks.ensemble`. `passes` is what a window takes that never falls; what
    each one took is in the result.

    **Differs from the papers**: FAB is left out: it minimises the norm, which a fixed radius does not reward, and steps
    to the nearest of the boundaries between one decision's classes, by a gradient for every class, where a volume has
    as many decisions as voxels. Windows are judged one by one (`scope: volume`: cases), and the threshold is a number,
    where Daza et al. take half the mean Dice of the data set. They run Auto-PGD five times (`restarts`), and their
    Square Attack lowers the mean Dice itself, where ours raises the Dice + cross-entropy. Of APGD-DLR the form without
    a target is the default, as with them, and the targeted one has one target a voxel, where Croce and Hein take nine
    in turn.

    Example:
        >>> AutoAttack(eps=4 / 255, members=("apgd-ce", "square")).passes
        (5104, 100)
    """

    name: ClassVar[str] = "autoattack"
    variants: ClassVar[tuple[str, ...]] = ("paper",)
    revision: ClassVar[int] = 2
    may_stop_early: ClassVar[bool] = True

    steps: int = 100
    queries: int = 5000
    threshold: float = 0.5
    members: tuple[str, ...] = ("apgd-ce", "apgd-dlr", "square")

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "members", tuple(self.members))

    @property
    def attacks(self) -> tuple[LinfGradientAttack, ...]:
        """The members by name."""
        return tuple(self._square() if name == SQUARE else self._apgd(name) for name in self.members)

    @property
    def enough(self) -> float:
        """The threshold."""
        return self.threshold

    def check_classes(self, num_classes: int) -> None:
        """Enough classes for the members' losses and for `organs`."""
        for name in self.members:
            fewest = FEWEST_CLASSES.get(APGD_MEMBERS[name]["loss"], 0) if name in APGD_MEMBERS else 0
            if num_classes < fewest:
                complaint = f"expected at least {fewest} classes for {name}, got {num_classes}: leave it out"
                raise ParameterError(self.name, "members", complaint)
        super().check_classes(num_classes)

    def _apgd(self, name: str) -> APGD:
        return APGD(eps=self.eps, steps=self.steps, organs=self.organs, restarts=self.restarts, **APGD_MEMBERS[name])

    def _square(self) -> Square:
        return Square(eps=self.eps, queries=self.queries, p_init=SQUARE_SHARE, organs=self.organs, keep="best")
