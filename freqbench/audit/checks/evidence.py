"""Gathers the evidence of the audit: scores by case, the attacks' settings, and measurements beyond rows."""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import chain
from typing import Any

import pandas as pd

from freqbench.analysis import certificates
from freqbench.analysis.frames import caption_of, classes_frame, found_records, plain
from freqbench.analysis.groups import is_counted
from freqbench.analysis.labels import parameters
from freqbench.analysis.tables import current
from freqbench.attacks import ATTACKS, Attack
from freqbench.attacks.core.strongest import NARROWING
from freqbench.audit import probe_files
from freqbench.audit.probe_files import Gradients, SavedScores, root_of
from freqbench.results import Key, Store

NUMBERS = (
    *("dsc", "dsc_clean", "dsc_foreground", "dsc_foreground_clean", "hd95", "hd95_undefined_classes"),
    *("linf", "l2", "psnr", "l2_body", "ssim_body", "lpips_body", "num_windows", "num_backwards"),
)
COLUMNS = (*NUMBERS, *certificates.COLUMNS)
"""Columns of RECORDS that the audit needs beside those that identify a row."""
MAX_RECORDS = 100_000  # with more records, a report does not read their classes for the audit
_PLACE = ["dataset", "source_model", "target_model"]
Side = tuple[str, str, str]  # source model, target model and attack, the last by its label


@dataclass(frozen=True, kw_only=True, eq=False)
class Setting:
    """Attack with all its parameters, as records have it."""

    label: str  # its name in tables
    attack: str
    variant: str | None
    threat_model: str
    budget_name: str | None
    budget: float | None
    params: Mapping[str, Any]  # the others that are not None
    follows_gradients: bool  # its rows count backward passes

    @property
    def is_plain(self) -> bool:
        """True if it wants every voxel wrong by its own means alone, so that other attacks may be compared with it."""
        return not any(self.params.get(name) for name in (*NARROWING, "label"))

    @property
    def is_gradient(self) -> bool:
        """True if it is plain and follows a gradient."""
        return self.follows_gradients and self.is_plain

    @property
    def control(self) -> str:
        """Kind of null row, or `none`."""
        return str(self.params.get("control", "none"))

    @property
    def raises(self) -> str:
        """Loss that it raises; the attack's own name if no other attack has that loss, as of SegPGD or an ensemble."""
        defaults = {each.name: each.default for each in fields(ATTACKS.get(self.attack, Attack))}
        return str(self.params.get("loss") or defaults.get("loss") or self.attack)

    def same_but(self, *names: str) -> Hashable:
        """Key that settings share if they differ only in these parameters; `budget` is the budget."""
        rest = {**self.params, "_budget": None if "budget" in names else self.budget}
        others = {name: repr(value) for name, value in rest.items() if name not in names}
        return self.attack, self.variant, self.budget_name, tuple(sorted(others.items()))


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Input of all checks."""

    records: pd.DataFrame  # rows of RECORDS with COLUMNS and `caution` after `tables.current`
    classes: pd.DataFrame | None = None  # CLASS_RECORDS of the same stores; None: not read
    gradients: tuple[Gradients, ...] = ()  # measurements of gradients, one per store
    saved: tuple[SavedScores, ...] = ()  # rescored volumes, one per store
    added: frozenset[str] = frozenset()  # ids of the cells that only an audit computed
    caption: str | None = None  # what a table of its rows has to say of them
    _cache: dict[Hashable, pd.DataFrame] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def rows(self) -> pd.DataFrame:
        """Rows that count, DSC x100 as `dsc`, `fg`, `clean` and `clean_fg`, texts plain."""
        counts = is_counted(self.records)
        names = [*_PLACE, "label", "cell_id", "case_id", "patient_id", "seed", "num_classes", "caution", *NUMBERS]
        frame = plain(self.records.loc[counts, list(dict.fromkeys(names))])
        frame = frame.astype(dict.fromkeys(NUMBERS, float))
        scaled = {"dsc": "dsc", "fg": "dsc_foreground", "clean": "dsc_clean", "clean_fg": "dsc_foreground_clean"}
        return frame.assign(**{name: 100 * frame[column] for name, column in scaled.items()})

    @cached_property
    def settings(self) -> Mapping[str, Setting]:
        """Settings of every attack by its label."""
        columns = ["label", "attack", "variant", "threat_model", "budget_name", "budget", "params"]
        distinct = plain(self.records[columns].drop_duplicates("label")).astype(object)
        backwards = self.rows.groupby("label")["num_backwards"].max()
        settings = {}
        for row in distinct.where(distinct.notna(), None).to_dict("records"):
            facts: dict[Any, Any] = {**row, "params": parameters(row["attack"], row["params"], row["budget_name"])}
            facts["follows_gradients"] = float(backwards.get(row["label"], 0)) > 0
            settings[facts["label"]] = Setting(**facts)
        return settings

    @cached_property
    def models(self) -> tuple["Attacked", ...]:
        """Models that were attacked on a dataset, white-box or not, sorted by dataset and model."""
        pairs = sorted(self.rows[["dataset", "target_model"]].drop_duplicates().itertuples(index=False, name=None))
        return tuple(Attacked(self, dataset, model) for dataset, model in pairs)

    @cached_property
    def datasets(self) -> list[str]:
        """Datasets of the models."""
        return sorted({each.dataset for each in self.models})

    @cached_property
    def patients(self) -> Mapping[str, pd.Series]:
        """Patient of each case, by dataset."""
        cases = self.rows[["dataset", "case_id", "patient_id"]].drop_duplicates(["dataset", "case_id"])
        return {str(name): group.set_index("case_id")["patient_id"] for name, group in cases.groupby("dataset")}

    def place(self, dataset: str, source: str, target: str) -> pd.DataFrame:
        """Returns the `rows` of volumes of a `dataset` that were made on the model `source` and scored on the model
        `target`, both by their names in tables."""
        return self._by_place.get((dataset, source, target), self.rows.iloc[:0])

    def scores(self, dataset: str, source: str, target: str, column: str = "dsc") -> pd.DataFrame:
        """Returns means of a column of `rows` over seeds, as of `place` for this `dataset`, `source` and `target`: one
        row per case, one column per attack by its label."""
        key = (dataset, source, target, column)
        if key not in self._cache:
            if (rows := self.place(dataset, source, target)).empty:
                return pd.DataFrame()
            self._cache[key] = rows.pivot_table(index="case_id", columns="label", values=column, aggfunc="mean")
        return self._cache[key]

    def clean(self, dataset: str, model: str, column: str = "clean_fg") -> pd.Series:
        """Returns the clean score of each case of a `dataset` under a `model`, x100; the `column` is that of the
        foreground by default."""
        scores = self._clean.get((dataset, model))
        return pd.Series(dtype=float) if scores is None else scores[column].dropna()

    @cached_property
    def _clean(self) -> dict[tuple[str, ...], pd.DataFrame]:
        groups = self.rows.groupby(["dataset", "target_model"])
        columns = ["clean", "clean_fg"]
        return {tuple(map(str, place)): rows.groupby("case_id")[columns].first() for place, rows in groups}

    @cached_property
    def _by_place(self) -> dict[tuple[str, ...], pd.DataFrame]:
        return {tuple(map(str, place)): group for place, group in self.rows.groupby(_PLACE)}


@dataclass(frozen=True, eq=False)
class Attacked:
    """One model on one dataset, and the attacks that were made on it and scored on it (white-box)."""

    evidence: Evidence
    dataset: str
    model: str

    @property
    def rows(self) -> pd.DataFrame:
        """`Evidence.rows` of these attacks."""
        return self.evidence.place(self.dataset, self.model, self.model)

    def scores(self, column: str = "dsc") -> pd.DataFrame:
        """`Evidence.scores` of a `column` of these attacks."""
        return self.evidence.scores(self.dataset, self.model, self.model, column)

    def clean(self, column: str = "clean_fg") -> pd.Series:
        """Returns the clean score of each case, x100, by a `column` of `Evidence.clean`; of the foreground by
        default."""
        return self.evidence.clean(self.dataset, self.model, column)

    @property
    def attacks(self) -> list[Setting]:
        """Settings of the attacks that have a DSC."""
        return [self.evidence.settings[label] for label in self.scores().columns]

    @property
    def linf(self) -> list[Setting]:
        """Plain L-infinity attacks that follow the model's gradient."""
        return [each for each in self.attacks if each.threat_model == "linf" and each.is_gradient]

    @property
    def others(self) -> list[str]:
        """Other models that were attacked on the dataset."""
        beside = [each.model for each in self.evidence.models if each.dataset == self.dataset]
        return [model for model in beside if model != self.model]


