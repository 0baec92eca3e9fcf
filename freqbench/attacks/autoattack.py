"""AutoAttack for segmentation.  Croce and Hein, ICML 2020, arXiv:2003.01690; Daza et al., MICCAI 2021."""

from dataclasses import dataclass
from typing import ClassVar

from freqbench.attacks.apgd import APGD
from freqbench.attacks.core.ensemble import SCHEDULE, Ensemble
from freqbench.attacks.core.gradient import LinfGradientAttack
from freqbench.attacks.core.parameters import SHRINKING, SQUARE
from freqbench.attacks.pgd import PGD
from freqbench.attacks.square import Square

SQUARE_SHARE = 0.8


@dataclass(frozen=True, kw_only=True)
class AutoAttack(Ensemble):
    """Attacks that fail for different reasons, each on the samples that withstood those before it.

    The members raise what the score is made of: the Dice, Dice + cross-entropy in radii that shrink to eps, the
    cross-entropy of the voxels that are still right with all classes at one weight, the Jensen-Shannon divergence; one
    follows no gradient. The papers' own, `members: [[apgd-ce, apgd-dlr, square]]`, are weaker than PGD on Dice +
    cross-entropy (reports/suite): their losses sum over voxels, most of which are no organ's.

    Args:
        queries: forward passes of `square`, which begins with cubes of 0.8 of the window, as AutoAttack has it.
        threshold: mean Dice at which a sample has fallen, or below: later members leave it alone. 0: where nothing is
            left to lose. Above 0 it is an attack for a rate of success, and a mean Dice lacks what later members add.
        members: in their order, `square` and, for every LOSS of `freqbench.ops.losses.LOSSES`, `apgd-LOSS`,
            `apgd-LOSS-shrinking` (radii as in `freqbench.attacks.sea`) and `pgd-LOSS` (steps of eps/4, the best
            volume). `dlr` takes 3 classes, `dlr-targeted` 4: it aims for each voxel's class of least clean probability.

    **Differs from the papers**: the members. FAB is left out: it minimises the norm, which a fixed radius does not
    reward, by a gradient for every class of one decision, of which a volume has as many as voxels. Cases are judged one
    by one, and the threshold is a number, where Daza et al. take half the mean Dice of the data set, run Auto-PGD five
    times (`restarts`), and let Square Attack lower the mean Dice itself, where ours raises Dice + cross-entropy. Their
    code also has PGD, and runs each member by itself on the clean volumes: `jobs/rog_msd.yaml`.
    `apgd-dlr-targeted` has one target a voxel, where Croce and Hein take nine in turn.
    """

    name: ClassVar[str] = "autoattack"
    variants: ClassVar[tuple[str, ...]] = ("paper",)
    revision: ClassVar[int] = 2
    listed: ClassVar[str] = "members"

    queries: int = 5000
    threshold: float = 0.0  # type: ignore[misc]  # A parameter here.
    members: tuple[str, ...] = ("apgd-dice", "apgd-dicece-shrinking", "apgd-mask-ce-balanced", "apgd-js", SQUARE)

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(name.endswith(SHRINKING) for name in self.members):
            self.require_steps()

    @property
    def attacks(self) -> tuple[LinfGradientAttack, ...]:
        """The members by name."""
        return tuple(map(self._named, self.members))

    def _named(self, name: str) -> LinfGradientAttack:
        if name == SQUARE:
            return Square(eps=self.eps, queries=self.queries, p_init=SQUARE_SHARE, organs=self.organs, keep="best")
        optimiser, _, loss = name.removesuffix(SHRINKING).partition("-")
        if optimiser == "pgd":
            return self.member(PGD, loss, step_size="eps/4")
        return self.member(APGD, loss, eps_schedule=SCHEDULE if name.endswith(SHRINKING) else None)
