"""Drop and distance of each attack, against values by hand."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from scipy import stats

from freqbench.reporting.distances import drops_by_distance
from freqbench.reporting.prepared import shown_rows

Make = Callable[..., dict[str, Any]]
Frame = Callable[..., pd.DataFrame]

CLEAN = {"dsc_foreground_clean": 0.9}


def test_the_drop_is_of_the_foreground_with_student_s_interval_over_patients(row: Make, records: Frame) -> None:
    left, sizes = (0.8, 0.6, 0.7), (4.0, 6.0, 8.0)
    rows = [
        row(case=case, dsc=0.1, dsc_clean=0.9, dsc_foreground=dsc, l2_body=size, **CLEAN)
        for case, (dsc, size) in enumerate(zip(left, sizes, strict=True))
    ]
    (found,) = drops_by_distance(shown_rows(records(*rows))).to_dict("records")
    expected = stats.ttest_1samp([10, 30, 20], 0).confidence_interval(0.95)
    assert [found[name] for name in ("l2_body", "drop", "low", "high", "n")] == pytest.approx([6, 20, *expected, 3])


def test_null_rows_are_told_apart_and_what_was_not_measured_is_left_out(row: Make, records: Frame) -> None:
    measured = {"dsc_foreground": 0.5, "l2_body": 8.0, **CLEAN}
    rows = [row("vafa", {"control": control}, **measured) for control in ("none", "uniform", "random")]
    rows += [row("pgd", dsc_foreground=0.5, **CLEAN), row("gn", l2_body=8.0, **CLEAN)]
    found = drops_by_distance(shown_rows(records(*rows))).set_index("label")["is_null"].to_dict()
    assert found == {
        "vafa q_max=20": False,
        "vafa q_max=20 control=uniform": True,
        "vafa q_max=20 control=random": True,
    }
