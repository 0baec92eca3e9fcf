"""Which model keeps most of its foreground DSC under the worst of several attacks of one threat model and budget."""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pandas as pd

from freqbench.analysis.frames import plain
from freqbench.analysis.groups import (
    COUNTS,
    beside,
    bounds,
    budget_texts,
    grouped,
    is_white_box,
    one_patient_note,
    scored,
)
from freqbench.analysis.statistics import SIGNIFICANCE, holm, t_tests
from freqbench.analysis.tables import case_minima, complete_cases
from freqbench.reporting.render import Section
from freqbench.reporting.views import methods

SCORE = "dsc_foreground"
KEYS = ["threat_model", "budget_name", "budget_text"]
HOW = (
    "Models are ranked by the mean over cases of the lowest foreground DSC that any attack (and seed) of one threat "
    "model and budget leaves on them, white-box; higher is more robust, and the other scores are of the same volumes. "
    "Ranks are within a threat model and budget only, over the attacks and cases that all its models have. `behind` is "
    "points behind the first, paired by case, with its own interval (Student's t, not corrected); the order of the two "
    "holds where the t-test over patients, Holm-corrected over all pairs of models of all threat models and budgets "
    "of this table, has p below 0.05, else it is open. With few or weak attacks all numbers are upper bounds of the "
    "robustness. "
)


def leaderboard(records: pd.DataFrame) -> list[Section]:
    """A table a dataset: models ranked within each threat model and budget.

    Args:
        records: after `tables.current(strength.checked(...))`.
    """
    frame = scored(records, ["target_method"])
    frame = frame[is_white_box(frame) & frame["budget"].notna() & frame[SCORE].notna()]
    if frame.empty:
        return [
            Section("Leaderboard", text="No white-box attack with a budget was scored, so there is nothing to rank by.")
        ]
    frame = frame.assign(_score=frame[SCORE], budget_text=budget_texts(frame))
    return [_section(str(dataset), own) for dataset, own in frame.groupby("dataset", observed=True)]


def _section(dataset: str, frame: pd.DataFrame) -> Section:
    boards, pairs, notes = [], [], []
    known = methods.methods_of(frame)
    replicated = methods.are_replicated(known)
    for (threat_model, name, value), rows in frame.groupby(KEYS, observed=True):
        board, tests, note = _board(rows, known if replicated else None)
        place = {"threat_model": str(threat_model), "budget": f"{name}={value}"}
        boards.append(board.assign(**place))
        pairs.append(tests.assign(**place))
        if note:
            notes.append(f"{threat_model}, {name}={value}: {note}.")
    data = pd.concat([board for board in boards if len(board)] or boards, ignore_index=True)
    title = f"{dataset}: {'training methods' if replicated else 'models'} by the worst case"
    if data.empty:
        return Section(title, text=" ".join(notes))
    data = _decided(data, pd.concat(pairs, ignore_index=True)).assign(dataset=dataset)
    text = " ".join([HOW + COUNTS + one_patient_note(data), *_on_methods(known, replicated), *notes])
    return Section(title, _table(data), text, data)


def _on_methods(known: Mapping[str, str], replicated: bool) -> list[str]:
    """Whether the ranks are those of training methods."""
    if replicated:
        return [methods.HOW]
    return [f"{methods.ONE_EACH.capitalize()}."] if len(known) > 1 else []


def _board(rows: pd.DataFrame, known: Mapping[str, str] | None) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """The models of one threat model and budget in their order, tests of all pairs, and what could not be compared.

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
        note = "; ".join([*notes, "no case that every model and attack has a score for, so no ranks"])
        return pd.DataFrame(), pd.DataFrame(), note
    if left_out:
        notes.append(f"{left_out} cases left out that not every model and attack has a score for")
    complete = complete[complete["case_id"].isin(minima["case_id"].unique())]
    means = ["dsc_foreground_clean", "dsc_foreground_drop", "hd95_penalised", "dsc"]
    board = grouped(minima.assign(seed=0), ["target_model"], SCORE, means)
    singles = complete.groupby(["target_model", "label"], observed=True)[SCORE].mean()
    strongest = {model: means.droplevel(0).idxmin() for model, means in singles.groupby("target_model", observed=True)}
    board = board.assign(
        seeds=complete["seed"].nunique(), strongest=board["target_model"].map(strongest), num_attacks=len(common)
    )
    board = board.sort_values(SCORE, ascending=False, kind="stable", ignore_index=True)
    board["rank"] = board[SCORE].rank(ascending=False, method="min").astype(int)
    if known is not None:
        board, tests, note = methods.by_method(board, minima, known, [SCORE, *means])
        return board, tests, "; ".join([*notes, note] if note else notes)
    return board, _tests(minima, board["target_model"].tolist()), "; ".join(notes)


def _tests(minima: pd.DataFrame, ranked: list[str]) -> pd.DataFrame:
    """Points that a model is `behind` each model `ahead` of it, paired by case, with their tests."""
    wide = minima.pivot(index=["case_id", "patient_id"], columns="target_model", values=SCORE).reset_index()
    pairs = [
        pd.DataFrame(
            {"ahead": a, "target_model": b, "behind": wide[a] - wide[b], "patient_id": wide["patient_id"]},
        )
        for a, b in combinations(ranked, 2)
    ]
    return t_tests(pd.concat(pairs), ["ahead", "target_model"], "behind") if pairs else pd.DataFrame()


def _decided(data: pd.DataFrame, tests: pd.DataFrame) -> pd.DataFrame:
    """With the test against the first of each board, corrected over all pairs of all boards."""
    columns = {"mean": "behind", "low": "behind_low", "high": "behind_high", "p": "p", "p_holm": "p_holm"}
    if "p" not in tests:
        return data.assign(**dict.fromkeys(columns.values(), np.nan), order="")
    place = ["threat_model", "budget"]
    first = data[data["rank"].groupby([data[name] for name in place]).cumcount() == 0]
    against = tests.assign(p_holm=holm(tests["p"])).rename(columns=columns)
    against = against.merge(first[[*place, "target_model"]].rename(columns={"target_model": "ahead"}))
    data = data.merge(against[[*place, "target_model", *columns.values()]], on=[*place, "target_model"], how="left")
    order = np.where(data["p_holm"] < SIGNIFICANCE, "holds", "open")
    return data.assign(order=np.where(data["behind"].notna(), order, ""))


def _table(data: pd.DataFrame) -> pd.DataFrame:
    shown = data[["threat_model", "budget"]].assign(model=data["target_model"], rank=data["rank"])
    if "networks" in data:
        shown["networks"] = data["networks"]
    for name in ("cases", "seeds", "patients", "num_attacks", SCORE):
        shown[name] = data[name]
    shown["interval"] = bounds(data)
    shown["behind"], shown["behind interval"] = data["behind"], bounds(data, "behind_low", "behind_high")
    others = beside(data, "dsc", "dsc_foreground_drop", "strongest")
    return shown.assign(order=data["order"], **others)
