"""Reads recipes: YAML of a table's cells and the records of each. Two papers' are package data, one's own is a path."""

import csv
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import product
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import Field, PositiveInt, field_validator, model_validator

from freqbench.attacks import ATTACKS, Attack, attack_class, make
from freqbench.attacks.core.blocks import BLOCK_CUT
from freqbench.core import config, limits
from freqbench.core.config import Strict
from freqbench.core.documents import object_of
from freqbench.core.errors import UserError, unknown
from freqbench.job.sweep import parse_value

FOLDER = Path(__file__).parent / "recipes"
RECIPES: tuple[str, ...] = tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))
CLEAN = "clean"
COUPLED = "window_batch"
Dimension = Literal["dataset", "model", "training", "attack", "budget", "metric"]


class TableScore(NamedTuple):
    """Column as a table shows it: heading, factor from the record's unit to the table's, column of the clean volume."""

    title: str
    factor: float = 1.0
    clean: str | None = None


SCORES: Mapping[str, TableScore] = {
    "dsc": TableScore("DSC", 100, "dsc_clean"),
    "dsc_foreground": TableScore("foreground DSC", 100, "dsc_foreground_clean"),
    "hd95": TableScore("HD95", clean="hd95_clean"),
    "hd95_mm": TableScore("HD95 mm", clean="hd95_mm_clean"),
    "ssim": TableScore("SSIM", 100),
    "lpips_similarity": TableScore("LPIPS", 100),
}
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
PLACE = ("source", "table", "dataset", "model", "training", "attack", "params", "metric")  # keys of `papers.csv`


class PrintedPlace(Strict):
    """Place of the table's numbers in `papers.csv`: its columns `source` and `table`."""

    source: str
    table: str


class TableDataset(Strict):
    """Dataset: its `name` in the records, `title` in the table and `papers.csv`, number of `cases` behind the published
    mean, `starred`: facts that are guessed; `parts`: names in the records of subsets for expensive attacks."""

    name: str
    title: str
    cases: PositiveInt
    starred: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()


class TableNetwork(Strict):
    """Model, like a TableDataset, with its `training`, the `datasets` that it is for (None: all), and the
    `checkpoints`, sha256 of the authors' files: only numbers from them can be judged by the published ones."""

    name: str
    title: str
    training: str = CLEAN
    datasets: tuple[str, ...] | None = None
    starred: tuple[str, ...] = ()
    checkpoints: tuple[Sha256, ...] = ()


class TableAttack(Strict):
    """Attack of the table at one budget, or the clean volumes."""

    title: str  # in the table and in `papers.csv`
    budget: str = ""  # there; empty: the same for all attacks, or none
    printed: str = CLEAN  # column `params` of `papers.csv`
    attack: dict[str, Any] | None = None  # as in a job, with `window_batch` if it couples a batch; None: clean volumes
    datasets: tuple[str, ...] | None = None
    starred: tuple[str, ...] = ()

    @field_validator("attack")
    @classmethod
    def _can_be_made(cls, written: dict[str, Any] | None) -> dict[str, Any] | None:
        if written is not None:
            _made(written)
        return written

    @property
    def threat_model(self) -> str:
        """Threat model of the attack; empty for the clean volumes."""
        return "" if self.attack is None else _made(self.attack).threat_model

    @property
    def setting(self) -> str:
        """Setting of this attack as `setting_of` spells it for records; empty for the clean volumes."""
        if self.attack is None:
            return ""
        attack = _made(self.attack)
        besides = {COUPLED: self.attack[COUPLED]} if COUPLED in self.attack else {}
        return _setting(attack.name, {field.name: getattr(attack, field.name) for field in fields(attack)} | besides)


class TableMetric(Strict):
    """Score of SCORES, its `digits` where no published number fixes them, and the value that is marked as `best`."""

    name: str
    digits: Annotated[int, Field(ge=0, le=15)] = 2
    best: Literal["lowest", "highest"] | None = None

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in SCORES:
            raise UserError(unknown("metric", name, SCORES))
        return name


@dataclass(frozen=True)
class TableCell:
    """One number of the table."""

    dataset: TableDataset
    model: TableNetwork
    attack: TableAttack
    metric: TableMetric

    @property
    def is_clean(self) -> bool:
        """True if the cell is of the clean volumes."""
        return self.attack.attack is None

    @property
    def column(self) -> str:
        """Column of RECORDS of which the cell is a mean."""
        return str(SCORES[self.metric.name].clean) if self.is_clean else self.metric.name

    @property
    def labels(self) -> dict[str, str]:
        """Label of the cell in each dimension."""
        return {
            "dataset": self.dataset.title,
            "model": self.model.title,
            "training": self.model.training,
            "attack": self.attack.title,
            "budget": self.attack.budget,
            "metric": SCORES[self.metric.name].title,
        }

    @property
    def starred_labels(self) -> dict[str, str]:
        """Labels with a star at the guessed ones."""
        guessed = {name for name in ("dataset", "model", "attack") if getattr(self, name).starred}
        return {name: text + "*" if name in guessed else text for name, text in self.labels.items()}

    @property
    def starred(self) -> tuple[str, ...]:
        """All guessed facts about the cell."""
        return (*self.dataset.starred, *self.model.starred, *self.attack.starred)


