"""Loads a spec: its network, its checkpoint's weights, and the wrapper that attacks and metrics see."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from freqbench.core import plugins
from freqbench.core.errors import CheckpointError, UserError
from freqbench.core.files import storage
from freqbench.models.checkpoints import files as checkpoints
from freqbench.models.checkpoints import migrations
from freqbench.models.entry import COMMAND, FROZEN
from freqbench.models.examination import mended
from freqbench.models.foreign import READERS
from freqbench.models.foreign.common import Description
from freqbench.models.networks import construction
from freqbench.models.networks.architectures import MODELS
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
    stated = spec.checkpoint
    if not spec.is_random:
        # The copy that was checked is used from here on, even if another file replaces the original meanwhile.
        spec = replace(spec, checkpoint=located(spec.arch, stated, spec.args, spec.checkpoint_sha256))
    with naming(stated, spec.checkpoint):
        if not spec.is_random and _content_sha256(spec) != spec.checkpoint_sha256:
            raise CheckpointError(
                f"{spec.name}: {stated} is not the file that was planned with (sha256 "
                f"{spec.checkpoint_sha256[:12]}...): put that file back or plan anew"
            )
        net = _network(spec)
        if not spec.is_random and spec.arch not in FROZEN:
            # Strict, and casts float16 weights to the network's float32.
            wanted = net.state_dict()
            net.load_state_dict(_migration_of(spec).convert(placed(spec, wanted)[0], wanted))
    net = mended(net, spec.yields, spec.singly)
    net.requires_grad_(False)
    compile = compile and spec.black_box is None
    return _wrapped(spec, net, precision=precision, compile=compile, adapter=spec.input).to(device).eval()


def skeleton(spec: ModelSpec) -> nn.Module:
    """Returns the bare network on the meta device, shapes and keys only; not for frozen files.

    Raises UserError if its class refuses the arguments, is not the one that was resolved, or is not trusted.
    """
    with construction.counted():
        if spec.arch in MODELS:
            with torch.device("meta"):
                return _network(spec).eval()
        # Constructors of third-party networks may read numbers off tensors, which the meta device does not have.
        return _network(spec).to("meta").eval()


def located(arch: str, path: str, args: Mapping[str, Any], sha256: str | None = None) -> str:
    """Returns a checkpoint's path on this machine; fetches a URI to the node's cache, by its `sha256` if given."""
    if arch == COMMAND:
        return path
    path = checkpoints.locate(path)
    if storage.is_local(path):
        return storage.local_path(path)
    if arch in READERS and arch not in FROZEN:
        return str(storage.fetch_folder(path, READERS[arch].files(args)))
    return str(storage.fetch(path, sha256))


@contextmanager
def naming(given: str, local: str) -> Iterator[None]:
    """Renames a checkpoint's local copy in errors to the path that the job gave."""
    try:
        yield
    except UserError as error:
        if local in (given, ""):
            raise
        raise type(error)(str(error).replace(local, given)) from None


def placed(spec: ModelSpec, wanted: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str | None]:
    """Returns the weights of a checkpoint under the network's names, without a migration, and a note on their place."""
    if spec.arch in READERS:
        weights: dict[str, Tensor] = READERS[spec.arch].state_dict(spec.checkpoint, spec.args)
        return weights, None
    found = checkpoints.read_placed(spec.checkpoint, wanted, spec.prefix)
    return found.weights, found.note


def _content_sha256(spec: ModelSpec) -> str:
    """Returns the SHA-256 of the file, or of the folder's files, that a model is read from."""
    if spec.arch in READERS:
        description: Description = READERS[spec.arch].describe(spec.checkpoint, spec.args)
        return description.sha256
    return checkpoints.content_sha256(spec.checkpoint)


def _migration_of(spec: ModelSpec) -> migrations.Migration:
    """Returns the migration that maps the checkpoint's names to the network's."""
    return migrations.migrations_of(spec.arch)[spec.migration or migrations.NONE]


def _wrapped(spec: ModelSpec, net: nn.Module, **settings: Any) -> SegmentationModel:
    around: dict[str, Any] = {"inference": spec.inference, "defence": spec.defence, "adaptive": spec.adaptive}
    around["class_map"] = spec.class_map
    model = SegmentationModel(net, spec.roi, **around, **settings)
    model.name = spec.name
    return model


def _network(spec: ModelSpec) -> nn.Module:
    """Builds the bare network on the CPU without loading its weights (a frozen file brings them)."""
    if spec.needs_trust:
        plugins.require_trust(f"{spec.name}: {spec.arch}")
    if spec.arch in READERS:
        local = located(spec.arch, spec.checkpoint, spec.args)  # only `load` has put the copy into the spec
        net: nn.Module = READERS[spec.arch].network(local, spec.args)
        return net
    seed = spec.seed or 0
    if plugins.names_class(spec.arch):
        cls: type[nn.Module] = plugins.load_class(spec.arch, nn.Module)
        if plugins.provenance(cls).get("source_sha256") != spec.code_sha256:
            raise UserError(f"{spec.name}: {spec.arch} is not the code that was planned with: plan anew")
        with construction.seeded(seed), construction.refusing(f"{cls.__name__} refuses its args", (Exception,)):
            return cls(**spec.args)
    roi, extra = spec.network_roi, _migration_of(spec).extra
    return construction.build(spec.arch, spec.outputs, roi, spec.args, seed, spec.num_channels, extra)
