"""What the entries of a job file mean: values, lists that multiply, budgets that are found, places of mistakes."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Any, Literal

from pydantic import PositiveFloat, PositiveInt, ValidationInfo, field_validator

from freqbench.core import config
from freqbench.core.config import Strict
from freqbench.core.errors import ParameterError, UserError, unknown
from freqbench.core.types import CaseRef

MATCH, MATCHED = "match", "matched"
ONLY = DATASETS, SOURCES = "datasets", "sources"

_NUMBER = r"(\d+\.?\d*|\.\d+)"


class Match(Strict):
    """`match`, in place of the budget: the distance that an attack is to keep on each dataset and source model.

    Attributes:
        metric: a record column; what is matched is its mean over cases.
        value: of that mean.
        cases: the first so many of the dataset, or all where it has fewer.
    """

    metric: Literal["ssim_body", "lpips_body", "l2_body"]
    value: PositiveFloat
    cases: PositiveInt = 3

    @field_validator("value")
    @classmethod
    def _can_be_reached(cls, value: float, info: ValidationInfo) -> float:
        if info.data.get("metric") == "ssim_body" and value >= 1:
            raise UserError(f"expected a similarity below 1, got {value:g}: 1 is no attack at all")
        return value


class Budget(Strict):
    """One row of an entry's `matched`, which `freqbench.engine.matching` adds.

    Attributes:
        dataset: where it holds.
        source: the model whose gradients it holds for.
        parameters: all of the attack as the file gives them, and the budget.
        match: what was asked for.
        reached: the metric's mean at this budget; None where the budget is not known yet.
    """

    dataset: str
    source: str
    parameters: dict[str, Any]
    match: Match
    reached: float | None


def combinations(entry: Mapping[str, Any], place: str) -> Iterator[dict[str, Any]]:
    """The parameters of each attack that an entry's lists multiply into, as the file writes them.

    Raises:
        UserError: a list without values.
    """
    special = ("name", *ONLY, *((MATCH, MATCHED) if MATCH in entry else ()))
    own = {str(key): value for key, value in entry.items() if key not in special}
    values = {key: value if isinstance(value, list) else [value] for key, value in own.items()}
    for key, choices in values.items():
        if not choices:
            raise UserError(f"{place}.{key}: expected a value or a list of values, got an empty list")
    for choice in product(*values.values()):
        yield dict(zip(values, choice, strict=True))


def matches_of(entry: Mapping[str, Any], place: str) -> Iterator[Match]:
    """What an entry asks to match: one distance or a list of them.

    Raises:
        UserError: no distance, or one that cannot be.
    """
    written = entry[MATCH] if isinstance(entry[MATCH], list) else [entry[MATCH]]
    if not written:
        raise UserError(f"{place}.{MATCH}: expected a value or a list of values, got an empty list")
    for each in written:
        if not isinstance(each, Mapping):
            raise UserError(f"{place}.{MATCH}: expected {{metric: ..., value: ...}}, got {each!r}")
        yield config.validate(each, Match, f"{place}.{MATCH}")


def names_of(entry: Mapping[str, Any], key: str, known: Sequence[str], place: str) -> Sequence[str]:
    """What an entry restricts itself to by `datasets` or `sources`, one name or a list; all that are known by default.

    Raises:
        UserError: a name that is not known.
    """
    if key not in entry:
        return known
    names = entry[key] if isinstance(entry[key], list) and entry[key] else [entry[key]]
    for name in names:
        if name not in known:
            raise UserError(f"{place}.{key}: {unknown(key.removesuffix('s'), str(name), known)}")
    return names


def sources_of(entry: Mapping[str, Any], sources: Sequence[str], models: Sequence[str], place: str) -> list[str]:
    """The sources that an attack is for, of those that a dataset has.

    Args:
        entry: of a job file.
        sources: the models of the dataset.
        models: those of the job, which the entry may name though they are for other datasets.
        place: where it stands.

    Raises:
        UserError: a name that is no model of the job.
    """
    named = names_of(entry, SOURCES, models, place)
    return [name for name in sources if name in named]


def attacks_on(
    dataset: str, sources: Sequence[str], models: Sequence[str], entry: Mapping[str, Any], place: str
) -> Iterator[tuple[dict[str, Any], Sequence[str]]]:
    """The parameters of each attack of an entry on a dataset, and the models that it is made on.

    Args:
        dataset: its name.
        sources: the models of the dataset.
        models: those of the job.
        entry: of a job file.
        place: where it stands.

    Raises:
        UserError: a list without values, no such source, or a budget that has not been found yet.
    """
    only = sources_of(entry, sources, models, place)
    if MATCH not in entry:
        for parameters in combinations(entry, place):
            yield parameters, only
        return
    if MATCHED not in entry:
        raise UserError(
            f"{place}.{MATCH}: expected budgets that were found before the grid is made, got none: use bench.py run or "
            "freqbench.engine.matching.matched"
        )
    for i, row in enumerate(entry[MATCHED]):
        budget = config.validate(row, Budget, f"{place}.{MATCHED}[{i}]")
        if budget.dataset == dataset:
            yield budget.parameters, [budget.source]


def parse_value(value: Any) -> Any:
    """A parameter as a job file writes it: `8/255` is a fraction, `8x16x32` a triple (`8x16` a pair), `1e-3` a number.

    A filter is a mapping there and a tuple in Python.

    >>> parse_value("8/255") == 8 / 255, parse_value("8x16x32"), parse_value("middle")
    (True, (8, 16, 32), 'middle')
    >>> parse_value({"kind": "low", "limits": 8}), parse_value({"kind": "band", "limits": [4, 8]})
    (('low', 8), ('band', 4, 8))
    """
    if isinstance(value, list):
        return tuple(parse_value(item) for item in value)
    if isinstance(value, dict) and set(value) == {"kind", "limits"}:
        limits = value["limits"]
        return (value["kind"], *(limits if isinstance(limits, list) else [limits]))
    if not isinstance(value, str):
        return value
    if fraction := re.fullmatch(rf"\s*{_NUMBER}\s*/\s*{_NUMBER}\s*", value):
        numerator, denominator = (float(part) for part in fraction.groups())
        return numerator / denominator if denominator else value
    if re.fullmatch(r"\d+(x\d+){1,2}", value):
        return tuple(int(part) for part in value.split("x"))
    return float(value) if re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value) else value


@contextmanager
def at_parameter(place: str, owner: str = "") -> Iterator[None]:
    """`_at`, down to the parameter, and for whom it does not do."""
    try:
        yield
    except ParameterError as error:
        raise UserError(f"{place}.{error.parameter}: {owner}{error.complaint}") from None
    except UserError as error:
        raise UserError(f"{place}: {error}") from None


@contextmanager
def at(place: str) -> Iterator[None]:
    """A mistake that is found inside is told with the place in the job file where it was made."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"{place}: {error}") from None


def require_distinct(what: str, names: Sequence[str], where: str) -> None:
    """Refuse two entries of a list with one name."""
    for i, name in enumerate(names):
        if name in names[:i]:
            raise UserError(f"{where}: {what}[{i}].name: {name!r} is taken already: give each its own name")


def with_own_files(refs: tuple[CaseRef, ...]) -> tuple[CaseRef, ...]:
    """The cases of a dataset, refused where ids are the same or differ in capitals alone: some disks would keep one
    file for both.

    Raises:
        UserError: naming two of them.
    """
    seen: dict[str, str] = {}
    for ref in refs:
        first = seen.get(ref.case_id.casefold())
        if first is not None:
            raise UserError(
                f"expected cases whose names differ in more than capitals, as files are called by them, got {first} "
                f"and {ref.case_id}: rename one"
            )
        seen[ref.case_id.casefold()] = ref.case_id
    return refs
