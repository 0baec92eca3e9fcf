"""Leaderboard of training methods, where networks are replicates of one."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from reporting import student

from freqbench.analysis.statistics import nested_interval
from freqbench.reporting.views.leaderboard import leaderboard, methods_of

Row = Callable[..., dict[str, Any]]
Frame = Callable[..., pd.DataFrame]
PGD, VAFT = [[40.0, 50.0], [60.0, 80.0], [50.0, 50.0]], [[70.0], [20.0], [30.0]]
CLEAN = 0.9


def on(row: Row, model: str, scores: list[float], **values: Any) -> list[dict[str, Any]]:
    return [
        row(source=model, target=model, case=case, dsc_foreground=score / 100, dsc_foreground_clean=CLEAN, **values)
        for case, score in enumerate(scores)
    ]


@pytest.fixture
def rows(row: Row) -> list[dict[str, Any]]:
    """`at-pgd` and its replicate, and `vaft`."""
    return [
        *on(row, "at-pgd", [each[0] for each in PGD], target_method="a" * 16),
        *on(row, "at-pgd.1", [each[1] for each in PGD], target_method="a" * 16),
        *on(row, "vaft", [each[0] for each in VAFT], target_method="b" * 16),
    ]


def board(frame: pd.DataFrame) -> tuple[list[dict[str, Any]], str]:
    (section,) = leaderboard(frame)
    return student.lines(section), section.text


def test_methods_rank_by_their_networks_mean_with_the_nested_interval(shown: Frame, rows: Any) -> None:
    (first, second), text = board(shown(*rows))
    ranked = [(each["rank"], each["target_model"], each["networks"]) for each in (first, second)]
    assert ranked == [(1, "at-pgd", 2), (2, "vaft", 1)]
    expected = nested_interval(PGD)
    assert (first["dsc_foreground"], first["low"], first["high"]) == pytest.approx((55, expected.low, expected.high))
    others = [first[name] for name in ("dsc_foreground_clean", "dsc_foreground_drop", "cases", "patients")]
    assert others == pytest.approx([90, 35, 3, 3])
    expected = nested_interval(PGD, minus=VAFT)
    behind = [second[name] for name in ("behind", "behind_low", "behind_high")]
    assert behind == pytest.approx([15, expected.low, expected.high])
    assert pd.isna(first["behind"])
    assert "linf, eps=8/255: one network, so its intervals hold no spread of trainings: vaft." in text
    assert "holds the spread of both instead of that of patients alone" in text
    assert "one network a method" not in text.lower()
    (section,) = leaderboard(shown(*rows))
    assert section.title == "phantom: training methods by the worst case"
    assert section.table[["model", "networks"]].to_numpy().tolist() == [["at-pgd", 2], ["vaft", 1]]


def test_networks_of_one_method_each_are_ranked_as_networks_and_said_to_be(shown: Frame, rows: Any) -> None:
    lines, text = board(shown(*rows[3:]))
    assert [line["target_model"] for line in lines] == ["at-pgd.1", "vaft"]
    assert "networks" not in lines[0]
    assert "One network a method: the order of networks, not of training methods." in text
    assert "One network a method" not in board(shown(*rows[6:]))[1]  # one network alone is no order


def test_trainings_of_one_name_are_two_methods_and_others_are_one(row: Row, shown: Frame) -> None:
    """Two stores have an `at` each; a third has a replicate of the first store's under a name of its own."""
    frame = shown(
        *on(row, "unknown", [1.0]),
        *on(row, "at", [1.0], target_model_id="1" * 16, source_model_id="1" * 16, target_method="a" * 16),
        *on(row, "at", [1.0], target_model_id="2" * 16, source_model_id="2" * 16, target_method="b" * 16),
        *on(row, "seed seven", [1.0], target_method="a" * 16),
    )
    of_names = {"at#111111": "at#111111", "at#222222": "at#222222", "seed seven": "at#111111", "unknown": "unknown"}
    assert methods_of(frame) == of_names


def test_rows_that_were_stored_before_methods_were_take_that_of_later_ones(row: Row, shown: Frame) -> None:
    rows = [*on(row, "at", [1.0]), *on(row, "at", [1.0, 2.0], budget=4 / 255, target_method="a" * 16)]
    assert methods_of(shown(*rows, *on(row, "at.1", [1.0], target_method="a" * 16))) == {"at": "at", "at.1": "at"}
