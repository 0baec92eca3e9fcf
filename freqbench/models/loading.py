"""Loads a spec: the network of its source, its weights, its wrapper for attacks; or counts the network on shapes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from freqbench.core import plugins
from freqbench.core.errors import CheckpointError, UserError, one_line
from freqbench.models.examination import mended
from freqbench.models.networks.construction import REFUSALS, counted
from freqbench.models.spec import ModelSpec
from freqbench.models.wrapper import MeanOfLogits, MeanOfProbabilities, SegmentationModel


def load(spec: ModelSpec, device: torch.device, precision: str = "fp32", compile: bool = False) -> SegmentationModel:
    """Loads the model of a spec onto a device, in eval mode, its parameters without gradients.

    Raises CheckpointError or UserError if the checkpoint is not the one that was resolved, UserError for an unknown
    precision or untrusted code, StorageRefused or StorageUnavailable if object storage does not deliver it.
    """
    if spec.members:
        members = [load(member, device, precision, compile) for member in spec.members]
        mean = MeanOfLogits if spec.averages == "logits" else MeanOfProbabilities
        return wrapped(spec, mean(members)).to(device).eval()
    source, stated = spec.source, spec.checkpoint
    # The copy that was checked is used from here on, even if another file replaces the original meanwhile.
    spec = replace(spec, checkpoint=source.located(stated, spec.args, spec.checkpoint_sha256))
    with naming(stated, spec.checkpoint):
        if not spec.is_random and source.sha256(spec.checkpoint, spec.args) != spec.checkpoint_sha256:
            raise CheckpointError(
                f"{spec.name}: {stated} is not the file that was planned with (sha256 "
                f"{spec.checkpoint_sha256[:12]}...): put that file back or plan anew"
            )
        net = _network(spec)
        if source.weights and not spec.is_random:
            # Strict, and casts float16 weights to the network's float32.
            net.load_state_dict(source.weights(spec, net.state_dict())[0])
    net = mended(net, spec.yields, spec.singly, spec.head)
    net.requires_grad_(False)
    compile = compile and spec.black_box is None
    return wrapped(spec, net, precision=precision, compile=compile, adapter=spec.input).to(device).eval()


def skeleton(spec: ModelSpec) -> nn.Module:
    """Returns the bare network on the meta device, shapes and keys only; not of a source without `weights`.

    Raises UserError if its class refuses the arguments, is not the one that was resolved, is not trusted, or has no
    parameters.
    """
    with counted():
        if spec.source.is_known:
            with torch.device("meta"):
                net = _network(spec).eval()
        else:  # constructors of third-party networks may read numbers off tensors, which the meta device does not have
            net = _network(spec).to("meta").eval()
    if next(net.parameters(), None) is None:
        raise UserError(f"{spec.name}: {spec.arch}: expected a network with parameters, found none: add one")
    return net


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
    except REFUSALS as error:
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


@contextmanager
def naming(given: str, local: str) -> Iterator[None]:
    """Renames a checkpoint's local copy in errors to the path that the job gave."""
    try:
        yield
    except UserError as error:
        if local in (given, ""):
            raise
        raise type(error)(str(error).replace(local, given)) from None


def _network(spec: ModelSpec) -> nn.Module:
    """Builds the bare network on the CPU without loading its weights (a frozen file brings them)."""
    if spec.needs_trust and not plugins.is_installed(spec.arch):
        plugins.require_trust(f"{spec.name}: {spec.arch}")
    return spec.source.network(spec)


def wrapped(spec: ModelSpec, net: nn.Module, **settings: Any) -> SegmentationModel:
    """Wraps a network by its spec; `settings` are further arguments of SegmentationModel."""
    around: dict[str, Any] = {"inference": spec.inference, "defence": spec.defence, "adaptive": spec.adaptive}
    around |= {"class_map": spec.class_map, "outputs": spec.head}
    model = SegmentationModel(net, spec.roi, **around, **settings)
    model.name = spec.name
    return model
