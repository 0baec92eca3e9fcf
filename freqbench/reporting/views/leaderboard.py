"""Which model keeps most of its DSC under the worst of several attacks of one threat model and budget."""

from collections.abc import Mapping

import pandas as pd

from freqbench.reporting.frames import plain
from freqbench.reporting.render import Section
from freqbench.reporting.statistics import mean_intervals
from freqbench.reporting.views import methods
from freqbench.reporting.views.rows import (
    COUNTS,
    bounds,
    budget_texts,
    grouped,
    is_white_box,
    one_patient_note,
    scored,
)
from freqbench.reporting.worst import case_minima, complete_cases

HOW = (
    "Models are ranked by the mean over cases of the lowest DSC that any attack (and seed) of one threat model "
    "and budget leaves on them, white-box; higher is more robust. Ranks hold within a threat model and budget "
    "only, over the attacks and cases that all its models have. Where the interval of `behind` (points behind the "
    "first, paired by case) holds 0, the order of the two is open; with few or weak attacks all numbers are upper "
    "bounds of the robustness. "
)


def leaderboard(records: pd.DataFrame) -> list[Section]:
    """A table a dataset: models ranked within each threat model and budget.

    Args:
        records: after `tables.current(strength.checked(...))`.
    """
    frame = scored(records, ["target_method"])
    frame = frame[is_white_box(frame) & frame["budget"].notna() & frame["dsc"].notna()]
    if frame.empty:
        return [
            Section("Leaderboard", text="No white-box attack with a budget was scored, so there is nothing to rank by.")
        ]
    frame = frame.assign(_score=frame["dsc"], _clean=frame["clean"], budget_text=budget_texts(frame))
    return [_section(str(dataset), own) for dataset, own in frame.groupby("dataset", observed=True)]


def _section(dataset: str, frame: pd.DataFrame) -> Section:
    boards, notes = [], []
    known = methods.methods_of(frame)
    replicated = methods.are_replicated(known)
    keys = ["threat_model", "budget_name", "budget_text"]
    for (threat_model, name, value), rows in frame.groupby(keys, observed=True):
        board, note = _board(rows, known if replicated else None)
        boards.append(board.assign(threat_model=str(threat_model), budget=f"{name}={value}"))
        if note:
            notes.append(f"{threat_model}, {name}={value}: {note}.")
    data = pd.concat([board for board in boards if len(board)] or boards, ignore_index=True).assign(dataset=dataset)
    title = f"{dataset}: {'training methods' if replicated else 'models'} by the worst case"
    if data.empty:
        return Section(title, text=" ".join(notes))
    text = " ".join([HOW + COUNTS + one_patient_note(data), *_on_methods(known, replicated), *notes])
    return Section(title, _table(data), text, data)


def _on_methods(known: Mapping[str, str], replicated: bool) -> list[str]:
    """Whether the ranks are those of training methods."""
    if replicated:
        return [methods.HOW]
    return [f"{methods.ONE_EACH.capitalize()}."] if len(known) > 1 else []


def _board(rows: pd.DataFrame, known: Mapping[str, str] | None) -> tuple[pd.DataFrame, str]:
    """The models of one threat model and budget in their order, and what could not be compared.

    Args:
        rows: of one threat model and budget.
        known: the method of each model, where methods are to be ranked in the place of models.
    """
    models = rows["target_model"].nunique()
    runs = plain(rows[["target_model", "label"]].drop_duplicates()).groupby("label").size()
    common, lacking = runs.index[runs == models], list(runs.index[runs < models])
    notes = ["one model only, so the rank says nothing"] if models == 1 else []
    notes += [f"not run on every model, so not counted: {', '.join(lacking)}"] if lacking else []
    complete = complete_cases(rows[rows["label"].isin(common)], ["target_model"])
    minima = case_minima(complete, ["target_model"])
    is_shared = minima.groupby("case_id", observed=True)["target_model"].transform("size") == models
    left_out = rows["case_id"].nunique() - minima.loc[is_shared, "case_id"].nunique()
    minima = plain(minima[is_shared])
    if minima.empty:
        return pd.DataFrame(), "; ".join([*notes, "no case that every model and attack has a score for, so no ranks"])
    if left_out:
        notes.append(f"{left_out} cases left out that not every model and attack has a score for")
    complete = complete[complete["case_id"].isin(minima["case_id"].unique())]
    board = grouped(minima.assign(seed=0), ["target_model"], "dsc", ["clean"]).assign(seeds=complete["seed"].nunique())
    singles = complete.groupby(["target_model", "label"], observed=True)["dsc"].mean()
    strongest = {model: means.droplevel(0).idxmin() for model, means in singles.groupby("target_model", observed=True)}
    board = board.assign(
        strongest=board["target_model"].map(strongest), num_attacks=len(common), dsc_drop=board["clean"] - board["dsc"]
    )
    board = board.sort_values("dsc", ascending=False, kind="stable", ignore_index=True)
    board["rank"] = board["dsc"].rank(ascending=False, method="min").astype(int)
    if known is not None:
        board, note = methods.by_method(board, minima, known)
        return board, "; ".join([*notes, note] if note else notes)
    behind = _behind(minima, str(board["target_model"].iloc[0]))
    return board.merge(behind, on="target_model"), "; ".join(notes)


def _behind(minima: pd.DataFrame, first: str) -> pd.DataFrame:
    """Points behind the first model, paired by case; none for the first itself."""
    wide = minima.pivot(index=["case_id", "patient_id"], columns="target_model", values="dsc")
    behind = wide.rsub(wide[first], axis=0).reset_index().melt(["case_id", "patient_id"], value_name="behind")
    behind["behind"] = behind["behind"].where(behind["target_model"] != first)
    rows = mean_intervals(behind, ["target_model"], "behind")
    names = {"mean": "behind", "low": "behind_low", "high": "behind_high"}
    return rows.rename(columns=names)[["target_model", *names.values()]]


def _table(data: pd.DataFrame) -> pd.DataFrame:
    shown = data[["threat_model", "budget", "rank"]].assign(model=data["target_model"])
    if "networks" in data:
        shown["networks"] = data["networks"]
    for name in ("cases", "seeds", "patients", "num_attacks", "dsc"):
        shown[name] = data[name]
    shown["interval"] = bounds(data)
    shown["DSC clean"], shown["dsc_drop"], shown["strongest"] = data["clean"], data["dsc_drop"], data["strongest"]
    return shown.assign(behind=data["behind"], **{"behind interval": bounds(data, "behind_low", "behind_high")})
