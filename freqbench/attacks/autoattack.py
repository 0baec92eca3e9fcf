"""AutoAttack for segmentation.  Croce and Hein, ICML 2020, arXiv:2003.01690; Daza et al., MICCAI 2021."""

from dataclasses import dataclass

from freqbench.attacks.apgd import APGD
from freqbench.attacks.core.ensemble import SCHEDULE, Ensemble
from freqbench.attacks.core.gradient import GradientAttack
from freqbench.attacks.core.parameters import SEQUENCES, SHRINKING, SQUARE
from freqbench.attacks.pgd import PGD
from freqbench.attacks.square import Square

SQUARE_SHARE = 0.8


@dataclass(frozen=True, kw_only=True)
class AutoAttack(Ensemble):
    """Attacks with different weaknesses, each run on the samples that withstood the earlier ones.

    The members raise `switch` along a cosine (`freqbench.attacks.apgd.search`), the Dice loss, Dice + cross-entropy
    with radii that shrink to eps, and the cross-entropy of the voxels that are still right with equal weights for all
    classes; one follows no gradient. reports/strongest shows the effect of each.
    The papers' own members, `members: [[apgd-ce, apgd-dlr, square]]`, are weaker than PGD on Dice + cross-entropy
    (reports/suite): their losses sum over voxels, most of which belong to no organ.

    Args:
        queries: forward passes of `square`, which begins with cubes of 0.8 of the window, as in AutoAttack.
        threshold: mean Dice at or below which a sample has fallen: later members skip it. 0: skip it when nothing is
            left to lose. A threshold above 0 suits a rate of success; the mean Dice then lacks the effect of later
            members.
        members: names in their order: `square` and, for every LOSS in `freqbench.ops.losses.LOSSES`, `apgd-LOSS`,
            `apgd-LOSS-shrinking` (radii as in `freqbench.attacks.sea`) and `pgd-LOSS` (steps of eps/4, the best
            volume); also `apgd-switch` and `apgd-auto`, with steps along a cosine. `dlr` needs 3 classes,
            `dlr-targeted` 4; the latter aims for each voxel's class of least clean probability.

    **Differs from the papers**: the members. FAB is left out: it minimises the norm, which a fixed radius does not
    reward, and it needs a gradient for every class of each decision; a volume has one decision per voxel. Cases are
    judged one by one, and the threshold is a number. Daza et al. take half the mean Dice of the data set, run Auto-PGD
    five times (`restarts`), and let Square Attack lower the mean Dice itself; ours raises Dice + cross-entropy. Their
    code also has PGD, and runs each member separately on the clean volumes: `papers/rog_msd`. `apgd-dlr-targeted`
    has one target per voxel; Croce and Hein take nine in turn.
    """

    name = "autoattack"
    variants = ("paper",)
    revision = 2
    listed = "members"

    queries: int = 5000
    threshold: float = 0.0  # type: ignore[misc]  # a parameter here
    members: tuple[str, ...] = ("apgd-switch", "apgd-dice", "apgd-dicece-shrinking", "apgd-mask-ce-balanced", SQUARE)

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(name.endswith(SHRINKING) for name in self.members):
            self.require_steps()

    @property
    def attacks(self) -> tuple[GradientAttack, ...]:
        """Members, made from their names."""
        return tuple(map(self._named, self.members))

    def _named(self, name: str) -> GradientAttack:
        if name == SQUARE:
            return Square(eps=self.eps, queries=self.queries, p_init=SQUARE_SHARE, organs=self.organs, keep="best")
        optimiser, _, loss = name.removesuffix(SHRINKING).partition("-")
        if optimiser == "pgd":
            return self.member(PGD, loss, step_size="eps/4")
        rule = "cosine" if loss in SEQUENCES else "halving"
        return self.member(APGD, loss, step_rule=rule, eps_schedule=SCHEDULE if name.endswith(SHRINKING) else None)
