"""Natural beside adversarial robustness: what is compared, and the tables."""

from itertools import product
from typing import Any

import pandas as pd
import pytest
from reporting.handmade import records, row, shown

from freqbench.reporting.figure_data import shown_rows
from freqbench.reporting.views import natural
from freqbench.reporting.views.natural import NaturalComparison

MODELS = ("a", "b")
INTERVALS = ("under corruptions\ninterval", "under attacks\ninterval")


def corrupted(model: str, case: int, drop: float, kind: str = "blur", severity: float = 1.0, **more: Any) -> Any:
    values = {"source": model, "target": model, "dsc": 0.9 - drop / 100, "dsc_clean": 0.9, "budget": severity} | more
    return row("corruption", {"kind": kind, "scope": "volume"}, case=case, **values)


def attacked(model: str, case: int, drop: float, attack: str = "pgd", **more: Any) -> Any:
    values = {"source": model, "target": model, "dsc": 0.9 - drop / 100, "dsc_clean": 0.9} | more
    return row(attack, case=case, **values)


def attacks() -> list[Any]:
    """Rows of two attacks, each worse on one of two cases."""
    drops = {("pgd", 0): 40, ("pgd", 1): 10, ("vafa", 0): 20, ("vafa", 1): 30}
    return [attacked(model, case, drop, attack) for model, ((attack, case), drop) in product(MODELS, drops.items())]


def compared(*rows: Any) -> NaturalComparison:
    comparison = natural.compare_models(shown_rows(records(*rows)))
    assert isinstance(comparison, NaturalComparison), comparison
    return comparison


def drops(table: pd.DataFrame, *by: str) -> dict[Any, float]:
    return {tuple(row[name] for name in by): row["mean"] for row in table.to_dict("records")}


def both_kinds() -> list[Any]:
    """Model a loses 1, 2 by blur, 3, 4 by motion at severities 1 and 5 on case 0, twice that on case 1; b 10 more."""
    settings = enumerate(product(("blur", "motion"), (1.0, 5.0)), 1)
    return [
        corrupted(model, case, (1 + case) * number + 10 * (model == "b"), kind, severity)
        for model, case, (number, (kind, severity)) in product(MODELS, (0, 1), settings)
    ]


def test_drops_are_means_over_kinds_and_over_severities() -> None:
    comparison = compared(*both_kinds(), *attacks())
    by_severity = {("a", 1): 3, ("a", 5): 4.5, ("b", 1): 13, ("b", 5): 14.5}
    assert drops(comparison.by_severity, "target_model", "budget") == pytest.approx(by_severity)
    by_row = drops(comparison.by_row, "target_model", "row")
    assert {key: by_row[key] for key in (("a", "blur"), ("a", "motion"), ("b", "blur"))} == pytest.approx(
        {("a", "blur"): 2.25, ("a", "motion"): 5.25, ("b", "blur"): 12.25}
    )
    assert by_row["a", "pgd eps=8/255"] == pytest.approx(25)
    expected = [("natural", "blur"), ("natural", "motion"), ("attack", "vafa q_max=20"), ("attack", "pgd eps=8/255")]
    assert (list(comparison.rows), comparison.models, comparison.n) == (expected, MODELS, 2)


def test_worst_attack_is_each_cases_own() -> None:
    remaining = compared(*both_kinds(), *attacks()).left
    left = {("a", "natural"): 90 - 3.75, ("b", "natural"): 90 - 13.75, ("a", "attack"): 55, ("b", "attack"): 55}
    assert drops(remaining, "target_model", "group") == pytest.approx(left)
    assert remaining["low"].isna().all()  # of two patients


def test_corrupted_volume_serves_models_without_their_own() -> None:
    """Corrupted once for a, scored on both; b's own row is taken where there is one. Attacks count white-box only."""
    rows = [corrupted("a", 0, 2), corrupted("a", 0, 6, target="b"), attacked("a", 0, 50), attacked("b", 0, 50)]
    transferred = attacked("a", 0, 80, target="b")
    comparison = compared(*rows, transferred)
    assert drops(comparison.by_row, "target_model", "row")["b", "blur"] == pytest.approx(6)
    assert drops(comparison.left, "target_model", "group")["b", "attack"] == pytest.approx(40)
    comparison = compared(*rows, transferred, corrupted("b", 0, 7))
    assert drops(comparison.by_row, "target_model", "row")["b", "blur"] == pytest.approx(7)


def test_settings_not_shared_by_all_models_are_left_out() -> None:
    further = [corrupted("a", 0, 50, "spikes"), corrupted("a", 1, 50, "spikes"), corrupted("a", 2, 50)]
    further.append(attacked("a", 0, 70, "gn"))
    further += [attacked(model, 2, 60, attack) for model, attack in product(MODELS, ("pgd", "vafa"))]
    plain, more = (compared(*both_kinds(), *attacks(), *rows) for rows in ([], further))
    assert (more.rows, more.n) == (plain.rows, 2)
    pd.testing.assert_frame_equal(more.left, plain.left)
    pd.testing.assert_frame_equal(more.by_severity, plain.by_severity)


@pytest.mark.parametrize(("rows", "reason"), [
    ([corrupted("a", 0, 5)], "no model was both corrupted and attacked"),
    ([corrupted("a", 0, 5), attacked("b", 0, 5)], "no model was both corrupted and attacked"),
    ([corrupted("a", 0, 5), attacked("a", 1, 5)], "no case has the same corruptions and the same attacks"),
    ([corrupted("a", 0, 5, dsc=None), attacked("a", 0, 5)], "no model was both corrupted and attacked"),
])  # fmt: skip
def test_rows_that_cannot_be_compared_have_a_reason(rows: list[Any], reason: str) -> None:
    (section,) = natural.natural(shown(*rows))
    assert section.text.startswith(reason.capitalize())


def test_tables_say_what_the_comparison_holds() -> None:
    """The papers' DSC, with the background, is 5 points above that of the foreground."""
    rows = [row | {name: row[name] + 0.05 for name in ("dsc", "dsc_clean")} for row in (*both_kinds(), *attacks())]
    left, by_row = natural.natural(shown(*rows))
    first = left.table.iloc[0].to_dict()
    assert first["model"] == "a"
    assert {name: first[name] for name in first if name not in ("model", *INTERVALS)} == pytest.approx(
        {"dsc_foreground_clean": 90, "under corruptions\nforeground DSC": 86.25, "under attacks\nforeground DSC": 55,
            "drop at severity\n1": 3, "drop at severity\n5": 4.5, "DSC\nclean": 95, "DSC\ncorruptions": 91.25,
            "DSC\nattacks": 60}
    )  # fmt: skip
    assert first["under corruptions\ninterval"] == ""  # of two patients
    assert list(by_row.table["what"]) == ["blur", "motion", "vafa q_max=20", "pgd eps=8/255"]
    assert list(by_row.table["b\ndrop"]) == pytest.approx([12.25, 15.25, 25, 25])
