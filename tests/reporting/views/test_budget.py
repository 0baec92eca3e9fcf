"""Budget: curves of attacks, clean first."""

import numpy as np
import pytest
from reporting.handmade import row, shown

from freqbench.reporting.views.budget import budget


def test_a_curve_starts_clean_and_has_one_name_without_the_budget() -> None:
    rows = [
        row("pgd", case=case, budget=eps / 255, params={"steps": steps}, dsc_clean=0.9, dsc=0.9 - eps * steps / 1000)
        for case in (0, 1)
        for eps in (8, 4, 12)
        for steps in (10, 20)
    ]
    (section,) = budget(shown(*rows))
    lines = section.table[["attack", "value", "cases", "patients", "dsc_foreground"]].to_numpy().tolist()
    expected = [
        ["clean", "", 2, 2, 90],
        *(["pgd steps=10", f"{eps}/255", 2, 2, 90 - eps] for eps in (4, 8, 12)),
        *(["pgd steps=20", f"{eps}/255", 2, 2, 90 - 2 * eps] for eps in (4, 8, 12)),
    ]
    assert [line[:4] for line in lines] == [line[:4] for line in expected]
    assert [line[4] for line in lines] == pytest.approx([line[4] for line in expected])


def test_the_clean_case_counts_once_however_often_it_was_attacked() -> None:
    rows = [row("pgd", case=0, dsc=0.5, dsc_clean=0.9), row("gn", case=0, dsc=0.5, dsc_clean=0.9)]
    rows += [row("pgd", case=1, dsc=0.5, dsc_clean=0.6), row("pgd", case=2, status="failed", error="no memory")]
    rows.append(row("pgd", case=3, precision="bf16", dsc=0.1, dsc_clean=0.1))  # left out
    (section,) = budget(shown(*rows))
    assert section.table["dsc_foreground"].iloc[0] == pytest.approx(75)
    assert section.table["interval"].iloc[0] == "[-115.6, 265.6]"  # 75 -+ 12.706 x 15


def test_the_spread_between_seeds_stands_beside_that_between_cases() -> None:
    scores = {(0, 0): 0.1, (0, 1): 0.3, (1, 0): 0.2, (1, 1): 0.6}
    rows = [row("pgd", case=case, seed=seed, dsc=dsc, dsc_clean=0.9) for (case, seed), dsc in scores.items()]
    (section,) = budget(shown(*rows))
    clean, pgd = section.table[["SD cases", "SD seeds", "cases", "seeds"]].to_numpy(float).tolist()
    assert pgd == pytest.approx([10 * np.sqrt(2), 15 * np.sqrt(2), 2, 2])  # means 20 and 40; 15 and 45
    assert clean == pytest.approx([0, np.nan, 2, 1], nan_ok=True)


def test_attacks_without_a_budget_are_named_and_not_drawn() -> None:
    rows = [row("pgd", dsc=0.5, dsc_clean=0.9), row("dfb", dsc=0.5, dsc_clean=0.9)]
    (section,) = budget(shown(*rows))
    assert section.table["attack"].tolist() == ["clean", "pgd"]
    assert "Without a budget, so not here: dfb." in section.text
