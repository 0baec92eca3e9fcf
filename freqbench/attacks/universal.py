"""A universal perturbation: one for all cases.  Hendrik Metzen et al., ICCV 2017, arXiv:1704.05712."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from freqbench.attacks.core.attack import SLACK, LearnedAttack
from freqbench.attacks.core.norms import NormAttack
from freqbench.attacks.core.parameters import LEARNED, LEARNED_LOSS, PARAMETERS, RANDOM_CONTROL
from freqbench.attacks.core.targets import LEAST_LIKELY, Rule
from freqbench.attacks.core.task import Task
from freqbench.attacks.core.values import step_length
from freqbench.core.errors import UserError
from freqbench.core.types import Shape, triple
from freqbench.ops.blocks import repeated
from freqbench.ops.projections import l2_ball, rms, unit_rms


@dataclass(frozen=True, kw_only=True)
class Universal(LearnedAttack, NormAttack):
    r"""One tile v, learned from other cases and repeated over each volume from its first voxel on.

    With T the repetition, m learning cases (x_k, y_k) and v = 0 at first:

    .. math:: a(x) = \mathrm{clamp}(x + T v, 0, 1), \qquad v \leftarrow \mathrm{clamp}\Bigl(v + step\_size \,
              \mathrm{sign} \sum_{k=1}^m \frac{d}{dv} L\bigl(f(a(x_k)), y_k\bigr), -eps, eps\Bigr)

    f gives the logits of the whole volume as predicted, through the sliding window if it has several, so that a tile of
    any size is learned for all places where windows show it. Scored cases are not used: attacking one takes no pass of
    any network, and the volumes of one tile are scored on other networks like any others.

    With `norm: l2` the gradient, scaled to a root mean square of 1, takes the place of its sign, v keeps one of at most
    eps, and a(x) is projected onto the ball, which matters where the volume cuts a tile.

    `control: random`: a tile of random signs at eps, in `l2` of normal noise of this root mean square, drawn from the
    seed alone, the same for all cases and networks.

    Args:
        steps: steps of the tile; each takes all learning cases, with one forward and one backward pass each (two
            forward passes through a sliding window).
        tile: side of the tile in voxels, or three sides; None: the model's window. A tile larger than all volumes is
            one perturbation for the whole volume.
        organs, target: as in `GradientAttack`.
        loss: a name in `freqbench.ops.losses.LOSSES`, except losses that mask voxels or compare logits.

    `learned`: the tile, `[C, h, w, d]`, with the attacked channels.

    **As in the paper**: one tile, repeated; signs of the gradient summed over all cases and all repetitions; the bound.
    The tile that Moosavi-Dezfooli et al. (CVPR 2017, arXiv:1610.08401) learn case by case is a classifier's. **Differs
    from the paper**, which lowers a weighted cross-entropy towards a target: by default the loss of the truth is
    raised; `target: {erase: a}` comes closest to their removal of one class; labels of one map with `targeted=True`
    come closest to their static target. Volumes are clamped to [0, 1] while the tile is learned, too.
    """

    name = "universal"
    variants = ("paper",)
    parameters = PARAMETERS | LEARNED | {"loss": LEARNED_LOSS, "control": RANDOM_CONTROL}
    scopes = ("volume",)
    passes = (0, 0)

    steps: int = 10
    step_size: float | str = "eps/4"
    tile: int | Shape | None = None
    organs: tuple[int, ...] | None = None
    target: Rule | None = None
    loss: str = "dicece"
    control: str = "none"
    scope: str = "volume"
    variant: str = "paper"

    @property
    def is_stochastic(self) -> bool:
        """True if the tile is drawn."""
        return self.control == "random"

    @property
    def learning_passes(self) -> tuple[int, int]:
        """One forward and one backward pass per step; with `least-likely` two forward passes."""
        steps = 0 if self.control == "random" else self.steps
        return steps * (2 if self.target == LEAST_LIKELY else 1), steps

    def learn(
        self,
        model: nn.Module,
        cases: Iterable[tuple[Tensor, Tensor]],
        window: Shape,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Runs the paper's iteration for `model` over `cases`, tiled in the `window`, or makes the draw of the null row
        by `generator`."""
        generator = generator or torch.Generator().manual_seed(0)
        image = next((image for image, _ in cases), None)
        if image is None:
            raise UserError(f"{self.name}: expected cases to learn from, got none: give one or more")
        sides = triple((self.tile,) * 3 if isinstance(self.tile, int) else self.tile or window)
        with torch.inference_mode(False), torch.enable_grad():
            tile = torch.zeros(len(self.channels or image), *sides, dtype=image.dtype, device=image.device)
            if self.control == "random":
                draw = torch.randn(tile.shape, generator=generator).to(tile)
                if self.norm == "l2":
                    return self.eps * _unit(draw)
                return torch.full_like(tile, self.eps).copysign(draw)
            step = step_length(self.step_size, self.eps)
            for _ in range(self.steps):
                gradient = torch.zeros_like(tile)
                for image, label in cases:
                    gradient += self._gradient(tile, model, image[None], label[None], generator)
                if self.norm == "linf":
                    tile = (tile + step * gradient.sign()).clamp(-self.eps, self.eps)
                else:
                    tile = tile + step * _unit(gradient)
                    tile = tile * (self.eps / rms(tile[None])[0].clamp(min=SLACK)).clamp(max=1).to(tile)
        return tile

    def perturb(self, task: Task) -> Tensor:
        """Adds the tile."""
        moved = _with_tile(task.clean, cast(Tensor, task.given.learned))
        return moved if self.norm == "linf" else l2_ball(task.clean, self.eps)(moved)

    def check_learned(self, learned: Tensor, num_channels: int) -> None:
        """Raises a UserError unless `learned` is a tile of the attacked channels, of `num_channels`, within eps."""
        channels = len(self.channels or range(num_channels))
        if learned.ndim != 4 or len(learned) != channels or not learned.numel():
            shape = "x".join(map(str, learned.shape))
            raise UserError(f"{self.name}: expected a learned tile [{channels}, h, w, d], got {shape}: learn it again")
        size = float(learned.abs().max() if self.norm == "linf" else rms(learned[None]))
        if not size <= self.eps + SLACK:
            raise UserError(
                f"{self.name}: expected a learned tile within eps = {self.eps:.6g}, got {size:.6g}: learn it again"
            )

    def _gradient(
        self, tile: Tensor, model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator
    ) -> Tensor:
        # so that a random defence draws anew in each step
        draws = torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=generator)))
        task = self.task(model, images, labels, generator=draws)
        with task.evaluation_mode():
            task.aim(self.loss, self.organs, self.target)
            return task.gradient(tile, lambda point: task.loss(_with_tile(task.clean, point)))


def _unit(tile: Tensor) -> Tensor:
    return unit_rms(tile[None])[0]


def _with_tile(clean: Tensor, tile: Tensor) -> Tensor:
    return (clean + repeated(tile, clean.shape[2:])).clamp(0, 1)
