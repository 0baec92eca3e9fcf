"""Ranks entries by their worst case: a board for each threat model with its bounds, over the same cases."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import pandas as pd

from freqbench.analysis import groups
from freqbench.reporting.leaderboard.entry_folder import Entry
from freqbench.reporting.views.leaderboard import decided, pair_tests

SCORE = "dsc_foreground"


@dataclass(frozen=True, kw_only=True, eq=False)
class Board:
    """Entries of one threat model with its bounds, in order of rank.

    Attributes:
        bounds: threat model with its bounds, such as `linf eps=8/255`.
        rows: by entry: `rank entry cases patients dsc_foreground low high dsc_foreground_clean drop strongest`,
            then points `behind` the first with `behind_low`, `behind_high`, and whether the `order` of the two `holds`
            or is `open`. Dice x100.
    """

    dataset: str
    bounds: str
    rows: pd.DataFrame


def boards_of(entries: Sequence[Entry]) -> list[Board]:
    """Makes the boards, by dataset and bounds: entries of one board share their bounds and the digests of their cases.

    An entry's score is the mean over cases of the lowest foreground DSC that any of its attacks with these bounds, its
    audit's too, leaves; its interval is over patients. The order is tested as in `report --table leaderboard`.
    """
    cases: dict[Hashable, list[pd.DataFrame]] = {}
    for entry in entries:
        worst = pd.DataFrame([dict(each) for each in entry.seal.worst_cases])
        for (dataset, bounds), part in worst.groupby(["dataset", "bounds"]):
            place = bounds, frozenset(part["case_key"])
            cases.setdefault(place, []).append(part.assign(target_model=entry.name, dataset=str(dataset)))
    ranked = [_ranked(pd.concat(part, ignore_index=True)) for part in cases.values()]
    if not ranked:
        return []
    data = pd.concat([rows.assign(budget=place) for place, (rows, _) in enumerate(ranked)], ignore_index=True)
    tests = [
        pairs.assign(budget=place, threat_model=rows["threat_model"][0]) for place, (rows, pairs) in enumerate(ranked)
    ]
    data = decided(data, pd.concat(tests, ignore_index=True))
    return [
        Board(dataset=str(dataset), bounds=str(bounds), rows=rows.reset_index(drop=True))
        for (dataset, bounds, _), rows in data.rename(columns={"target_model": "entry"}).groupby(
            ["dataset", "threat_model", "budget"]
        )
    ]


def _ranked(worst: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Returns the rows of a board, and the tests of all its pairs."""
    scores = {name: 100 * worst[name] for name in (SCORE, "dsc_foreground_clean")}
    cases = worst.assign(**scores, case_id=worst["case_key"], seed=0)
    cases["drop"] = cases["dsc_foreground_clean"] - cases[SCORE]
    rows = groups.grouped(cases, ["target_model"], SCORE, ["dsc_foreground_clean", "drop"])
    strongest = cases.groupby("target_model")["attack"].agg(lambda each: each.value_counts().index[0])
    rows = rows.assign(
        dataset=worst["dataset"].iloc[0],
        threat_model=worst["bounds"].iloc[0],
        strongest=rows["target_model"].map(strongest),
        rank=rows[SCORE].rank(ascending=False, method="min").astype(int),
    )
    rows = rows.sort_values(["rank", "target_model"], ignore_index=True)
    return rows, pair_tests(cases, rows["target_model"].tolist())
