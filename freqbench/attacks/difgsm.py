"""DI2-FGSM, diverse inputs.  Xie et al., CVPR 2019, arXiv:1803.06978."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from freqbench.attacks.core.parameters import SCOPES_WITHOUT_JOINT
from freqbench.attacks.core.task import Task
from freqbench.attacks.mifgsm import MIFGSM, Gradient
from freqbench.ops.resampling import Zoom, by_sample


@dataclass(frozen=True, kw_only=True)
class DIFGSM(MIFGSM):
    """`MIFGSM` whose gradient is sometimes taken at a smaller volume, put at a random place in zeros.

    In every step, with `probability`, linear interpolation makes the sides r times the window's, r uniform in
    [`min_scale`, 1) and equal for all axes, and the place is uniform among those that fit. The logits of the part that
    holds the volume are enlarged linearly to its old shape: labels stay unchanged, and logits in the zeros do not
    count. This is the paper's M-DI2-FGSM; with `decay: 0` its DI2-FGSM, with `probability: 0` it is `mifgsm`.

    `start`: the draws of all steps in [0, 1), `[B, steps, 5]`: one compared with `probability`, one for r, three for
    the place.

    **Differs from the paper**: the window keeps its shape, because volumetric networks are built for one: their 299 to
    329 of 330 pixels are 0.9 to 1 of a window here. Each sample of a batch has its own draw. Interpolation is linear,
    in the authors' code nearest-neighbour. Steps are eps / steps, 10 of them; the paper takes steps of 1/255, min(255
    eps + 4, 1.25 * 255 eps) of them, which for 8/255 is 10. A classifier has no logits to map back. L as in `MIFGSM`.
    """

    name = "difgsm"
    scopes = SCOPES_WITHOUT_JOINT
    looks_apart = True

    probability: float = 0.5
    min_scale: float = 0.9

    @property
    def is_stochastic(self) -> bool:
        """True if sizes and places are drawn."""
        return self.probability > 0 and self.min_scale < 1

    def gradients(self, task: Task) -> Gradient:
        """Returns the gradients at the resized volumes."""

        def ratio(chance: float, size: float) -> float:
            return self.min_scale + (1 - self.min_scale) * size if chance < self.probability else 1.0

        return resized_gradients(task, self.steps, 2, ratio)


def resized_gradients(
    task: Task, steps: int, num_draws: int, ratio: Callable[..., float], *, may_cut: bool = False
) -> Gradient:
    """Returns gradients at volumes that are resized anew in every step, each sample by its own draw.

    The network sees the resized volume Z x in a window of the same shape (`freqbench.ops.resampling.Zoom`), and its
    logits are mapped back to their voxels before the loss, so that labels, organs and target rules fit: the gradient is
    that of L(Z' f(Z x), y). Logits of padding, and voxels out of sight, do not count in L. With `keep: best`, and for
    restarts, volumes are compared without resizing, at one more forward pass per volume.

    Args:
        task: the call of the attack; its `start` replaces the draws.
        steps: number of steps.
        num_draws: numbers in [0, 1) that `ratio` takes; three more choose the place.
        ratio: function of these numbers to the ratio of the resized volume's sides to the window's.
        may_cut: voxels may get out of sight; the same for all samples, so that no loss depends on the batch.
    """
    layout = steps, num_draws + 3
    start = task.given_start(layout)
    draws = (task.draw(torch.rand, layout) if start is None else start).movedim(1, 0).tolist()  # step by step
    zooms: list[list[Zoom | None]] = []
    for step in draws:
        zooms.append([Zoom.of(task.clean, ratio(*row[:-3]), row[-3:]) for row in step])

    def loss(i: int, x: Tensor) -> Tensor:
        logits = by_sample(Zoom.undo, zooms[i], task.logits(x, partial(by_sample, Zoom.zoom, zooms[i])))
        objective = task.objective
        if not may_cut:
            return objective.raised(logits)
        everything = torch.ones_like(objective.labels[:1], dtype=torch.bool)
        voxels = torch.cat([everything if zoom is None else zoom.in_sight for zoom in zooms[i]])
        if objective.scope.voxels is not None:
            voxels = voxels & objective.scope.voxels
        return objective.sign * objective.raises(logits, objective.labels, replace(objective.scope, voxels=voxels))

    def gradient(x: Tensor, i: int) -> Tensor:
        if task.passes.best is not None:
            task.look(x)
        return task.gradient(x, partial(loss, i))

    return gradient
