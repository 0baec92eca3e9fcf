"""Combines a model's entry in a job with its checkpoint's metadata, before any network is made."""

from collections.abc import Sequence

from freqbench.core import plugins, storage
from freqbench.core.errors import CheckpointError, UserError, unknown
from freqbench.core.names import ALIASES
from freqbench.models.checkpoints import files as checkpoints
from freqbench.models.checkpoints import record
from freqbench.models.foreign import READERS
from freqbench.models.networks.architectures import MODELS
from freqbench.models.spec import ModelEntry, seed_of


def examined(entry: ModelEntry, class_names: Sequence[str] = ()) -> tuple[str, str, record.Record, bool]:
    """Returns the path of the weights, the architecture, the checkpoint's record, and True if the file has one.

    This is the part of `resolve` that makes no network.
    """
    path = _weights_path(entry)
    arch = "bundle" if entry.bundle else ALIASES["models"].get(str(entry.arch), entry.arch)
    says_nothing = seed_of(path) is not None or arch in READERS
    trained, is_own = (record.Record(), False) if says_nothing else record.read(path)
    record.require_order(entry.name, path, trained.class_names, class_names)
    return path, _agreed_arch(entry, arch, path, trained.arch), trained, is_own


def _weights_path(entry: ModelEntry) -> str:
    """Returns the path of a model's weights, variables filled in; for a network of the job, the planned weights."""
    if entry.is_to_train and not entry.trained:
        raise UserError(
            f"{entry.name}: expected the network of {entry.checkpoint} to be trained before the grid is made, got "
            "none: use freqbench run or freqbench.training.link"
        )
    path = storage.filled_in(str(entry.path), entry.name)
    if entry.trained:
        if not storage.exists(path):
            raise CheckpointError(
                f"{entry.name}: expected the weights of {entry.checkpoint} at {path}, found none: freqbench run JOB "
                "trains them again"
            )
        if (weights := checkpoints.weights_sha256(path)) != entry.trained.weights:
            raise CheckpointError(
                f"{entry.name}: expected the weights of {entry.checkpoint} that were planned with (sha256 "
                f"{entry.trained.weights[:12]}...), got others at {path} ({weights[:12]}...), as its training job was "
                "changed or carried out anew: put that file back, or freqbench run JOB for what is there now"
            )
    return path


def _agreed_arch(entry: ModelEntry, arch: str | None, path: str, trained: str | None) -> str:
    if arch is None and trained is None:
        raise UserError(f"{entry.name}: the checkpoint does not say its architecture: give arch: {', '.join(MODELS)}")
    if arch and trained and arch != trained:
        raise UserError(f"{entry.name}: arch is {arch} here, but {path} was trained as {trained}: leave arch out")
    agreed = str(arch or trained)
    if arch is None and plugins.names_class(agreed):
        raise UserError(
            f"{entry.name}: {path} was trained as {agreed}, code of another package, which a job must name itself: "
            f"give arch: {agreed}"
        )
    if agreed not in MODELS and agreed not in READERS and not plugins.names_class(agreed):
        raise UserError(unknown("architecture", agreed, [*MODELS, *READERS]))
    return agreed
