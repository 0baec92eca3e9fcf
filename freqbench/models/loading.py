"""Loads a spec: the network of its source, its weights, and the wrapper that attacks and metrics see."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from freqbench.core import plugins
from freqbench.core.errors import CheckpointError, UserError
from freqbench.models.examination import mended
from freqbench.models.networks.construction import counted
from freqbench.models.spec import ModelSpec
from freqbench.models.wrapper import MeanOfProbabilities, SegmentationModel


def load(spec: ModelSpec, device: torch.device, precision: str = "fp32", compile: bool = False) -> SegmentationModel:
    """Loads the model of a spec onto a device, in eval mode, its parameters without gradients.

    Raises CheckpointError or UserError if the checkpoint is not the one that was resolved, UserError for an unknown
    precision or untrusted code, StorageRefused or StorageUnavailable if object storage does not deliver it.
    """
    if spec.members:
        members = [load(member, device, precision, compile) for member in spec.members]
        return _wrapped(spec, MeanOfProbabilities(members)).to(device).eval()
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
    return _wrapped(spec, net, precision=precision, compile=compile, adapter=spec.input).to(device).eval()


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
    if spec.needs_trust:
        plugins.require_trust(f"{spec.name}: {spec.arch}")
    return spec.source.network(spec)


def _wrapped(spec: ModelSpec, net: nn.Module, **settings: Any) -> SegmentationModel:
    around: dict[str, Any] = {"inference": spec.inference, "defence": spec.defence, "adaptive": spec.adaptive}
    around |= {"class_map": spec.class_map, "outputs": spec.head}
    model = SegmentationModel(net, spec.roi, **around, **settings)
    model.name = spec.name
    return model
