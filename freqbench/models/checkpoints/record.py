"""Combines a model's entry with its checkpoint's metadata, and warns of what speaks against scoring a model."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel, Field, PositiveInt

from freqbench.core import plugins
from freqbench.core.config import validate
from freqbench.core.errors import CheckpointError, UserError, unknown
from freqbench.core.files import storage
from freqbench.core.input_space import Preprocess, parse_intensity
from freqbench.core.types import CaseRef
from freqbench.models.checkpoints.files import read_metadata, weights_sha256
from freqbench.models.entry import AXES, COMMAND, ENSEMBLE, ModelEntry, seed_of
from freqbench.models.foreign import READERS
from freqbench.models.networks.architectures import MODELS
from freqbench.models.spec import ModelSpec

SHARE = {"train": "taught it (train)", "select": "chose its weights (select)"}


class Fingerprints(BaseModel):
    """Fingerprints of the cases that shaped the weights."""

    train: tuple[str, ...] = ()
    select: tuple[str, ...] = ()


class Training(BaseModel):
    """Part of the record of `freqbench.training` that is used here."""

    fingerprints: Fingerprints = Fingerprints()
    method: str | None = None


class Record(BaseModel):
    """Metadata of a checkpoint: untrusted, so checked; further keys are ignored."""

    arch: str | None = None
    args: dict[str, Any] | None = None
    num_classes: PositiveInt | None = None
    roi: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None
    preprocess: Preprocess | None = None
    class_names: tuple[str, ...] | None = None
    training: Training = Field(default_factory=Training)


def read(path: str) -> tuple[Record, bool]:
    """Returns the record of a checkpoint and True if it has one; raises UserError for malformed metadata."""
    metadata = read_metadata(path)
    return validate(metadata, Record, where=f"{path}: metadata"), bool(metadata)


class Origin(NamedTuple):
    """Weights that an entry names: their path, their architecture, the checkpoint's record, True if it has one."""

    path: str
    arch: str
    record: Record
    has_record: bool


def origin_of(entry: ModelEntry, class_names: Sequence[str] = ()) -> Origin:
    """Returns the origin of a model's weights: the part of `resolve` that makes no network, and refuses as it does."""
    path = _weights_path(entry)
    arch = entry.reader
    says_nothing = seed_of(path) is not None or arch in READERS
    trained, has_record = (Record(), False) if says_nothing else read(path)
    require_order(entry.name, path, trained.class_names, class_names)
    return Origin(path, _agreed_arch(entry, arch, path, trained.arch), trained, has_record)


def require_order(name: str, path: str, trained: Sequence[str] | None, class_names: Sequence[str]) -> None:
    """Refuses a network whose outputs are the dataset's classes in another order: scores would be of other organs."""
    ours, theirs = list(map(_plain, class_names)), list(map(_plain, trained or ()))
    if ours != theirs and sorted(ours) == sorted(theirs):
        raise UserError(
            f"{name}: expected a network for the classes {', '.join(class_names)}, but {path} was trained on the same "
            f"in another order: {', '.join(trained or ())}: give the dataset's labels in that order"
        )


def concerns(
    model: ModelSpec, dataset: str, class_names: Sequence[str], refs: Sequence[CaseRef], space: Preprocess
) -> Iterator[str]:
    """Yields one line per reason to doubt scores of a model on cases of a dataset, whose preprocessing is `space`."""
    if model.is_random or model.arch in (*READERS, ENSEMBLE):
        return
    record, _ = read(model.checkpoint)
    trained = record.preprocess
    if trained and model.space == trained and parse_intensity(trained.intensity) != parse_intensity(space.intensity):
        yield (
            f"{model.name}: expected the intensity {trained.intensity} that it was trained on, got {space.intensity} "
            f"of {dataset}: it is attacked and scored in the space of its training; give {dataset} the same, or state "
            "preprocess and input of the model"
        )
    names = list(record.class_names or ())[: len(class_names)]
    pairs = list(zip(names, class_names[: len(names)], strict=True))
    others = [(theirs, ours) for theirs, ours in pairs if _plain(theirs) != _plain(ours)]
    if others:
        theirs, ours = others[0]
        yield (
            f"{model.name}: {len(others)} of its {len(pairs)} classes are called otherwise in {dataset} (first: "
            f"{theirs!r} there is {ours!r} here): check that they are the same"
        )
    scored = {ref.fingerprint for ref in refs}
    seen = {role: len(scored.intersection(taught)) for role, taught in record.training.fingerprints}
    shares = [f"{count} of {len(refs)} cases of {dataset} {SHARE[role]}" for role, count in seen.items() if count]
    if shares:
        yield f"{model.name}: {' and '.join(shares)}: scores on them are flattered"


def axes_notes(model: ModelSpec, dataset: str, refs: Sequence[CaseRef]) -> Iterator[str]:
    """Yields a line on the axes that a network is assumed to take, beside those of a dataset's files.

    Networks of freqbench's own record, untrained ones and commands, which are given a header, yield none.
    """
    first = model.members[0] if model.members else model
    if first.is_random or first.arch == COMMAND or (first.arch not in READERS and read(first.checkpoint)[1]):
        return
    found = Counter(ref.axes for ref in refs)
    files = f"files of {dataset} lie towards {', '.join(f'{codes} ({count})' for codes, count in found.items())}"
    if first.input.is_of_file:
        yield f"{model.name}: is given each file as it lies, its axes in the order {first.input.axes}: {files}"
    elif first.input.axes != AXES:
        yield f"{model.name}: is assumed to take axes towards {first.input.codes}; each file is turned to them: {files}"
    elif found.keys() != {"RAS"}:
        yield (
            f"{model.name}: is assumed to take axes towards RAS; each file is turned to them: {files}: set input: "
            "{axes: IJK} if it was trained on files as they lie"
        )


def _plain(name: str) -> str:
    return name.casefold().replace("_", " ")


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
        if (weights := weights_sha256(path)) != entry.trained.weights:
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
