"""Counts a model's operations and memory on shapes alone, before anything is computed."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from freqbench.core.errors import UserError, one_line
from freqbench.models.networks import construction
from freqbench.models.spec import ModelSpec

# A frozen file cannot be counted without computing: it counts as a UNet of the papers' size.
FROZEN_FLOPS = 10**12
FROZEN_BYTES = 2 << 30
GRAPH_BYTES = 4 << 30
"""Memory for the graphs that an attack on a volume's prediction keeps, so that the backward pass repeats no forward
pass; a GPU with more free memory gives more."""


def forward_flops(spec: ModelSpec) -> int:
    """Returns the floating-point operations of a forward pass over one window; a multiply-add counts as two."""
    if spec.members:
        return sum(map(forward_flops, spec.members))
    return FROZEN_FLOPS if spec.flops is None else spec.flops


def step_bytes(spec: ModelSpec) -> int:
    """Returns the bytes of weights and all tensors of a forward pass over one window: an upper bound for a step."""
    if spec.members:
        return sum(map(step_bytes, spec.members))
    return FROZEN_BYTES if spec.step_bytes is None else spec.step_bytes


def windows_in_graph(specs: Iterable[ModelSpec], available: int = GRAPH_BYTES) -> int:
    """Returns the number of windows whose graphs fit at once, of an attack that follows all these models."""
    return available // sum(step_bytes(spec) * spec.passes for spec in specs)


def traced(spec: ModelSpec, net: nn.Module) -> tuple[int, int]:
    """Counts operations and bytes, as the spec has them, of one window of shapes through a network on the meta device.

    Raises UserError if the network refuses it.
    """
    from torch.utils.flop_counter import FlopCounterMode

    arch, roi, size = spec.arch, spec.network_roi, "x".join(map(str, spec.network_roi))
    counting_flops, counting_bytes = FlopCounterMode(display=False), _CountBytes()  # type: ignore[no-untyped-call]
    try:
        with torch.no_grad(), counting_flops as flops, counting_bytes as counter:
            logits = net(torch.empty(1, spec.num_channels, *roi, device="meta"))
    except construction.REFUSALS as error:
        if "more than 1 spatial element" in str(error):
            raise UserError(
                f"{arch}: a roi of {size} shrinks to a single voxel inside the network, which instance norm cannot "
                "take: enlarge the roi or use fewer strides"
            ) from None
        raise UserError(f"{arch}: a roi of {size} does not pass through the network: {one_line(error)}") from None
    expected = (1, spec.outputs, *roi)
    got = tuple(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
    if got != expected:
        raise UserError(f"{arch}: expected logits of shape {expected}, got {got}: check args and roi")
    weights = sum(tensor.nbytes for tensor in (*net.parameters(), *net.buffers()))
    return int(flops.get_total_flops()), int(counter.total + weights)


class _CountBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the bytes of the tensors that operations return, without views."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returned = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.total += sum(leaf.nbytes for leaf in tree_leaves(returned) if isinstance(leaf, Tensor))
        return returned