T = TypeVar("T")
Some = Annotated[tuple[T, ...], Field(min_length=1)]


class Recipe(Strict):
    """Table whose cells are the product of `datasets`, `models`, `attacks` and `metrics`."""

    title: str
    about: str = ""
    citation: str = ""  # the source of the table
    published: PrintedPlace | None = None  # the place of its printed numbers
    rows: Some[Dimension]  # dimensions that tell its rows apart; one with a single value needs none
    columns: Some[Dimension]  # likewise
    compare: Dimension = "attack"  # along which the best is marked
    datasets: Some[TableDataset]
    models: Some[TableNetwork]
    attacks: Some[TableAttack]
    metrics: Some[TableMetric]
    footnotes: tuple[str, ...] = ()  # notes that a reader needs

    @model_validator(mode="after")
    def _tells_cells_apart(self) -> "Recipe":
        names = [dataset.name for dataset in self.datasets]
        for named in (*(model.datasets for model in self.models), *(attack.datasets for attack in self.attacks)):
            for name in named or ():
                if name not in names:
                    raise UserError(unknown("dataset", name, names))
        entries = (self.datasets, self.models, self.attacks, self.metrics)
        limits.require(math.prod(map(len, entries)), limits.TABLE, "cells of a table")
        dimensions = (*self.rows, *self.columns)
        places = Counter(tuple(map(cell.labels.__getitem__, dimensions)) for cell in self.cells)
        for place, count in places.items():
            if count > 1:
                got = f"got {count} for {', '.join(place)}: name further dimensions, or give entries other titles"
                raise UserError(f"rows and columns: expected a place of its own for each cell, {got}")
        return self

    @property
    def dataset_of(self) -> dict[str, str]:
        """Name of a dataset in the recipe by its name in the records, which differs for parts."""
        names: dict[str, str] = {}
        for entry in self.datasets:
            names |= dict.fromkeys((entry.name, *entry.parts), entry.name)
        return names

    @property
    def cells(self) -> tuple[TableCell, ...]:
        """Cells in the order of the entries, models first; the clean volumes have no distances."""
        cells = []
        for dataset, model, attack, metric in product(self.datasets, self.models, self.attacks, self.metrics):
            is_meant = all(dataset.name in (entry.datasets or [dataset.name]) for entry in (model, attack))
            if is_meant and (attack.attack is not None or SCORES[metric.name].clean):
                cells.append(TableCell(dataset, model, attack, metric))
        return tuple(cells)


def load(name: str) -> Recipe:
    """Loads a recipe of RECIPES by its name, or a user's by its path (`my_table.yaml`); UserError if it is invalid."""
    return config.load(str(FOLDER / f"{name}.yaml") if name in RECIPES else name, Recipe)


@lru_cache
def published() -> Mapping[tuple[str, ...], tuple[str, str]]:
    """Published numbers by place, as in PLACE: the text with the digits as printed, and the note beside it."""
    with (FOLDER / "papers.csv").open(encoding="utf-8", newline="") as stream:
        return {itemgetter(*PLACE)(row): (row["value"], row["note"]) for row in csv.DictReader(stream)}


def setting_of(attack: str, params: str) -> str:
    """Spells a record's `attack` with all its parameters in one way; those that its `params`, a JSON object, lack have
    their default."""
    return _setting(attack, object_of(params, f"{attack}: params"))


def _setting(attack: str, params: Mapping[str, Any]) -> str:
    defaults = {field.name: field.default for field in fields(ATTACKS.get(attack, Attack))}
    values = {**{name: value for name, value in defaults.items() if name not in params}, **params}
    values.pop(BLOCK_CUT, None)  # it follows from the block and the model
    return f"{attack} " + ", ".join(f"{name}={_spelling(values[name])}" for name in sorted(values))


def _spelling(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(_spelling, value))}]"
    return repr(float(value)) if isinstance(value, int) and not isinstance(value, bool) else repr(value)


def _made(written: Mapping[str, Any]) -> Attack:
    parameters = {key: parse_value(value) for key, value in written.items() if key not in ("name", COUPLED)}
    return make(attack_class(str(written.get("name"))), **parameters)
