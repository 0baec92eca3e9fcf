"""SEA, the segmentation ensemble attack.  Croce et al., ECCV 2024, arXiv:2306.12941."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from freqbench.attacks.apgd import APGD
from freqbench.attacks.core.ensemble import SCHEDULE, Ensemble
from freqbench.attacks.core.parameters import SEGPGD
from freqbench.attacks.core.task import Task
from freqbench.attacks.segpgd import right_before_wrong
from freqbench.ops.losses import Scope, is_as_labelled


@dataclass(frozen=True, kw_only=True)
class SEA(Ensemble):
    """Runs of Auto-PGD, each with a loss of its own and radii that shrink to eps; the worst volumes are kept.

    The first loss is what the score is made of, the Dice. The others let go of voxels that are wrong already: the
    cross-entropy of those that are right, all classes weighing the same (`mask-ce-balanced`), the Jensen-Shannon
    divergence (`js`), and the loss of SegPGD (`segpgd`), whose lambda grows from 0 to 1/2 within each radius. Every run
    begins at a uniform draw and spends 30 % of its steps within 2 eps, 30 % within 1.5 eps and 40 % within eps, each
    radius from the best volume of the one before it.

    `losses` names one run each: names of `freqbench.ops.losses.LOSSES` (`dlr-targeted` aims for the class of least
    clean probability at each voxel), and `segpgd`. The paper and the code of today run `mask-ce-balanced`, `mask-ce`
    and `js`, the code of the paper's first version `mask-ce`, `js`, `segpgd` and a masked cosine, which is not here.
    Without the Dice, here in the place of `mask-ce`, the ensemble is weaker than PGD on it (reports/strongest).

    **Differs from the authors' code**: volumes of a run are picked by the sample's mean Dice, not its accuracy, which
    hardly feels an organ in a volume of background, and the worst of the runs likewise, not by accuracy or the data
    set's mean IoU; within a run steps are judged, and a radius begins, as Auto-PGD does alone with that loss, not by
    the cross-entropy throughout and at the volume of least accuracy; a run goes on when a sample has fallen; weights of
    classes are counted in the sample, not in the data set; and what `freqbench.attacks.apgd` says.
    """

    name: ClassVar[str] = "sea"
    variants: ClassVar[tuple[str, ...]] = ("paper",)
    revision: ClassVar[int] = 3
    listed: ClassVar[str] = "losses"

    steps: int = 300
    losses: tuple[str, ...] = ("dice", "mask-ce-balanced", "js", SEGPGD)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_steps()

    @property
    def attacks(self) -> tuple[APGD, ...]:
        """One run a loss."""
        kinds = ((SegAPGD, "mask-ce") if loss == SEGPGD else (APGD, loss) for loss in self.losses)
        return tuple(self.member(kind, loss, eps_schedule=SCHEDULE) for kind, loss in kinds)


@dataclass(frozen=True, kw_only=True)
class SegAPGD(APGD):
    """Auto-PGD on the loss of SegPGD, as the code of SEA's first version has it; no entry of its own.

    `loss` is `mask-ce`, which SegPGD's is at first, so that volumes are compared by the cross-entropy.
    """

    def run(self, task: Task) -> Tensor:
        """`APGD.run`, with lambda = i / (2 T) at step i of the T within a radius."""
        before = task.passes.backwards
        shares = [i / (2 * steps) for _, steps in self.stages for i in range(steps)]

        def loss(logits: Tensor, labels: Tensor, scope: Scope) -> Tensor:
            share = shares[task.passes.backwards - before]
            return right_before_wrong(logits, labels, is_as_labelled(logits.detach(), labels), share, scope)

        task.objective.raises = loss  # in place of the one that volumes are compared by
        return super().run(task)