def gathered(stores: Sequence[Store], job_keys: Collection[Key] | None = None, all_classes: bool = False) -> Evidence:
    """Gathers the evidence of stores, with the cells that `audit --run` added and its measurements.

    Args:
        job_keys: the keys of their jobs; None: all rows.
        all_classes: read rows of classes however many there are.
    """
    audits = [audit for store in stores if (audit := Store(root_of(store.root), named_by=store)).has_job]
    everything = [*stores, *audits]
    keys = None
    if job_keys is not None:  # cells that any call of an audit computed for cases and models of the job
        places = {key[1:] for key in job_keys}
        keys = {*job_keys}
        for store in audits:
            keys |= {key for key in store.covered() if key[1:] in places}
    stored, records = found_records(everything, keys, ("caution", *COLUMNS))
    is_read = all_classes or len(records) <= MAX_RECORDS
    gradients = (probe_files.read(store.root, Gradients) for store in stores)
    saved = (probe_files.read(store.root, SavedScores) for store in stores)
    runs = chain.from_iterable(store.runs() for store in everything)
    return Evidence(
        records=current(records, stored),
        classes=classes_frame(everything, stored) if is_read else None,
        gradients=tuple(filter(None, gradients)),
        saved=tuple(filter(None, saved)),
        added=frozenset(_cells(audits) - _cells(stores)) if audits else frozenset(),
        caption=caption_of(records, [*runs]),
    )


def _cells(stores: Sequence[Store]) -> set[str]:
    rows = chain.from_iterable(store.rows(("cell_id",)) for store in stores)
    return {cell_id for (cell_id,) in rows}
