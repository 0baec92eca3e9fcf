"""The worst case over attacks: of every volume the strongest of several attacks, as an attacker would choose."""

from collections.abc import Sequence

import pandas as pd

from freqbench.errors import UserError, unknown
from freqbench.reporting.frames import plain
from freqbench.reporting.labels import value_text
from freqbench.reporting.strength import checked
from freqbench.reporting.tables import PAIR, current

CRITERIA = ("dsc", "dsc_foreground")
_THREAT = [*PAIR, "threat_model", "budget"]
WORST_CASE = [*_THREAT, "num_attacks", "num_cases", "dsc", "dsc_drop", "strongest", "strongest_dsc"]


def worst_case(records: pd.DataFrame, attacks: Sequence[str] | None = None, criterion: str = "dsc") -> pd.DataFrame:
    """Per case the strongest of several attacks of one threat model and budget, then the mean over cases.

    An aggregate over rows that exist, not an attack: it costs nothing, and is never above any of its attacks. Seeds are
    attacks of their own in it. Only cases that every one of the attacks has a score for count, so that no attack is
    flattered by cases that others lack; attacks without a budget, or alone in their threat model, have no row.

    Args:
        records: as in `freqbench.reporting.tables.summary`.
        attacks: which, by their text in the `attack` column of the other tables, such as `pgd eps=8/255`; None: all.
        criterion: a column of `records` by which attacks are compared, the lowest being the strongest: `dsc` or
            `dsc_foreground`.

    Returns:
        Columns WORST_CASE: `budget` as text, such as `8/255`; `dsc` and `dsc_drop` (against clean) x100 by the
        criterion, `strongest` the single attack with the lowest mean, and that mean.

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
    clean = f"{criterion}_clean"
    budgets = list(zip(frame["budget_name"], frame["budget"], strict=True))  # few, of very many rows
    texts = {budget: value_text(*budget) for budget in set(budgets)}
    frame = frame.assign(budget=pd.Series([texts[budget] for budget in budgets], index=frame.index, dtype=object))
    frame = frame.assign(_score=100 * frame[criterion].astype(float), _clean=100 * frame[clean].astype(float))
    frame = frame.dropna(subset=["_score"])
    frame = complete_cases(frame, _THREAT)
    frame = frame[frame.groupby(_THREAT, observed=True)["label"].transform("nunique") > 1]
    cases = case_minima(frame, _THREAT)
    worst = cases.groupby(_THREAT, as_index=False).agg(
        num_cases=("dsc", "size"), dsc=("dsc", "mean"), clean=("clean", "mean")
    )
    single = frame.groupby([*_THREAT, "label"], as_index=False).agg(score=("_score", "mean"))
    strongest = single.sort_values("score", kind="stable").groupby(_THREAT, as_index=False)
    best = strongest.agg(num_attacks=("label", "size"), strongest=("label", "first"), strongest_dsc=("score", "first"))
    rows = worst.merge(best, on=_THREAT)
    return plain(rows).assign(dsc_drop=rows["clean"] - rows["dsc"])[WORST_CASE]


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
    """A row a case of each group: `dsc`, the lowest `_score` of any attack and seed, `clean` and `patient_id`."""
    return frame.groupby([*by, "case_id"], as_index=False, observed=True).agg(
        dsc=("_score", "min"), clean=("_clean", "first"), patient_id=("patient_id", "first")
    )
