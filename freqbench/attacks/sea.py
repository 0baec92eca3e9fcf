"""SEA, the segmentation ensemble attack.  Croce et al., ECCV 2024, arXiv:2306.12941."""

from dataclasses import dataclass
from typing import ClassVar

from freqbench.attacks.apgd import APGD
from freqbench.attacks.ensemble import Ensemble
from freqbench.errors import ParameterError

LOSSES = ("mask-ce-balanced", "mask-ce", "js")
SCHEDULE = ((2.0, 0.3), (1.5, 0.3), (1.0, 0.4))
FEWEST_STEPS = 4  # one for every radius


@dataclass(frozen=True, kw_only=True)
class SEA(Ensemble):
    """Three runs of Auto-PGD, each with a loss of its own and radii that shrink to eps; the worst volumes are kept.

    The losses let go of voxels that are wrong already, each in its way: the cross-entropy of those that are right, all
    classes weighing the same (`mask-ce-balanced`) or every voxel (`mask-ce`), and the Jensen-Shannon divergence (`js`).
    Every run begins at a uniform draw and spends 30 % of its steps within 2 eps, 30 % within 1.5 eps and 40 % within
    eps, each radius from the worst volumes of the one before it. Steps are judged by the cross-entropy in all three.

    Args:
        eps: radius on the [0, 1] intensity scale.
        steps: gradient steps of each run; one forward and one backward pass each.

    What ensembles take beside: `freqbench.attacks.ensemble`.

    **Differs from the authors' code**: the mean Dice of the window takes the place of its accuracy, which hardly feels
    an organ in a window of background, where a volume of a run is picked, and of accuracy or the data set's mean IoU
    where the worst of the runs is; no run stops early; weights of classes are counted in the window, not in the data
    set; and what `freqbench.attacks.apgd` says.

    Example:
        >>> SEA(eps=4 / 255).passes, [attack.loss for attack in SEA(eps=4 / 255).attacks]
        ((912, 900), ['mask-ce-balanced', 'mask-ce', 'js'])
    """

    name: ClassVar[str] = "sea"
    variants: ClassVar[tuple[str, ...]] = ("paper",)
    revision: ClassVar[int] = 2

    steps: int = 300

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < FEWEST_STEPS:
            complaint = f"expected at least {FEWEST_STEPS}, so that every radius has one, got {self.steps}"
            raise ParameterError(self.name, "steps", complaint)

    @property
    def attacks(self) -> tuple[APGD, ...]:
        """One run a loss."""
        return tuple(
            APGD(
                eps=self.eps,
                steps=self.steps,
                loss=loss,
                eps_schedule=SCHEDULE,
                organs=self.organs,
                restarts=self.restarts,
            )
            for loss in LOSSES
        )

    @property
    def compared_by(self) -> str:
        """As in the authors' code, for `js` too."""
        return "ce"
