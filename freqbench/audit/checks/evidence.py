"""What the audit looks at: scores by case, what the attacks were, and what was measured beside the rows."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import pandas as pd

from freqbench.analysis.frames import plain
from freqbench.analysis.strength import checked
from freqbench.analysis.tables import current
from freqbench.attacks import ATTACKS, Attack
from freqbench.audit.measurements import Gradients, Saved
from freqbench.core.documents import object_of
from freqbench.job.grid import BLOCK_CUT

COLUMNS = (
    *("dsc", "dsc_clean", "dsc_foreground", "dsc_foreground_clean", "hd95", "hd95_undefined_classes"),
    *("linf", "l2", "l2_body", "ssim_body", "lpips_body", "num_windows", "num_backwards"),
)
"""The columns of RECORDS that the audit needs beside those that identify a row."""

NARROWING = ("organs", "target", "filter", "channels", "label")
_PLACE = ["dataset", "source_model", "target_model"]

Side = tuple[str, str, str]
"""Source model, target model and attack, the last by its label."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """An attack with all its parameters, as records have it.

    Attributes:
        label: what tables call it.
        attack: its name.
        variant: its variant.
        threat_model: what its budget bounds.
        budget_name: the parameter that does, and `budget`; None where none does.
        params: the others that are not None.
        follows_gradients: whether its rows count backward passes.
    """

    label: str
    attack: str
    variant: str | None
    threat_model: str
    budget_name: str | None
    budget: float | None
    params: Mapping[str, Any]
    follows_gradients: bool

    @property
    def is_plain(self) -> bool:
        """Whether it wants every voxel wrong, by nothing but its own means: other attacks may be held against it."""
        return not self.params.get("targeted") and not any(name in self.params for name in NARROWING)

    @property
    def is_gradient(self) -> bool:
        """Whether it is plain and follows a gradient."""
        return self.follows_gradients and self.is_plain

    @property
    def control(self) -> str:
        """`none`, or which null row it is."""
        return str(self.params.get("control", "none"))

    @property
    def raises(self) -> str:
        """The loss that it raises; its own name where that is nothing but its own, as of SegPGD or an ensemble."""
        known = {each.name: each.default for each in fields(ATTACKS.get(self.attack, Attack))}
        return str(self.params.get("loss") or known.get("loss") or self.attack)

    def same_but(self, *names: str) -> Hashable:
        """What is equal for settings that differ in these parameters alone; `budget` is the budget."""
        rest = {**self.params, "_budget": None if "budget" in names else self.budget}
        kept = {name: repr(value) for name, value in rest.items() if name not in names}
        return self.attack, self.variant, self.budget_name, tuple(sorted(kept.items()))


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that checks look at.

    Attributes:
        records: rows of RECORDS with COLUMNS after `tables.current(strength.checked(...))`.
        classes: of CLASS_RECORDS, of the same stores; None where they were not read.
        gradients: what was measured of gradients, one a store.
        saved: volumes that were scored once more, one a store.
        added: the cells that an audit alone computed, by their ids.
    """

    records: pd.DataFrame
    classes: pd.DataFrame | None = None
    gradients: tuple[Gradients, ...] = ()
    saved: tuple[Saved, ...] = ()
    added: frozenset[str] = frozenset()
    _cache: dict[Hashable, pd.DataFrame] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def rows(self) -> pd.DataFrame:
        """The rows that count, DSC x100 as `dsc`, `fg`, `clean` and `clean_fg`, texts plain."""
        counts = (self.records["left_out"] == "") & (self.records["status"] == "ok")
        names = [*_PLACE, "label", "cell_id", "case_id", "patient_id", "seed", "num_classes", *COLUMNS]
        frame = plain(self.records.loc[counts, list(dict.fromkeys(names))])
        frame = frame.astype(dict.fromkeys(COLUMNS, float))
        shown = {"dsc": "dsc", "fg": "dsc_foreground", "clean": "dsc_clean", "clean_fg": "dsc_foreground_clean"}
        return frame.assign(**{name: 100 * frame[column] for name, column in shown.items()})

    @cached_property
    def settings(self) -> Mapping[str, Setting]:
        """Every attack by its label."""
        columns = ["label", "attack", "variant", "threat_model", "budget_name", "budget", "params"]
        distinct = plain(self.records[columns].drop_duplicates("label")).astype(object)
        backwards = self.rows.groupby("label")["num_backwards"].max()
        return {
            str(row["label"]): _setting(row, float(backwards.get(row["label"], 0)) > 0)
            for row in distinct.where(distinct.notna(), None).to_dict("records")
        }

    @cached_property
    def models(self) -> tuple[tuple[str, str], ...]:
        """Datasets with the models that were attacked on them, white-box or not, in sorted order."""
        pairs = self.rows[["dataset", "target_model"]].drop_duplicates()
        return tuple(sorted(pairs.itertuples(index=False, name=None)))

    @cached_property
    def patients(self) -> Mapping[str, pd.Series]:
        """Of each dataset the patient of each case."""
        cases = self.rows[["dataset", "case_id", "patient_id"]].drop_duplicates(["dataset", "case_id"])
        return {str(name): own.set_index("case_id")["patient_id"] for name, own in cases.groupby("dataset")}

    def models_of(self, dataset: str) -> list[str]:
        """The models that were attacked on a dataset."""
        return [model for name, model in self.models if name == dataset]

    def scores(self, dataset: str, source: str, target: str, column: str = "dsc") -> pd.DataFrame:
        """Means over seeds: a row a case, a column an attack by its label; no column for what was not run.

        Args:
            dataset: its name.
            source: the model that the volumes were made on.
            target: the model that was scored.
            column: of `rows`.
        """
        key = (dataset, source, target, column)
        if key not in self._cache:
            own = self._by_place.get((dataset, source, target))
            if own is None:
                return pd.DataFrame()
            self._cache[key] = own.pivot_table(index="case_id", columns="label", values=column, aggfunc="mean")
        return self._cache[key]

    def white_box(self, dataset: str, model: str, column: str = "dsc") -> pd.DataFrame:
        """`scores` of the attacks that were made on the model itself."""
        return self.scores(dataset, model, model, column)

    def attacks_on(self, dataset: str, model: str) -> list[Setting]:
        """The attacks that were made on a model and scored on it."""
        return [self.settings[label] for label in self.white_box(dataset, model).columns]

    def claimed_on(self, dataset: str, model: str) -> list[Setting]:
        """Those of `attacks_on` that a store has itself, and not by its audit alone."""
        own = self._by_place.get((dataset, model, model))
        labels = set() if own is None else set(own.loc[~own["cell_id"].isin(self.added), "label"])
        return [each for each in self.attacks_on(dataset, model) if each.label in labels]

    def clean(self, dataset: str, model: str, column: str = "clean_fg") -> pd.Series:
        """The clean score of each case, x100; of the foreground by default."""
        own = self.rows[(self.rows["dataset"] == dataset) & (self.rows["target_model"] == model)]
        return own.groupby("case_id")[column].first().dropna()

    @cached_property
    def _by_place(self) -> dict[tuple[str, ...], pd.DataFrame]:
        groups = self.rows.groupby(_PLACE)
        return {tuple(map(str, place)): own for place, own in groups}


def evidence_of(
    records: pd.DataFrame,
    classes: pd.DataFrame | None = None,
    gradients: tuple[Gradients, ...] = (),
    saved: tuple[Saved, ...] = (),
    added: frozenset[str] = frozenset(),
) -> Evidence:
    """Evidence from records as the tables take them."""
    frame = current(checked(records))
    return Evidence(records=frame, classes=classes, gradients=gradients, saved=saved, added=added)


def _setting(row: Mapping[Hashable, Any], follows_gradients: bool) -> Setting:
    written = object_of(row["params"], f"{row['attack']}: params")
    hidden = (row["budget_name"], BLOCK_CUT)
    given = {name: value for name, value in written.items() if value is not None and name not in hidden}
    return Setting(
        label=row["label"],
        attack=row["attack"],
        variant=row["variant"],
        threat_model=row["threat_model"],
        budget_name=row["budget_name"],
        budget=row["budget"],
        params=given,
        follows_gradients=follows_gradients,
    )
