"""Passes that are enough, on tables made by hand."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import pytest
import yaml
from reporting.handmade import records, row

from freqbench.reporting import convergence
from freqbench.reporting.convergence import knee, recommend, still_gains


@pytest.mark.parametrize(
    ("drops", "place"),
    [
        ([10.0, 20.0, 30.0, 30.1, 30.15], 2),
        ([10.0, 10.15, 10.3], 1),  # two small gains that together are more than enough
        ([10.0, 5.0, 9.0], 0),  # more steps may take less off
        ([10.0, 10.2], 1),  # 0.2 is still a gain
        ([10.0, 12.0, 14.0], 2),
        ([3.0], 0),
    ],
)
def test_knee_is_the_first_place_without_later_gain(drops: list[float], place: int) -> None:
    assert knee(drops) == place


def test_the_last_passes_are_compared_with_the_best_before_them() -> None:
    assert still_gains([10, 20, 40], [10.0, 5.0, 11.0]) == "not converged: still gains 1.0 points from 20 to 40 passes"
    assert still_gains([10, 20, 40], [10.0, 5.0, 9.0]) == ""
    assert still_gains([10], [5.0]).startswith("one setting only")
    assert still_gains([10, 20], [10.0, 10.2]) == "not converged: still gains 0.2 points from 10 to 20 passes"


def settings(*rows: Sequence[Any]) -> pd.DataFrame:
    """Attack, loss, restarts, steps, passes and drop; of one threat model and budget."""
    table = pd.DataFrame(rows, columns=["attack", "loss", "restarts", "steps", "passes", "drop"])
    place = {"dataset": "phantom", "model": "unet", "threat_model": "linf", "budget": "eps=8/255"}
    table = table.assign(**place, low=0.0, high=99.0, cell_id=table.index.astype(str))
    return table.reindex(columns=convergence.SETTING)


def test_recommended_are_the_fewest_sufficient_passes() -> None:
    table = settings(
        ("apgd", "dice", 1, 20, 41.0, 44.9),
        ("apgd", "dice", 1, 40, 81.0, 45.0),
        ("apgd", "dice", 3, 20, 123.0, 45.05),
        ("pgd", "dice", 1, 10, 20.0, 44.8),  # 0.25 below
        ("pgd", "ce", 1, 20, 40.0, 30.0),
        ("pgd", "ce", 1, 40, 80.0, 30.0),
    )
    (setting,) = recommend(table).to_dict("records")
    assert (setting["attack"], setting["loss"], setting["steps"], setting["drop"]) == ("apgd", "dice", 20, 44.9)
    assert setting["largest"] == 45.05


def test_larger_drop_of_equal_passes_is_recommended() -> None:
    equal = ("pgd", "ce", 1, 10, 20.0, 30.0), ("pgd", "dice", 1, 10, 20.0, 30.1)
    both = settings(*equal, ("pgd", "ce", 1, 20, 40.0, 50.0))
    both["budget"] = ["eps=4/255", "eps=4/255", "eps=8/255"]
    assert recommend(both)[["loss", "drop"]].to_numpy().tolist() == [["dice", 30.1], ["ce", 50.0]]


def test_nothing_is_recommended_while_curves_rise() -> None:
    rising = [("pgd", "dice", 1, 10, 20.0, 30.0), ("pgd", "dice", 1, 20, 40.0, 33.0)]
    near = ("apgd", "ce", 1, 10, 21.0, 32.95)
    settled = ("pgd", "dice", 1, 40, 80.0, 33.1)
    assert recommend(settings(*rising)).empty
    assert recommend(settings(*rising, near)).empty
    (chosen,) = recommend(settings(*rising, near, settled)).to_dict("records")
    assert (chosen["attack"], chosen["largest"], chosen["note"]) == ("apgd", 33.1, "")
    text = convergence.job_text(recommend(settings(*rising)), ENTRIES)
    assert yaml.safe_load(text) == {"attacks": []}
    assert "repeat with more steps" in text
    titles = [section.title for section in convergence.sections(settings(*rising))]
    assert not any("recommended" in title for title in titles)


FEW = {"name": "pgd", "eps": 8 / 255, "step_size": "eps/4", "steps": 10, "loss": "dice", "restarts": 1}
ENTRIES = {"few": FEW, "many": FEW | {"steps": 20}, "thrice": FEW | {"restarts": 3}}
PASSES = {"num_windows": 4, "dsc_foreground_clean": 0.9}


def stored(cell: str, case: int, dsc: float, steps: int, **values: Any) -> dict[str, Any]:
    passes = {"num_forwards": 4 * steps, "num_backwards": 4 * steps}
    return row(cell_id=cell, case=case, dsc_foreground=dsc, **PASSES, **passes, **values)


def test_settings_are_means_over_cases_by_passes_of_one_window() -> None:
    """Rows that are scored on another network than made them do not count."""
    rows = [stored("many", 0, 0.4, 20), stored("many", 1, 0.6, 20)]
    rows += [stored("few", 0, 0.3, 10), stored("few", 1, 0.5, 10), stored("few", 0, 0.9, 10, target="unetr")]
    table = convergence.settings(records(*rows), ENTRIES)
    shown = table[["attack", "budget", "loss", "restarts", "steps", "cases", "patients"]].to_numpy().tolist()
    place = ["pgd step_size=eps/4", "eps=8/255", "dice", 1]
    assert shown == [[*place, 10, 2, 2], [*place, 20, 2, 2]]
    assert (table["passes"].tolist(), table["drop"].tolist()) == ([20, 40], pytest.approx([50, 40]))
    assert table["best"].tolist() == pytest.approx([50, 50])


def test_queries_of_a_search_are_its_steps() -> None:
    entries = {
        "search": {"name": "rays", "eps": 8 / 255, "queries": 300},
        "few steps": {"name": "bases", "eps": 8 / 255, "steps": 3, "surrogates": [["b", "c"]], "queries": 30},
    }
    entries |= {
        "ensemble": {"name": "autoattack", "eps": 8 / 255, "queries": 60, "steps": 20, "restarts": 1},
    }
    rows = [stored("search", 0, 0.4, 150), stored("few steps", 0, 0.4, 150), stored("ensemble", 0, 0.3, 20)]
    table = convergence.settings(records(*rows), entries)
    assert table[["attack", "loss", "restarts", "steps"]].to_numpy().tolist() == [
        ["autoattack queries=60", "", 1, 20],
        ["bases steps=3 surrogates=b+c", "", 1, 30],
        ["rays", "", 1, 300],
    ]


def test_a_setting_that_failed_on_a_case_is_left_out_and_named() -> None:
    rows = [stored("few", case, 0.5, 10) for case in (0, 1)]
    rows += [stored("many", 0, 0.1, 20), row(cell_id="many", case=1, status="failed", error="died")]
    rows_of = records(*rows)
    assert convergence.settings(rows_of, ENTRIES)["steps"].tolist() == [10]
    assert convergence.settings(rows_of[rows_of["status"] == "failed"], ENTRIES).empty
    assert convergence.failed_lines(rows_of, ENTRIES) == [
        "pgd step_size=eps/4 loss=dice steps=20 on phantom: unet is left out: 1 of 2 records failed"
    ]


def test_several_seeds_are_one_setting() -> None:
    rows = [stored("few", 0, 0.5, 10), stored("other seed", 0, 0.3, 10, seed=1)]
    (setting,) = convergence.settings(records(*rows), {**ENTRIES, "other seed": ENTRIES["few"]}).to_dict("records")
    assert (setting["drop"], setting["cases"], setting["patients"]) == (pytest.approx(50), 1, 1)


def test_job_file_has_recommended_entry_as_person_writes_it() -> None:
    chosen = recommend(settings(("pgd step_size=eps/4", "dice", 3, 10, 60.0, 40.0)))
    text = convergence.job_text(chosen.assign(cell_id="thrice"), ENTRIES)
    assert "# linf eps=8/255 on phantom, unet: drop 40.0 [0.0, 99.0] at 60 passes a window; the largest is 40.0" in text
    assert "- {name: pgd, eps: 8/255, step_size: eps/4, steps: 10, loss: dice, restarts: 3}" in text
    assert yaml.safe_load(text)["attacks"] == [{**ENTRIES["thrice"], "eps": "8/255"}]


@pytest.mark.parametrize("shown", ["phantom", "phantom (agreement)"])
def test_entry_names_its_network_and_keeps_odd_budgets(shown: str) -> None:
    """The dataset by its name in jobs."""
    one = settings(("pgd", "dice", 1, 10, 20.0, 40.0)).assign(cell_id="few", dataset=shown)
    chosen = recommend(pd.concat([one, one.assign(model="unetr")], ignore_index=True))
    odd = {"few": {"name": "pgd", "eps": 0.0313725, "steps": 10}}
    entries = yaml.safe_load(convergence.job_text(chosen, odd))["attacks"]
    assert [(entry["datasets"], entry["sources"], entry["eps"]) for entry in entries] == [
        (["phantom"], ["unet"], 0.0313725),
        (["phantom"], ["unetr"], 0.0313725),
    ]


def test_the_tables_show_each_curve_and_what_still_rises() -> None:
    drops = {(10, "eps=4/255"): 30.0, (20, "eps=4/255"): 33.0, (10, "eps=8/255"): 40.0, (20, "eps=8/255"): 40.1}
    table = settings(*(("pgd", "dice", 1, steps, 2.0 * steps, drop) for (steps, _), drop in drops.items()))
    table = table.assign(cases=3, budget=[budget for _, budget in drops])
    curves, rising, chosen = convergence.sections(table)
    ends = [[30.0, 33.0, "40+"], [40.0, 40.1, "20"]]
    assert curves.table[["steps\n10", "steps\n20", "enough"]].to_numpy().tolist() == ends
    assert "pgd loss=dice: not converged: still gains 3.0 points from 20 to 40 passes" in rising.text
    assert chosen.table[["budget", "steps"]].to_numpy().tolist() == [["eps=8/255", "10"]]
