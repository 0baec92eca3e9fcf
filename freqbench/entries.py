"""An attack's entry in a job file: what its lists multiply into, and a budget that is found instead of given."""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any, Literal

from pydantic import PositiveFloat, PositiveInt, ValidationInfo, field_validator

from freqbench import config
from freqbench.config import Strict
from freqbench.errors import UserError

MATCH, MATCHED = "match", "matched"


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
    special = ("name", MATCH, MATCHED) if MATCH in entry else ("name",)
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


def attacks_on(dataset: str, entry: Mapping[str, Any], place: str) -> Iterator[tuple[dict[str, Any], str | None]]:
    """The parameters of each attack of an entry on a dataset, and the only model that it is made on; None: any.

    Raises:
        UserError: a list without values, or a budget that has not been found yet.
    """
    if MATCH not in entry:
        for parameters in combinations(entry, place):
            yield parameters, None
        return
    if MATCHED not in entry:
        raise UserError(
            f"{place}.{MATCH}: expected budgets that were found before the grid is made, got none: use bench.py run or "
            "freqbench.engine.matching.matched"
        )
    for i, row in enumerate(entry[MATCHED]):
        budget = config.validate(row, Budget, f"{place}.{MATCHED}[{i}]")
        if budget.dataset == dataset:
            yield budget.parameters, budget.source
