"""Reads the entries of a job file: values, lists that multiply, matched budgets, and places of mistakes."""

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_serializer

from freqbench.attacks.core.declared import declared, require_names
from freqbench.attacks.core.parameters import TOGETHER, require_together, spelled
from freqbench.attacks.core.targets import with_indices
from freqbench.core import config, names
from freqbench.core.config import Strict
from freqbench.core.errors import ParameterError, UserError, unknown

if TYPE_CHECKING:
    from freqbench.core.types import CaseRef  # imports torch, which reading an entry does not need
    from freqbench.models import ModelEntry

OF_CLASSES = ("organs", "target")  # parameters with class names, which the dataset knows
_NUMBER = r"([0-9]+\.?[0-9]*|\.[0-9]+)"


class Entry(BaseModel):
    """An entry that names a class, with further keys (`own`) for it; its dump holds only the keys that were given."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str

    @property
    def own(self) -> dict[str, Any]:
        """The keys of the named class, as written."""
        return dict(self.model_extra or {})

    @model_serializer(mode="wrap")
    def _dump_given(self, handler: Any) -> dict[str, Any]:
        """Dumps the given keys only; a null that was given is a value, even if a dump leaves out None."""
        dumped = handler(self)
        keys = [*type(self).model_fields, *(self.model_extra or {})]
        return {key: dumped.get(key) for key in keys if key in self.model_fields_set}


class DatasetEntry(Entry):
    """A dataset: `loader` (default: the name) is one of DATASETS or `package.module:Class`."""

    loader: str | None = Field(default=None, validate_default=True)

    @field_validator("loader")
    @classmethod
    def _is_known(cls, loader: str | None, info: ValidationInfo) -> str | None:
        if "name" not in info.data:
            return loader
        try:
            names.require_known("datasets", "loader", loader or info.data["name"])
        except UserError as error:
            if loader is not None or "Did you mean" in str(error):
                raise
            raise UserError(
                f"expected a loader beside the name {info.data['name']!r}, got none: give one of "
                f"{', '.join(sorted(names.KNOWN['datasets']))}; freqbench doctor --data FOLDER names it"
            ) from error
        return loader

    @property
    def class_name(self) -> str:
        """The package's own name of the loader, or `package.module:Class`."""
        return names.meant_name("datasets", self.loader or self.name)


class Match(Strict):
    """Value of `match`, in place of the budget: the distance to keep on each dataset and source model.

    Attributes:
        metric: the record column whose mean over cases is matched.
        value: the wanted mean.
        cases: number of the dataset's first cases that are used; all if it has fewer.
    """

    metric: Literal["ssim_body", "lpips_body", "l2_body"]
    value: Annotated[float, Field(gt=0)]
    cases: Annotated[int, Field(gt=0)] = 3

    @field_validator("value")
    @classmethod
    def _can_be_reached(cls, value: float, info: ValidationInfo) -> float:
        if info.data.get("metric") == "ssim_body" and value >= 1:
            raise UserError(f"expected a similarity below 1, got {value:g}: 1 is no attack at all")
        return value


class Budget(Strict):
    """One row of an entry's `matched`, which `freqbench.engine.matching` adds.

    Attributes:
        dataset: dataset that it holds for.
        source: source model that it holds for.
        parameters: all parameters of the attack as the file gives them, and the budget.
        match: the requested distance.
        reached: the metric's mean at this budget; None while the budget is unknown.
    """

    dataset: str
    source: str
    parameters: dict[str, Any]
    match: Match
    reached: float | None


