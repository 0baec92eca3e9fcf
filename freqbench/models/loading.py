"""From a spec to its network, and to the model that attacks and predicts."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from freqbench.core import plugins, storage
from freqbench.core.errors import CheckpointError, UserError
from freqbench.core.types import Shape
from freqbench.models.adapter import Description
from freqbench.models.checkpoints import files as checkpoints
from freqbench.models.checkpoints import migrations
from freqbench.models.defences.model import DefendedModel
from freqbench.models.ensemble import MeanOfProbabilities
from freqbench.models.foreign import bundle, frozen, nnunet
from freqbench.models.networks import architectures
from freqbench.models.spec import FROZEN, ModelSpec
from freqbench.models.wrapper import SegmentationModel

# Folders and files of other frameworks, each by the module that reads it.
READERS: Mapping[str, ModuleType] = {
    "nnunet": nnunet,
    "bundle": bundle,
    "torchscript": frozen,
    "torch_export": frozen,
}

FOLDERS: Mapping[str, ModuleType] = {"nnunet": nnunet, "bundle": bundle}


def load(spec: ModelSpec, device: torch.device, precision: str = "fp32", compile: bool = False) -> SegmentationModel:
    """The model of a spec on a device, in eval mode, its parameters without gradients.

    Args:
        spec: from `resolve`.
        device: where it is to run.
        precision: `fp32`, `tf32` or `bf16`.
        compile: run the network through `torch.compile`.

    Raises:
        CheckpointError: the checkpoint is not the one that was resolved.
        UserError: likewise, of a URI; or it needs code that is not trusted.
        StorageRefused, StorageUnavailable: object storage does not give it.
    """
    if spec.members:
        members = [load(member, device, precision, compile) for member in spec.members]
        return _behind_defence(spec, MeanOfProbabilities(members)).to(device).eval()
    given = spec.checkpoint
    if not spec.is_random:
        # From here on the files that were looked at, whatever is put in their place meanwhile.
        spec = replace(spec, checkpoint=located(spec.arch, given, spec.args, spec.checkpoint_sha256))
    with named(given, spec.checkpoint):
        if not spec.is_random and content_sha256(spec) != spec.checkpoint_sha256:
            raise CheckpointError(
                f"{spec.name}: {given} is not the file that was planned with (sha256 "
                f"{spec.checkpoint_sha256[:12]}...): put that file back or plan anew"
            )
        net = network(spec)
        if not spec.is_random and spec.arch not in FROZEN:
            # Strict, and casts float16 weights to the network's float32.
            net.load_state_dict(weights(spec, net.state_dict()))
    net.requires_grad_(False)
    model = _behind_defence(spec, net, precision=precision, compile=compile, adapter=spec.input)
    return model.to(device).eval()


def _behind_defence(spec: ModelSpec, net: nn.Module, **settings: Any) -> SegmentationModel:
    """The model of a network, and where the spec has a defence, that behind it."""
    if spec.defence is None:
        return SegmentationModel(net, spec.roi, inference=spec.inference, **settings)
    return DefendedModel(net, spec.roi, spec.defence, spec.adaptive, inference=spec.inference, **settings)


def located(arch: str, path: str, args: Mapping[str, Any], sha256: str | None = None) -> str:
    """Where a checkpoint's file or folder is on this machine: one at a URI is fetched to the node's cache.

    Args:
        arch: of its model.
        path: a path, URI or `zoo://DATASET/NAME`.
        args: of a reader, which say what of a folder is wanted.
        sha256: that a file must have; None: whatever is there.

    Raises:
        UserError: nothing is there, or not the file that is wanted.
        StorageRefused, StorageUnavailable: object storage does not give it.
    """
    path = checkpoints.locate(path)
    if storage.is_local(path):
        return storage.local_path(path)
    if arch in FOLDERS:
        return str(storage.fetch_folder(path, FOLDERS[arch].files(args)))
    return str(storage.fetch(path, sha256))


@contextmanager
def named(given: str, local: str) -> Iterator[None]:
    """Errors that name the copy of a checkpoint name what the job gave."""
    try:
        yield
    except UserError as error:
        if local in (given, ""):
            raise
        raise type(error)(str(error).replace(local, given)) from None


def network(spec: ModelSpec) -> nn.Module:
    """The bare network on the CPU, its weights not loaded (a frozen file has them).

    Raises:
        UserError: its class refuses the arguments, is not the one that was resolved, or needs code that is not trusted.
    """
    if spec.needs_trust:
        plugins.require_trust(f"{spec.name}: {spec.arch}")
    if spec.arch in READERS:
        net: nn.Module = READERS[spec.arch].network(spec.checkpoint, spec.args)
        return net
    if plugins.names_class(spec.arch):
        cls: type[nn.Module] = plugins.load_class(spec.arch, nn.Module)
        if plugins.provenance(cls).get("source_sha256") != spec.code_sha256:
            raise UserError(f"{spec.name}: {spec.arch} is not the code that was planned with: plan anew")
        return architectures.build_class(cls, spec.args, spec.seed or 0)
    return architectures.build(
        spec.arch,
        spec.num_classes,
        network_roi(spec),
        spec.args,
        spec.seed or 0,
        spec.num_channels,
        _migration(spec).extra,
    )


def skeleton(spec: ModelSpec) -> nn.Module:
    """The bare network on the meta device, shapes and keys alone; not of a frozen file, which has a device of its own.

    Raises:
        UserError: as `network`.
    """
    if spec.arch in architectures.MODELS:
        return architectures.skeleton(
            spec.arch, spec.num_classes, network_roi(spec), spec.args, spec.num_channels, _migration(spec).extra
        )
    # Constructors of others may read numbers off tensors, which the meta device does not have.
    return network(spec).to("meta").eval()


def trace(spec: ModelSpec, net: nn.Module) -> None:
    """Send one window of shapes through a network on the meta device.

    Raises:
        UserError: it cannot take such a window, or its logits are not those of the dataset's classes.
    """
    architectures.trace(spec.arch, net, spec.num_classes, network_roi(spec), spec.num_channels)


def weights(spec: ModelSpec, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a checkpoint under the network's names, migrated.

    Args:
        spec: of a network that is not frozen.
        wanted: the network's state dict; the meta device will do.
    """
    if spec.arch in READERS:
        found: dict[str, Tensor] = READERS[spec.arch].state_dict(spec.checkpoint, spec.args)
        return found
    found = checkpoints.read_state_dict(spec.checkpoint, wanted)
    return _migration(spec).convert(found, wanted)


def content_sha256(spec: ModelSpec) -> str:
    """SHA-256 of what a model is read from: a file, or the files of a folder."""
    if spec.arch in READERS:
        found: Description = READERS[spec.arch].describe(spec.checkpoint, spec.args)
        return found.sha256
    return checkpoints.content_sha256(spec.checkpoint)


def network_roi(spec: ModelSpec) -> Shape:
    """The window in the network's axis order."""
    return spec.input.in_network_order(spec.roi)


def _migration(spec: ModelSpec) -> migrations.Migration:
    return migrations.migrations_of(spec.arch)[spec.migration or migrations.NONE]
