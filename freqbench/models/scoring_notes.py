"""Warns of what speaks against scoring a model on a dataset, and says which axes its network is given."""

from collections import Counter
from collections.abc import Iterator, Sequence

from freqbench.core.input_space import Preprocess, parse_intensity
from freqbench.core.types import CaseRef
from freqbench.models.entry import AXES
from freqbench.models.resolving import plain_name
from freqbench.models.sources.source import Facts
from freqbench.models.spec import ModelSpec

SHARE = {"train": "taught it (train)", "select": "chose its weights (select)"}


def concerns(
    model: ModelSpec,
    facts: Facts,
    dataset: str,
    class_names: Sequence[str],
    refs: Sequence[CaseRef],
    space: Preprocess,
) -> Iterator[str]:
    """Yields one line per reason to doubt scores of a model on cases of a dataset, whose preprocessing is `space`."""
    metadata, trained = facts.metadata, facts.metadata.preprocess
    if trained and model.space == trained and parse_intensity(trained.intensity) != parse_intensity(space.intensity):
        yield (
            f"{model.name}: expected the intensity {trained.intensity} that it was trained on, got {space.intensity} "
            f"of {dataset}: it is attacked and scored in the space of its training; give {dataset} the same, or state "
            "preprocess and input of the model"
        )
    names = list(metadata.class_names or ())[: len(class_names)]
    pairs = list(zip(names, class_names[: len(names)], strict=True))
    others = [(theirs, ours) for theirs, ours in pairs if plain_name(theirs) != plain_name(ours)]
    if others:
        theirs, ours = others[0]
        yield (
            f"{model.name}: {len(others)} of its {len(pairs)} classes are called otherwise in {dataset} (first: "
            f"{theirs!r} there is {ours!r} here): check that they are the same"
        )
    scored = {ref.fingerprint for ref in refs}
    seen = {role: len(scored.intersection(taught)) for role, taught in metadata.training.fingerprints}
    shares = [f"{count} of {len(refs)} cases of {dataset} {SHARE[role]}" for role, count in seen.items() if count]
    if shares:
        yield f"{model.name}: {' and '.join(shares)}: scores on them are flattered"


def axes_notes(model: ModelSpec, facts: Facts, dataset: str, refs: Sequence[CaseRef]) -> Iterator[str]:
    """Yields a line on the axes that a network is assumed to take, beside those of a dataset's files.

    `facts` are the model's; of an ensemble, its first member's.
    """
    if facts.knows_axes:
        return
    first = model.members[0] if model.members else model
    counts = Counter(ref.axes for ref in refs)
    files = f"files of {dataset} lie towards {', '.join(f'{codes} ({count})' for codes, count in counts.items())}"
    if first.input.is_of_file:
        yield f"{model.name}: is given each file as it lies, its axes in the order {first.input.axes}: {files}"
    elif first.input.axes != AXES:
        yield f"{model.name}: is assumed to take axes towards {first.input.codes}; each file is turned to them: {files}"
    elif counts.keys() != {"RAS"}:
        yield (
            f"{model.name}: is assumed to take axes towards RAS; each file is turned to them: {files}: set input: "
            "{axes: IJK} if it was trained on files as they lie"
        )