class AttackEntry(Entry):
    """An attack: `name` is one of ATTACKS or `package.module:Class`; lists of its parameters multiply into cells.

    Attributes:
        datasets: datasets that it is for, one or a list; None: all.
        sources: the models whose gradients it follows, one or a list; None: all.
        match: a distance or a list of them, in place of the budget: see Match.
        matched: budgets that were found for these distances.
    """

    datasets: str | list[str] | None = None
    sources: str | list[str] | None = None
    match: Any = None
    matched: tuple[Budget, ...] | None = None

    @property
    def class_name(self) -> str:
        """The package's own name of the attack, or `package.module:Class`."""
        return names.meant_name("attacks", self.name)

    @property
    def is_open(self) -> bool:
        """True if it has budgets that are still unknown."""
        return self.match is not None and self.matched is None

    def count(self) -> int:
        """Returns the number of attacks that the lists multiply into."""
        if self.matched is not None:
            return len(self.matched)
        return math.prod(len(value) for value in (*self.own.values(), self.match) if isinstance(value, list))

    def choices(self, place: str) -> dict[str, list[Any]]:
        """Returns the values of each parameter, as the file writes them; raises UserError, after `place`, for an empty
        list."""
        return {key: _several(value, f"{place}.{key}") for key, value in self.own.items()}

    def combinations(self, place: str) -> Iterator[dict[str, Any]]:
        """Yields the parameters of each attack that the lists multiply into; `place` as in `choices`."""
        choices = self.choices(place)
        yield from (dict(zip(choices, choice, strict=True)) for choice in product(*choices.values()))

    def matches(self, place: str) -> Iterator[Match]:
        """Yields the requested distances; raises UserError, after `place`, for none, or an impossible one."""
        for match in _several(self.match, f"{place}.match"):
            if not isinstance(match, Mapping):
                raise UserError(f"{place}.match: expected {{metric: ..., value: ...}}, got {match!r}")
            yield config.validate(match, Match, f"{place}.match")

    def only(self, key: Literal["datasets", "sources"], known: Sequence[str], place: str) -> Sequence[str]:
        """Returns the datasets or sources, by `key`, of the `known` ones that it is for; raises UserError, after
        `place`, for one that the job does not have."""
        if (stated := getattr(self, key)) is None:
            return known
        wanted = stated if isinstance(stated, list) and stated else [stated]
        require_known(key.removesuffix("s"), wanted, known, f"{place}.{key}")
        return wanted

    def check(self, place: str, classes: Mapping[str, Sequence[str] | None]) -> None:
        """Refuses wrong parameters of freqbench's own attacks, unimported, in lines after `place`; `classes` by
        dataset, None if unknown."""
        if not (outline := declared(self.class_name)):
            return
        choices = self.choices(place)
        with prefix_errors(place):
            require_names(outline, choices, None if self.match is None else outline.budget_name)
        for value in choices.get("targeted", ()):
            require_untargeted(value, place)
        for dataset, class_names in classes.items():
            settings: dict[str, list[Any]] = {}
            for name, values in choices.items():
                if class_names is None and name in OF_CLASSES:
                    continue
                with prefix_errors(place, f"{dataset}: "):
                    meant = [with_indices("", {name: parse_value(value)}, class_names or ()) for value in values]
                with prefix_errors(place):
                    settings[name] = [spelled(outline, name, value[name]) for value in meant]
            for involved, _ in TOGETHER.values():
                for together in product(*(settings.get(name, ()) for name in involved)):
                    with prefix_errors(place):
                        require_together(outline.name, dict(zip(involved, together, strict=True)))

    def settings_on(
        self, dataset: str, sources: Sequence[str], models: Sequence[str], place: str
    ) -> Iterator[tuple[dict[str, Any], Sequence[str]]]:
        """Yields the parameters of each attack on a dataset, and those of its `sources` on which it is made. Raises
        UserError, after `place`, for an empty list, a source that is none of `models`, or a budget that has not been
        found yet."""
        named = self.only("sources", models, place)
        matched = self.matched
        if self.match is None:
            more = {} if matched is None else {"matched": matched}  # refused like any unknown parameter
            for parameters in self.combinations(place):
                yield parameters | more, [name for name in sources if name in named]
            return
        if matched is None:
            got = "got none: use freqbench run or freqbench.engine.matching.match_budgets"
            raise UserError(f"{place}.match: expected budgets that were found before the grid is made, {got}")
        yield from ((budget.parameters, [budget.source]) for budget in matched if budget.dataset == dataset)


def _several(written: Any, place: str) -> list[Any]:
    if written == []:
        raise UserError(f"{place}: expected a value or a list of values, got an empty list")
    return written if isinstance(written, list) else [written]


def parse_value(value: Any) -> Any:
    """Parses a parameter from a job file: `8/255` is a fraction, `8x16x32` a triple (`8x16` a pair), `1e-3` a number.

    >>> parse_value("8/255") == 8 / 255, parse_value("8x16x32"), parse_value("middle")
    (True, (8, 16, 32), 'middle')
    """
    if isinstance(value, list):
        return tuple(parse_value(item) for item in value)
    if not isinstance(value, str):
        return value
    if fraction := re.fullmatch(rf"\s*{_NUMBER}\s*/\s*{_NUMBER}\s*", value):
        numerator, denominator = (float(part) for part in fraction.groups())
        return numerator / denominator if denominator else value
    if re.fullmatch(r"[0-9]{1,18}(x[0-9]{1,18}){1,2}", value):
        return tuple(int(part) for part in value.split("x"))
    return float(value) if re.fullmatch(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+", value) else value


@contextmanager
def prefix_errors(place: str, owner: str = "") -> Iterator[None]:
    """Prefixes errors with the place in the job file and the parameter's name, after the `owner` of a complaint."""
    try:
        yield
    except ParameterError as error:
        raise UserError(f"{place}.{error.parameter}: {owner}{error.complaint}") from None
    except UserError as error:
        raise type(error)(f"{place}: {error}") from None


def require_untargeted(value: Any, place: str) -> None:
    """Refuses `targeted: true`, by its `value` and its `place` in the job, as a job has no labels but the true ones."""
    if value:
        rest = "and towards them no attack hurts: use target: least-likely, next-class, {swap: {a: b}} or {erase: a}"
        raise UserError(f"{place}.targeted: expected false, got true: a job knows the true labels alone, {rest}")


def require_known(kind: str, wanted: Iterable[str], known: Collection[str], place: str) -> None:
    """Refuses names in `wanted` that are not among the known ones, by a line that begins with `place` and calls them
    `kind`."""
    for name in wanted:
        if name not in known:
            raise UserError(f"{place}: {unknown(kind, str(name), known)}")


def models_for(given: Sequence["ModelEntry"], dataset: str) -> list[str]:
    """Returns the names of the models, of those `given` by a job, that are for a dataset."""
    return [entry.name for entry in given if dataset in (entry.datasets or [dataset])]


def require_distinct(what: str, names: Sequence[str]) -> None:
    """Refuses two entries of a list with one of the `names`, by a message that calls the list `what`."""
    for i, name in enumerate(names):
        if name in names[:i]:
            raise UserError(f"{what}[{i}].name: {name!r} is taken already: give each its own name")


def require_own_files(refs: tuple["CaseRef", ...]) -> tuple["CaseRef", ...]:
    """Returns the cases `refs`; refuses ids that differ in capitals only, or not at all: some disks keep one file for
    both."""
    seen: dict[str, str] = {}
    for ref in refs:
        name = ref.case_id
        folded = name.casefold()
        if first := seen.get(folded):
            rest = f"as files are named after them, got {first} and {name}: rename one"
            raise UserError(f"expected cases whose names differ in more than capitals, {rest}")
        seen[folded] = name
    return refs
