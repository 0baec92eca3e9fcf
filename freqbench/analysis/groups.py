"""Selects the rows that count, groups them with intervals, and writes their cells as text."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from freqbench.analysis.frames import plain
from freqbench.analysis.labels import each_distinct, value_text
from freqbench.analysis.statistics import DICE, FEWEST, POINTS, Limits, mean_intervals
from freqbench.core.threat_models import MINIMAL

IDENTITY = [
    *("dataset", "source_model", "target_model", "label", "attack", "threat_model", "budget_name", "budget"),
    *("case_id", "patient_id", "seed"),
]
ATTACK = ["label", "threat_model"]
NOISE = frozenset({"random_noise", "gn"})
NULL_ROW = " control="  # in a label: the change without the optimisation
SCORES = ("dsc_foreground", "dsc_foreground_clean", "dsc", "dsc_clean", "hd95_penalised")  # of `select_scored`
COUNTS = (
    "n is cases, or cases x seeds; intervals are 95 % intervals over patients, each for itself and not corrected for "
    "their number (Student's t, of DSC on the logit scale; from 20 patients on BCa bootstrap). Those of three or four "
    "patients are wide."
)
LIMITS: Mapping[str, Limits] = {  # limits of the values whose intervals are shown
    **dict.fromkeys(("dsc_foreground", "dsc_foreground_clean", "dsc"), DICE),
    **dict.fromkeys(("dsc_foreground_drop", "drop", "hidden"), POINTS),
}


def select_scored(records: pd.DataFrame, columns: Sequence[str] = ()) -> pd.DataFrame:
    """Selects the rows of `records`, after `tables.current`, that count: IDENTITY, `columns`, scores: `dsc_foreground`,
    its `_clean`, `_drop` (clean minus attacked), `hd95_penalised` (mm); `dsc`, `clean`, `drop` with the background.
    Dice x100."""
    counts = is_counted(records)
    frame = records.loc[counts, [*IDENTITY, *columns]].copy()
    for column in ("dsc_foreground", "dsc_foreground_clean", "dsc", "dsc_clean"):
        frame["clean" if column == "dsc_clean" else column] = 100 * records.loc[counts, column].astype(float)
    frame["dsc_foreground_drop"] = frame["dsc_foreground_clean"] - frame["dsc_foreground"]
    frame["hd95_penalised"] = records.loc[counts, "hd95_penalised"].astype(float)
    return frame.assign(drop=frame["clean"] - frame["dsc"])


def is_counted(frame: pd.DataFrame) -> pd.Series:
    """True for each row of a `frame` after `tables.current` that is ok and not left out."""
    is_shown: pd.Series = frame["left_out"] == ""
    return is_shown & (frame["status"] == "ok")


def is_white_box(frame: pd.DataFrame) -> pd.Series:
    """True for each row of a `frame` whose volume was made with gradients of the model that is scored: `source_model`
    is `target_model`."""
    same = np.asarray(frame["source_model"].astype(object)) == np.asarray(frame["target_model"].astype(object))
    return pd.Series(same, index=frame.index)


def is_minimal(frame: pd.DataFrame) -> pd.Series:
    """True for each row of a `frame` whose attack, by `threat_model`, seeks a smallest change: its result is a size,
    and no score ranks it."""
    return frame["threat_model"].astype(str).str.endswith(MINIMAL)


def is_null_row(frame: pd.DataFrame) -> pd.Series:
    """True for each row of a `frame` that shows an attack's change without its optimisation, by its `label`."""
    return frame["label"].astype(str).str.contains(NULL_ROW, regex=False)


def is_undirected(frame: pd.DataFrame) -> pd.Series:
    """True for each row of a `frame` whose change nobody optimised: a null row by `label`, or noise by `attack`."""
    return is_null_row(frame) | frame["attack"].isin(NOISE)


def native_steps(frame: pd.DataFrame) -> pd.Series:
    """Returns 1/255 of intensity in the files' unit of each row of a `frame`, by `eps_native` of its source and case;
    NaN: none."""
    steps = frame["eps_native"].astype(float) / (255 * frame["budget"].astype(float))
    keys = [frame[name] for name in ("dataset", "source_model", "case_id")]
    return steps.where(np.isfinite(steps)).groupby(keys, observed=True).transform("mean")


def steps_text(frame: pd.DataFrame) -> str:
    """States 1/255 in the unit of the files by dataset of a `frame` with `eps_native`; empty where no row tells it."""
    ends = native_steps(frame).groupby(frame["dataset"].astype(str)).agg(["min", "max"]).dropna()
    spans = {name: dict.fromkeys((f"{low:.3g}", f"{high:.3g}")) for name, low, high in ends.itertuples()}
    told = ", ".join(f"{name} {' to '.join(span)}" for name, span in spans.items())
    return f"1/255 of intensity in the unit of the files (HU for CT): {told}." if told else ""


