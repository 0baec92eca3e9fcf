"""SEA, the segmentation ensemble attack.  Croce et al., ECCV 2024, arXiv:2306.12941."""

from dataclasses import dataclass, replace

from torch import Tensor

from freqbench.attacks.apgd import APGD
from freqbench.attacks.core.ensemble import SCHEDULE, Ensemble
from freqbench.attacks.core.parameters import SEGPGD
from freqbench.attacks.core.task import Task
from freqbench.attacks.segpgd import right_before_wrong
from freqbench.ops.losses import Scope


@dataclass(frozen=True, kw_only=True)
class SEA(Ensemble):
    """Runs of Auto-PGD, each with its own loss and radii that shrink to eps; the worst volumes are kept.

    The first loss is the Dice, which is scored. The others neglect voxels that are already wrong: the cross-entropy of
    right voxels with equal weights for all classes (`mask-ce-balanced`), the class-balanced margin of the logits
    (`margin`), and the loss of SegPGD (`segpgd`), whose lambda grows from 0 to 1/2 within each radius. Every run begins
    at a uniform draw and spends 30 % of its steps within 2 eps, 30 % within 1.5 eps and 40 % within eps, each radius
    from the best volume of the one before.

    `losses` names one run each: names of `freqbench.ops.losses.LOSSES` (`dlr-targeted` aims for the class of least
    clean probability at each voxel), and `segpgd`. The paper and its current code run `mask-ce-balanced`, `mask-ce` and
    `js`; the code of the paper's first version runs `mask-ce`, `js`, `segpgd` and a masked cosine, which is not
    included. Here the Dice replaces `mask-ce`, as without it the ensemble is weaker than PGD on the Dice, and `margin`
    replaces `js`, which adds nothing (reports/strongest).

    **Differs from the authors' code**: volumes of a run are chosen by the sample's mean Dice, not its accuracy, which
    hardly reflects an organ in a volume of background; so is the worst run, not by accuracy or the data set's mean IoU.
    Within a run, steps are judged and radii begin as in Auto-PGD with that loss, not by the cross-entropy and at the
    volume of least accuracy; a run continues after a sample has fallen; class weights are counted in the sample, not in
    the data set. The differences of `freqbench.attacks.apgd` apply too.
    """

    name = "sea"
    variants = ("paper",)
    revision = 3
    listed = "losses"

    steps: int = 300
    losses: tuple[str, ...] = ("dice", "mask-ce-balanced", "margin", SEGPGD)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_steps()

    @property
    def attacks(self) -> tuple[APGD, ...]:
        """One run per loss."""
        kinds = ((SegAPGD, "mask-ce") if loss == SEGPGD else (APGD, loss) for loss in self.losses)
        return tuple(self.member(kind, loss, eps_schedule=SCHEDULE) for kind, loss in kinds)


@dataclass(frozen=True, kw_only=True)
class SegAPGD(APGD):
    """Auto-PGD on the loss of SegPGD, as in the code of SEA's first version; it has no entry in ATTACKS.

    `loss` is `mask-ce`, SegPGD's loss at the first step, so that volumes are compared by the cross-entropy.
    """

    def run(self, task: Task) -> Tensor:
        """Runs `APGD.run` with lambda = i / (2 T) at step i of the T steps within a radius."""
        before = task.passes.backwards
        shares: list[float] = []
        for _, steps in self.stages:
            shares += [i / (2 * steps) for i in range(steps)]

        def loss(logits: Tensor, labels: Tensor, scope: Scope) -> Tensor:
            objective = replace(task.objective, labels=labels, scope=scope)
            right = objective.head.is_as_labelled(logits.detach(), labels)
            return right_before_wrong(objective, logits, right, shares[task.passes.backwards - before])

        task.objective.raises = loss  # volumes are still compared by the other loss
        return super().run(task)
