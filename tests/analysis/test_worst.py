"""The worst case over attacks, on records whose numbers are known."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from freqbench.analysis.worst import WORST_CASE, worst_case
from freqbench.core.errors import UserError
from freqbench.reporting.report import report

Row = Callable[..., dict[str, Any]]
Records = Callable[..., pd.DataFrame]

LINF = {"threat_model": "linf", "budget_name": "eps", "budget": 8 / 255}


def two_attacks(row: Row) -> list[dict[str, Any]]:
    """Each is the stronger one on one of two cases."""
    scores = {("pgd", 0): 0.2, ("pgd", 1): 0.6, ("gn", 0): 0.5, ("gn", 1): 0.4}
    return [row(name, case=case, dsc=dsc, dsc_clean=0.9, **LINF) for (name, case), dsc in scores.items()]


def test_of_every_case_the_strongest_counts(row: Row, records: Records) -> None:
    (found,) = worst_case(records(*two_attacks(row))).to_dict("records")
    assert list(found) == WORST_CASE
    assert found["budget"] == "8/255"
    assert found["dsc"] == pytest.approx(30)
    assert found["dsc_drop"] == pytest.approx(60)
    assert (found["num_attacks"], found["num_cases"]) == (2, 2)
    assert (found["strongest"], found["strongest_dsc"]) == ("pgd eps=8/255", pytest.approx(40))


def test_seeds_are_attacks_of_their_own(row: Row, records: Records) -> None:
    rows = [*two_attacks(row), row("gn", case=1, dsc=0.1, dsc_clean=0.9, seed=1, **LINF)]
    assert worst_case(records(*rows))["dsc"].tolist() == [pytest.approx(15)]


def test_a_case_that_one_attack_lacks_does_not_count(row: Row, records: Records) -> None:
    failed = row("gn", case=2, status="failed", **LINF)
    rows = [*two_attacks(row), row(case=2, dsc=0.0, dsc_clean=0.9), failed]
    (found,) = worst_case(records(*rows)).to_dict("records")
    assert (found["num_cases"], found["dsc"], found["strongest_dsc"]) == (2, pytest.approx(30), pytest.approx(40))


def test_threat_models_budgets_and_models_are_never_mixed(row: Row, records: Records) -> None:
    others = [
        row("vafa", dsc=0.0, dsc_clean=0.9),
        row("gn", dsc=0.0, dsc_clean=0.9, **{**LINF, "budget": 16 / 255}),
        row(target="unetr", dsc=0.0, dsc_clean=0.9),
        row("dfb", dsc=0.0, dsc_clean=0.9),
    ]
    assert worst_case(records(*two_attacks(row), *others))["dsc"].tolist() == [pytest.approx(30)]


def test_attacks_can_be_named(row: Row, records: Records) -> None:
    rows = [*two_attacks(row), *(row("faa", case=case, dsc=0.0, dsc_clean=0.9, **LINF) for case in (0, 1))]
    frame = records(*rows)
    assert worst_case(frame)["dsc"].tolist() == [pytest.approx(0)]
    assert worst_case(frame, ["pgd eps=8/255", "gn eps=8/255"])["dsc"].tolist() == [pytest.approx(30)]
    with pytest.raises(UserError, match=r"unknown attack 'pgd eps=9/255'\. Did you mean 'pgd eps=8/255'"):
        worst_case(frame, ["pgd eps=9/255"])


def test_the_foreground_chooses_unless_the_papers_dsc_is_asked_for(row: Row, records: Records) -> None:
    rows = [each | {"dsc_foreground": 1 - each["dsc"], "dsc_foreground_clean": 1.0} for each in two_attacks(row)]
    (found,) = worst_case(records(*rows)).to_dict("records")
    assert (found["dsc_foreground"], found["strongest"]) == (pytest.approx(45), "gn eps=8/255")
    assert (found["dsc_foreground_drop"], found["dsc"]) == pytest.approx((55, 55))  # of the same volumes
    (found,) = worst_case(records(*rows), criterion="dsc").to_dict("records")
    assert (found["dsc"], found["dsc_foreground"]) == pytest.approx((30, 70))
    with pytest.raises(UserError, match="unknown criterion 'hd95'"):
        worst_case(records(*rows), criterion="hd95")


def test_what_fails_the_strength_check_does_not_count(row: Row, records: Records) -> None:
    rows = [*two_attacks(row), *(row(case=case, dsc=0.0, dsc_clean=0.9, precision="bf16") for case in (0, 1))]
    assert worst_case(records(*rows))["dsc"].tolist() == [pytest.approx(30)]


def test_the_page_has_a_section_where_there_is_something_to_choose(row: Row, table: Callable[..., Any]) -> None:
    assert "phantom: worst case over attacks" in report(table(*two_attacks(row)), format="markdown")
    assert "worst case" not in report(table(row(dsc=0.2, dsc_clean=0.9)), format="markdown")
