"""Any change of a kind that adds up, in the ball that a certificate speaks of."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from freqbench.attacks.apgd import Space
from freqbench.attacks.core.attack import clamps_last
from freqbench.attacks.core.parameters import ACQUISITION, BALL, PARAMETERS, RANDOM_CONTROL, SEARCH
from freqbench.attacks.core.searched import SearchedAttack
from freqbench.attacks.core.task import Task
from freqbench.core.errors import UserError
from freqbench.ops.changes import CHANGES

SETS = {
    "voxels": "l2",
    "bias_field": "bias-field-l2",
    "gain_offset": "gain-offset-l2",
    "dct_bands": "dct-bands-l2",
    "fourier_shift": "fourier-shift-l2",
    "voxel_shift": "voxel-shift-l2",
}
SHIFTS = ("fourier_shift", "voxel_shift")
FARTHEST = 32  # voxels: some 140,000 shifts
DIRECTIONS = 16


@dataclass(frozen=True, kw_only=True)
class Ball(SearchedAttack):
    r"""The most harmful change of a kind T of `freqbench.ops.changes` whose parameters have a bounded Euclidean norm.

    .. math:: a = T_c(x), \qquad \lVert c \rVert_2 \le radius

    With the defence `smoothing` of the same kind, a certificate bounds from below what this attack can leave. The
    volume is then clamped by the network alone, after its own draw: a clamp between the two would cut what the draw
    brings back. On any other network the volume is clamped to [0, 1].

    Whole shifts have no gradient, but their number is finite: the attack tries all of the ball. Of a gain and an offset
    it tries 16 directions at the full radius, as both numbers of a gradient drown in the network's draws. A randomised
    network answers each pass with other draws, so candidates compete in rounds: each candidate left gets equally many
    forward passes, `steps` together and one each at least, and the half of lower median Dice over all its passes goes
    on, on more passes each (sequential halving, Karnin et al., ICML 2013). A certificate is about the Dice of single
    draws: an `eot` of 1 in the defence shows each pass one.

    Args:
        kind: `voxels` (added to intensities), `bias_field` (64 control points of a channel's log field),
            `gain_offset` (logarithm of the gain, offset on the [0, 1] scale), `dct_bands` (logarithms of the
            multipliers of four radial bands, shared by all blocks of a channel), `fourier_shift` (voxels along each
            axis, shared by all channels) or `voxel_shift` (the same in whole numbers). Labels stay where they are.
        steps: gradient steps; forward passes of a round where candidates compete.
        radius: Euclidean norm of all parameters of the volume together.

    `start` and `state`: c, `[B, ...]`.
    """

    name = "ball"
    budget_name = "radius"
    parameters = PARAMETERS | SEARCH | ACQUISITION | {"control": RANDOM_CONTROL} | BALL
    scopes = ("volume",)
    revision = 2

    kind: str
    radius: float
    scope: str = "volume"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind == "voxel_shift":
            if self.keep != "best":
                self.refuse("keep", f"expected best, got {self.keep}: of shifts that are tried, the last is any one")
            if self.radius and not 1 <= self.radius <= FARTHEST:
                self.refuse("radius", f"expected 0, or 1 to {FARTHEST} voxels for voxel_shift, got {self.radius:g}")

    @property
    def threat_model(self) -> str:
        """`bias-field-l2`, or that of another kind."""
        return SETS[self.kind]

    @property
    def rounds(self) -> list[tuple[int, int]]:
        """Number of candidates in each round, and forward passes of each; empty where a gradient leads."""
        if self.control != "none" or self.kind not in ("voxel_shift", "gain_offset"):
            return []
        count = DIRECTIONS if self.kind == "gain_offset" else len(whole_shifts(self.radius))
        rounds = []
        while count > 1:
            rounds.append((count, -(-self.steps // count)))
            count = -(-count // 2)
        return rounds

    @property
    def run_passes(self) -> tuple[int, int]:
        """The forward passes of all rounds, and no backward pass, if candidates compete."""
        if self.kind == "voxel_shift" or self.rounds:
            return sum(count * looks for count, looks in self.rounds), 0
        return super().run_passes

    def check_channels(self, num_channels: int) -> None:
        """Checks also that the kind has a certificate for `num_channels` channels."""
        super().check_channels(num_channels)
        if self.kind in SHIFTS and self.channels is not None:
            self.refuse("channels", f"expected none, got {list(self.channels)}: a shift moves all channels alike")
        CHANGES[self.kind].layout((num_channels, 1, 1, 1))

    def space(self, clean: Tensor) -> Space:
        """Returns the ball of parameters for `clean` volumes; volumes are clamped."""
        change = CHANGES[self.kind]
        layout = change.layout(clean.shape[1:])
        apply = change.on(clean)
        radius = clean.new_tensor(self.radius)
        return Space(
            centre=clean.new_zeros(len(clean), *layout),
            radius=radius,
            project=lambda c: c * (radius / _norm(c)).clamp(max=1),
            render=lambda c: apply(c).clamp(0, 1),
            towards=lambda gradient: gradient / _norm(gradient),
        )

    def searched(self, task: Task) -> Space:
        """Returns the ball; the volumes are not clamped for a network that clamps last."""
        space = self.space(task.clean)
        return replace(space, render=CHANGES[self.kind].on(task.clean)) if clamps_last(task.model) else space

    def null_row(self, task: Task, space: Space) -> Tensor:
        """Returns a random point on the sphere; of whole shifts one of the longest."""
        return self.in_order(task)[:, 0] if self.kind == "voxel_shift" else super().null_row(task, space)

    def in_order(self, task: Task) -> Tensor:
        """Whole shifts of the ball `[B, M, 3]`, longest first; those of equal length in random order."""
        shifts = whole_shifts(self.radius).to(task.clean)
        length = shifts.square().sum(1).expand(len(task.clean), -1)  # whole numbers
        order = length + task.draw(torch.rand, (len(shifts),)) if self.is_stochastic else length
        return shifts[order.argsort(dim=1, descending=True, stable=True)]

    def search(self, task: Task, space: Space, run: int = 0) -> Tensor:
        """Runs the search once, or lets candidates compete."""
        if self.kind not in ("voxel_shift", "gain_offset"):
            return super().search(task, space, run)
        if task.given.start is not None:
            raise UserError(f"ball: expected no start for {self.kind}, which has its own candidates: leave it out")
        left = self.in_order(task) if self.kind == "voxel_shift" else self.around(task)
        values = torch.empty(*left.shape[:2], 0, dtype=torch.double, device=left.device)
        for count, looks in self.rounds:
            looked = []
            for place in range(count):
                volumes = space.render(left[:, place])
                looked.append(torch.stack([task.success(volumes) for _ in range(looks)], dim=1))
            values = torch.cat([values, torch.stack(looked, dim=1).to(values)], dim=2)  # [B, M, looks so far]
            order = values.quantile(0.5, dim=2).argsort(dim=1, descending=True, stable=True)
            best = order[:, : -(-count // 2)]
            sample = torch.arange(len(left), device=left.device)[:, None]
            left = left[sample, best]
            values = values[sample, best]
        return left[:, 0]

    def around(self, task: Task) -> Tensor:
        """Gains and offsets on the edge of the ball, `[B, M, 1, 2]`, from a random direction on if it draws."""
        first = task.draw(torch.rand, (1,)) if self.is_stochastic else task.clean.new_zeros(len(task.clean), 1)
        angles = 2 * math.pi / DIRECTIONS * (torch.arange(DIRECTIONS).to(task.clean) + first)
        return self.radius * torch.stack([angles.cos(), angles.sin()], dim=-1)[:, :, None]

    def excess(self, clean: Tensor, adversarial: Tensor, state: Tensor | None) -> float:
        """Compares the `adversarial` volumes with those of the `state`, of the `clean` ones, after the clamp."""
        return super().excess(clean, adversarial.clamp(0, 1), state)

    def beyond(self, state: Tensor) -> float:
        """Amount by which the norm of a `state` exceeds the radius."""
        return float(_norm(state).max()) - self.radius


def whole_shifts(radius: float) -> Tensor:
    """Returns all shifts by whole voxels of a norm of `radius` or less, `[M, 3]`."""
    reach = torch.arange(-math.floor(radius), math.floor(radius) + 1.0)
    shifts = torch.cartesian_prod(reach, reach, reach)
    return shifts[shifts.double().norm(dim=1) <= radius]


def _norm(c: Tensor) -> Tensor:
    """Euclidean norm of each sample, `[B, 1, ...]`; the least positive number for zeros."""
    norm: Tensor = torch.linalg.vector_norm(c.flatten(1), dim=1).clamp(min=torch.finfo(c.dtype).tiny)
    return norm.reshape(-1, *[1] * (c.ndim - 1))
