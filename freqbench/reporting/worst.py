"""The worst case over attacks: of every volume the strongest of several attacks, as an attacker would choose."""

from collections.abc import Sequence

import pandas as pd

from freqbench.errors import UserError, unknown
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
    own = frame.groupby([*_THREAT, "case_id"])["label"].transform("nunique")
    all_of_them = frame.groupby(_THREAT)["label"].transform("nunique")
    frame = frame[(own == all_of_them) & (all_of_them > 1)]
    cases = frame.groupby([*_THREAT, "case_id"], as_index=False).agg(dsc=("_score", "min"), clean=("_clean", "first"))
    worst = cases.groupby(_THREAT, as_index=False).agg(
        num_cases=("dsc", "size"), dsc=("dsc", "mean"), clean=("clean", "mean")
    )
    single = frame.groupby([*_THREAT, "label"], as_index=False).agg(score=("_score", "mean"))
    strongest = single.sort_values("score", kind="stable").groupby(_THREAT, as_index=False)
    best = strongest.agg(num_attacks=("label", "size"), strongest=("label", "first"), strongest_dsc=("score", "first"))
    rows = worst.merge(best, on=_THREAT)
    return rows.assign(dsc_drop=rows["clean"] - rows["dsc"])[WORST_CASE]