def join_files(frame: pd.DataFrame, files: Mapping[tuple[str, str], object]) -> pd.DataFrame:
    """Selects the rows of a `frame` whose `cell_id` and `case_key` are a key of `files`, with its entry as `file`."""
    rows = frame[frame["cell_id"].isin({cell_id for cell_id, _ in files})]
    entries = [files.get(key) for key in zip(rows["cell_id"], rows["case_key"], strict=True)]
    return rows.assign(file=pd.Series(entries, index=rows.index, dtype=object)).dropna(subset="file")


def by_dataset(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yields the name of each dataset, and its rows of the `frame`."""
    for name, rows in frame.groupby("dataset", observed=True):
        yield str(name), rows


def group_means(frame: pd.DataFrame, by: Sequence[str], value: str, means: Iterable[str] = ()) -> pd.DataFrame:
    """Makes a row a group of a `frame` with `case_id`, `patient_id` and `seed`: `by` as text; `cases`, `seeds`,
    `patients`; the value's mean, `low`, `high`; `means`."""
    rows = mean_intervals(frame, by, value, LIMITS.get(value)).rename(columns={"mean": value, "clusters": "patients"})
    defined = frame[value].notna()
    counted = frame.assign(case_id=frame["case_id"].where(defined), seed=frame["seed"].where(defined))
    groups = counted.groupby(list(by), observed=True, dropna=False)
    rows["cases"] = groups["case_id"].nunique().to_numpy()
    rows["seeds"] = groups["seed"].nunique().to_numpy()
    for name in means:
        rows[name] = groups[name].mean().to_numpy()
    return plain(rows[[*by, "cases", "seeds", "patients", value, "low", "high", *means]])


def side_columns(rows: pd.DataFrame, *names: str) -> dict[str, pd.Series]:
    """Columns of `rows` that stand beside the leading one: `hd95_penalised` if it was measured, and `names`."""
    measured = ["hd95_penalised"] if rows["hd95_penalised"].notna().any() else []
    return {name: rows[name] for name in (*measured, *names)}


def points(value: float, digits: int = 1) -> str:
    """Writes a number as a cell: `value` with so many `digits` after the point, without a minus before 0; empty for
    NaN."""
    return "" if np.isnan(value) else f"{round(value, digits) + 0.0:.{digits}f}"


def bounds(rows: pd.DataFrame, prefix: str = "", digits: int = 1) -> list[str]:
    """Writes the intervals of `rows` as cells, `[40.1, 46.0]` with so many `digits`; empty where there is none. Their
    ends are the columns `low` and `high`, after a `prefix`."""
    ends = rows[[f"{prefix}low", f"{prefix}high"]].to_numpy(float)
    return [
        "" if np.isnan(low) or np.isnan(high) else f"[{points(low, digits)}, {points(high, digits)}]"
        for low, high in ends
    ]


def budget_texts(frame: pd.DataFrame) -> pd.Series:
    """Writes the budgets of a `frame` by `budget_name` and `budget` as a person does, such as `8/255`; empty where an
    attack has none."""

    def texts(distinct: pd.DataFrame) -> list[str]:
        pairs = distinct.itertuples(index=False, name=None)
        return ["" if pd.isna(value) else value_text(str(name), float(value)) for name, value in pairs]

    return each_distinct(frame, ["budget_name", "budget"], texts)


def add_settings(rows: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    """Adds `attack`, `budget_name` and `budget` of their label in `frame` to rows of ATTACK, in order of these, not of
    score."""
    settings = plain(frame[[*ATTACK, "attack", "budget_name", "budget"]].drop_duplicates(ATTACK))
    rows = rows.merge(settings, on=ATTACK, how="left")
    return rows.sort_values(["threat_model", "attack", "budget", "label"], kind="stable", ignore_index=True)


def few_patients_note(patients: pd.Series) -> str:
    """Explains missing intervals if some row has fewer than FEWEST patients; else empty."""
    return " One or two patients are too few for an interval." if (patients < FEWEST).any() else ""


def counts_text(rows: pd.DataFrame) -> str:
    """Returns COUNTS, with a note on missing intervals if some of `rows` has too few `patients`."""
    return COUNTS + few_patients_note(rows["patients"])


def most(rows: pd.DataFrame) -> str:
    """States the largest `cases`, `patients` and `seeds` of `rows`, behind the cells of a table that has no room for
    them, with a note on missing intervals."""
    cases, patients, seeds = (int(rows[name].max()) for name in ("cases", "patients", "seeds"))
    people = f"{patients} patients{f', {seeds} seeds' if seeds > 1 else ''}"
    return f"A cell has at most n = {cases} cases of {people}.{few_patients_note(rows['patients'])}"
