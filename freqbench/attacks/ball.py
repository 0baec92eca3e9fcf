"""Any change of a kind that adds up, in the ball that a certificate speaks of."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from freqbench.attacks.apgd import Space
from freqbench.attacks.core.acquisition import AcquisitionAttack
from freqbench.attacks.core.base import clamps_last
from freqbench.attacks.core.parameters import ACQUISITION, BALL, PARAMETERS, RANDOM_CONTROL, SEARCH, ByParameters
from freqbench.attacks.core.task import Task
from freqbench.ops.changes import CHANGES

SETS = {
    "voxels": "l2",
    "bias_field": "bias-field-l2",
    "gain_offset": "gain-offset-l2",
    "dct_bands": "dct-bands-l2",
}


@dataclass(frozen=True, kw_only=True)
class Ball(AcquisitionAttack):
    r"""The most harmful change of a kind T of `freqbench.ops.changes` whose parameters have a bounded Euclidean norm.

    .. math:: a = T_c(x), \qquad \lVert c \rVert_2 \le radius

    With the defence `smoothing` of the same kind, a certificate bounds from below what this attack can leave. The
    volume is then clamped by the network alone, after its own draw: a clamp between the two would cut what the draw
    brings back. On any other network the volume is clamped to [0, 1].

    Args:
        kind: `voxels` (added to intensities), `bias_field` (64 control points of a channel's log field),
            `gain_offset` (logarithm of the gain, offset on the [0, 1] scale) or `dct_bands` (logarithms of the
            multipliers of four radial bands, shared by all blocks of a channel).
        radius: Euclidean norm of all parameters of the volume together.

    `start` and `state`: c, `[B, ...]`.
    """

    name = "ball"
    threat_model = ByParameters("bias-field-l2", lambda attack: SETS[attack.kind])
    budget_name = "radius"
    parameters = PARAMETERS | SEARCH | ACQUISITION | {"control": RANDOM_CONTROL} | BALL
    scopes = ("volume",)

    kind: str
    radius: float
    scope: str = "volume"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.filter is not None:
            self.refuse("filter", f"expected none, got {self.filter!r}: a part of a change is another change")

    def check_channels(self, num_channels: int) -> None:
        """Checks also that the kind has a certificate for so many channels."""
        super().check_channels(num_channels)
        CHANGES[self.kind].layout((num_channels, 1, 1, 1))

    def space(self, clean: Tensor) -> Space:
        """Returns the ball of parameters; volumes are clamped."""
        change = CHANGES[self.kind]
        layout = change.layout(clean.shape[1:])
        apply, radius = change.on(clean), clean.new_tensor(self.radius)
        return Space(
            centre=clean.new_zeros(len(clean), *layout),
            radius=radius,
            project=lambda c: c * (radius / _norm(c)).clamp(max=1),
            render=lambda c: apply(clean, c).clamp(0, 1),
            towards=lambda gradient: gradient / _norm(gradient),
        )

    def perturb(self, task: Task) -> Tensor:
        """Searches as the other acquisition attacks do; leaves the clamp to a network that clamps last."""
        space = self.space(task.clean)
        if clamps_last(task.model):
            apply = CHANGES[self.kind].on(task.clean)
            space = replace(space, render=lambda c: apply(task.clean, c))
        return self.search(task, space)

    def excess(self, clean: Tensor, adversarial: Tensor, state: Tensor | None) -> float:
        """Compares the volumes after the clamp."""
        return super().excess(clean, adversarial.clamp(0, 1), state)

    def beyond(self, state: Tensor) -> float:
        """Amount by which the norm exceeds the radius."""
        return float(_norm(state).max()) - self.radius


def _norm(c: Tensor) -> Tensor:
    """Euclidean norm of each sample, `[B, 1, ...]`; the least positive number for zeros."""
    norm: Tensor = torch.linalg.vector_norm(c.flatten(1), dim=1).clamp(min=torch.finfo(c.dtype).tiny)
    return norm.reshape(-1, *[1] * (c.ndim - 1))
