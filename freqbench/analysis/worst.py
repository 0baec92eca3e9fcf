"""The worst case over attacks: of every volume the strongest of several attacks, as an attacker would choose."""

from collections.abc import Sequence

import pandas as pd

from freqbench.analysis.frames import plain
from freqbench.analysis.labels import value_text
from freqbench.analysis.strength import checked
from freqbench.analysis.tables import PAIR, current
from freqbench.core.errors import UserError, unknown

CRITERIA = ("dsc_foreground", "dsc")
_THREAT = [*PAIR, "threat_model", "budget"]
WORST_CASE = [
    *_THREAT,
    *("num_attacks", "num_cases", "dsc_foreground", "dsc_foreground_drop", "hd95_penalised_mm", "dsc", "dsc_drop"),
    *("strongest", "strongest_dsc"),
]


def worst_case(
    records: pd.DataFrame, attacks: Sequence[str] | None = None, criterion: str = "dsc_foreground"
) -> pd.DataFrame:
    """Per case the strongest of several attacks of one threat model and budget, then the mean over cases.

    An aggregate over rows that exist, not an attack: it costs nothing, and is never above any of its attacks. Seeds are
    attacks of their own in it. Only cases that every one of the attacks has a score for count, so that no attack is
    flattered by cases that others lack; attacks without a budget, or alone in their threat model, have no row.

    Args:
        records: as in `freqbench.analysis.tables.summary`.
        attacks: which, by their text in the `attack` column of the other tables, such as `pgd eps=8/255`; None: all.
        criterion: a column of `records` by which attacks are compared, the lowest being the strongest:
            `dsc_foreground` or the papers' `dsc`.

    Returns:
        Columns WORST_CASE: `budget` as text, such as `8/255`; means over the strongest volumes, Dice x100 and drops
        against clean in the same points; `strongest` the single attack with the lowest mean of the criterion, and
        that mean, `strongest_dsc`.

    Raises:
        UserError: no such criterion or attack.
    """
    if criterion not in CRITERIA:
        raise UserError(unknown("criterion", criterion, CRITERIA))
    frame = current(checked(records))
    known = frame["label"].unique()
    for name in attacks or ():
        if name not in known:
            raise UserError(unknown("attack", name, known))
    is_wanted = frame["label"].isin(known if attacks is None else attacks)
    frame = frame[is_wanted & (frame["left_out"] == "") & (frame["status"] == "ok") & frame["budget"].notna()]
    budgets = list(zip(frame["budget_name"], frame["budget"], strict=True))  # few, of very many rows
    texts = {budget: value_text(*budget) for budget in set(budgets)}
    frame = frame.assign(budget=pd.Series([texts[budget] for budget in budgets], index=frame.index, dtype=object))
    for name in CRITERIA:
        frame[name] = 100 * frame[name].astype(float)
        frame[f"{name}_drop"] = 100 * frame[f"{name}_clean"].astype(float) - frame[name]
    frame = frame.assign(_score=frame[criterion], hd95_penalised_mm=frame["hd95_penalised"].astype(float))
    frame = frame.dropna(subset=["_score"])
    frame = complete_cases(frame, _THREAT)
    frame = frame[frame.groupby(_THREAT, observed=True)["label"].transform("nunique") > 1]
    cases = case_minima(frame, _THREAT)
    groups = cases.groupby(_THREAT, observed=True)
    means = groups[[*CRITERIA, *(f"{name}_drop" for name in CRITERIA), "hd95_penalised_mm"]].mean()
    worst = means.assign(num_cases=groups.size()).reset_index()
    single = frame.groupby([*_THREAT, "label"], as_index=False, observed=True).agg(score=("_score", "mean"))
    strongest = single.sort_values("score", kind="stable").groupby(_THREAT, as_index=False, observed=True)
    best = strongest.agg(num_attacks=("label", "size"), strongest=("label", "first"), strongest_dsc=("score", "first"))
    return plain(worst.merge(best, on=_THREAT))[WORST_CASE]


def complete_cases(frame: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """The rows of the cases that every attack of their group has a score for.

    Args:
        frame: rows with a score, with the columns `by`, `case_id` and `label`.
        by: the columns that make a group.
    """
    own = frame.groupby([*by, "case_id"], observed=True)["label"].transform("nunique")
    all_of_them = frame.groupby(list(by), observed=True)["label"].transform("nunique")
    return frame[own == all_of_them]


def case_minima(frame: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """The row of each case of each group that has the lowest `_score` of any attack and seed."""
    lowest = frame.sort_values("_score", kind="stable").drop_duplicates([*by, "case_id"])
    return lowest.sort_values([*by, "case_id"], kind="stable", ignore_index=True)
