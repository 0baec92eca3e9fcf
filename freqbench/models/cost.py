"""Counts a model's operations and memory on shapes alone, before anything is computed."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from freqbench.core import plugins
from freqbench.core.errors import UserError, one_line
from freqbench.models.loading import skeleton
from freqbench.models.networks import construction
from freqbench.models.spec import ModelSpec

# A frozen file, or a bundle whose code has to run, cannot be counted without computing: it counts as a UNet of the
# papers' size.
FROZEN_FLOPS = 10**12
FROZEN_BYTES = 2 << 30
GRAPH_BYTES = 4 << 30
"""Memory for the graphs that an attack on a volume's prediction keeps, so that the backward pass repeats no forward
pass; a GPU with more free memory gives more."""

_step_bytes: dict[str, int] = {}


def forward_flops(spec: ModelSpec) -> int:
    """Returns the floating-point operations of a forward pass over one window; a multiply-add counts as two."""
    if spec.members:
        return sum(map(forward_flops, spec.members))
    if spec.flops is not None:
        return spec.flops
    net = _countable(spec)
    return FROZEN_FLOPS if net is None else traced(spec, net)[0]


def step_bytes(spec: ModelSpec) -> int:
    """Returns the bytes of weights and all tensors of a forward pass over one window: an upper bound for a step."""
    if spec.step_bytes is not None:
        return spec.step_bytes
    if spec.model_id not in _step_bytes:  # a plan asks for every unit
        net = None if spec.members else _countable(spec)
        counted = FROZEN_BYTES if net is None else traced(spec, net)[1]
        _step_bytes[spec.model_id] = sum(map(step_bytes, spec.members)) if spec.members else counted
    return _step_bytes[spec.model_id]


def windows_in_graph(specs: Iterable[ModelSpec], available: int = GRAPH_BYTES) -> int:
    """Returns the number of windows whose graphs fit at once, of an attack that follows all these models."""
    return available // sum(step_bytes(spec) * spec.passes for spec in specs)


def _trace(spec: ModelSpec, net: nn.Module) -> None:
    arch, roi, size = spec.arch, spec.network_roi, "x".join(map(str, spec.network_roi))
    try:
        with torch.no_grad():
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


def traced(spec: ModelSpec, net: nn.Module) -> tuple[int, int]:
    """Returns what `forward_flops` and `step_bytes` do, of one window of shapes through a network on the meta device.

    Raises UserError if the network refuses it.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as flops, _CountBytes() as counter:  # type: ignore[no-untyped-call]
        _trace(spec, net)
    weights = sum(tensor.nbytes for tensor in (*net.parameters(), *net.buffers()))
    return int(flops.get_total_flops()), int(counter.total + weights)


def _countable(spec: ModelSpec) -> nn.Module | None:
    """Returns the network on the meta device; None if it cannot be built there."""
    if spec.source.weights is None:
        return None
    try:
        with plugins.trusting(spec.needs_trust):  # a class ran when it was resolved, so it may again
            return skeleton(spec)
    except UserError:
        if spec.source.is_known:
            raise
        return None  # its class is not trusted, or not in a file


class _CountBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the bytes of the tensors that operations return, without views."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returned = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.total += sum(leaf.nbytes for leaf in tree_leaves(returned) if isinstance(leaf, Tensor))
        return returned
