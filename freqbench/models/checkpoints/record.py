"""Reads the metadata of freqbench's own checkpoints, and warns of what speaks against scoring a model."""

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel, Field, PositiveInt

from freqbench.core.config import validate
from freqbench.core.errors import UserError
from freqbench.core.input_space import Preprocess, parse_intensity
from freqbench.core.types import CaseRef
from freqbench.models.checkpoints.files import read_metadata
from freqbench.models.foreign import READERS
from freqbench.models.spec import ENSEMBLE, ModelSpec

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
    roi: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None
    preprocess: Preprocess | None = None
    class_names: tuple[str, ...] | None = None
    training: Training = Field(default_factory=Training)


def read(path: str) -> tuple[Record, bool]:
    """Returns the record of a checkpoint and True if it has one; raises UserError for malformed metadata."""
    metadata = read_metadata(path)
    return validate(metadata, Record, where=f"{path}: metadata"), bool(metadata)


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


def _plain(name: str) -> str:
    return name.casefold().replace("_", " ")
