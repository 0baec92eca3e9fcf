"""Numbers behind figures, and what the figures of drops draw, against values by hand."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from reporting.handmade import records, row, t_interval

from freqbench.reporting import figure_data
from freqbench.reporting.figure_data import shown_rows
from freqbench.reporting.figures.curves import distance


def test_rows_are_in_the_units_shown() -> None:
    failed = row(case=1, status="failed", error="died")
    scores = {"dsc_foreground": 0.5, "dsc_foreground_clean": 0.75, "dsc": 0.6, "dsc_clean": 0.8}
    shown, vafa = shown_rows(records(row(**scores), failed, row("vafa"))).to_dict("records")
    assert (shown["label"], shown["family"], shown["is_white_box"]) == ("pgd eps=8/255", "pgd", True)
    names = ("dsc_foreground", "dsc_foreground_clean", "dsc", "dsc_clean", "drop", "budget")
    assert [shown[name] for name in names] == pytest.approx([50, 75, 60, 80, 25, 8])
    assert (vafa["family"], vafa["budget"]) == ("vafa", 20)  # no intensity


def test_places_are_by_threat_model_attack_and_budget() -> None:
    rows = shown_rows(records(row(), row(budget=2 / 255), row("vafa"), row("gn")))
    ordered = ["vafa q_max=20", "gn std=8/255", "pgd eps=2/255", "pgd eps=8/255"]
    assert list(figure_data.places(rows, "label")) == ordered


def test_interval_counts_cases_and_leaves_undefined_values_out() -> None:
    rows = [row(case=0, seed=seed, l2_body=2.0) for seed in (0, 1)]
    rows += [row(case=1, l2_body=5.0), row(case=2, l2_body=None), row("gn", l2_body=None)]
    (interval,) = figure_data.intervals(shown_rows(records(*rows)), ["label"], "l2_body").to_dict("records")
    assert (interval["label"], interval["mean"], interval["n"], interval["clusters"]) == ("pgd eps=8/255", 3, 2, 2)


def test_sizes_are_means_in_the_order_of_places() -> None:
    sizes = [("pgd", 0, 2.0), ("pgd", 1, 4.0), ("vafa", 0, 9.0)]
    rows = [row(name, case=case, dsc=0.5, dsc_clean=0.9, l2_body=size) for name, case, size in sizes]
    table = figure_data.drops_by_distance(shown_rows(records(*rows)))
    assert table[["label", "l2_body", "n"]].to_numpy().tolist() == [["vafa q_max=20", 9, 1], ["pgd eps=8/255", 3, 2]]


CLEAN = {"dsc_foreground_clean": 0.9}


def test_drop_is_the_foregrounds_with_students_interval() -> None:
    left = (0.8, 0.6, 0.7)
    sizes = (4.0, 6.0, 8.0)
    rows = [
        row(case=case, dsc=0.1, dsc_clean=0.9, dsc_foreground=dsc, l2_body=size, **CLEAN)
        for case, (dsc, size) in enumerate(zip(left, sizes, strict=True))
    ]
    (line,) = figure_data.drops_by_distance(shown_rows(records(*rows))).to_dict("records")
    assert [line[name] for name in ("l2_body", "drop", "low", "high", "n")] == pytest.approx(
        [6, 20, *t_interval(10, 30, 20, within=(-100, 100)), 3]
    )


def test_null_rows_are_apart_and_gaps_left_out() -> None:
    measured = {"dsc_foreground": 0.5, "l2_body": 8.0, **CLEAN}
    rows = [row("vafa", {"control": control}, **measured) for control in ("none", "uniform", "random")]
    rows += [row("pgd", dsc_foreground=0.5, **CLEAN), row("gn", l2_body=8.0, **CLEAN)]
    assert figure_data.drops_by_distance(shown_rows(records(*rows))).set_index("label")["is_null"].to_dict() == {
        "vafa q_max=20": False,
        "vafa q_max=20 control=uniform": True,
        "vafa q_max=20 control=random": True,
    }


POINTS = ["threat_model", "family", "budget", "l2_body", "drop", "low", "high", "n", "is_null"]


def distances(monkeypatch: pytest.MonkeyPatch, *rows: Sequence[object]) -> Figure:
    table = pd.DataFrame([(*row[:-1], 3, row[-1]) for row in rows], columns=POINTS)
    monkeypatch.setattr(figure_data, "drops_by_distance", lambda rows: table.assign(label=table["family"]))
    families = {name: i for i, name in enumerate(table["family"].unique())}
    figure = distance(SimpleNamespace(families=families), table, "phantom", "unet")
    assert isinstance(figure, Figure)
    return figure


def panels(figure: Figure) -> Mapping[str, Axes]:
    return {axis.get_title("left"): axis for axis in figure.axes if axis.get_title("left")}


def drawn(axis: Axes) -> dict[tuple[tuple[float, float], ...], Line2D]:
    """Lines with a marker of their own by their points; bars and grey lines aside."""
    lines = [line for line in axis.lines if line.get_marker() not in ("", "None", None, "_")]
    return {tuple(zip(*(map(float, data) for data in line.get_data()), strict=True)): line for line in lines}


def test_each_threat_model_has_a_panel_of_budgets(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = distances(
        monkeypatch,
        ("linf", "pgd", 4.0, 3.5, 20.0, 10.0, 30.0, False),
        ("linf", "pgd", 8.0, 7.0, 40.0, 30.0, 50.0, False),
        ("dct-scaling", "sa2", 0.4, 14.0, 50.0, 40.0, 60.0, False),
    )
    by_title = panels(figure)
    assert set(by_title) == {"linf, n = 3 cases", "dct-scaling, n = 3 cases"}
    assert set(drawn(by_title["linf, n = 3 cases"])) == {((3.5, 20.0), (7.0, 40.0))}
    assert set(drawn(by_title["dct-scaling, n = 3 cases"])) == {((14.0, 50.0),)}
    assert all(axis.get_xlabel() == "L2 of the change inside the body (intensity)" for axis in by_title.values())


def test_null_rows_are_hollow_in_the_panel_and_in_the_legend(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = distances(
        monkeypatch,
        ("dct-scaling", "sa2", 0.4, 14.0, 50.0, 40.0, 60.0, False),
        ("dct-scaling", "sa2 control=random", 0.4, 15.0, 1.0, -1.0, 3.0, True),
    )
    (axis,) = panels(figure).values()
    fills = {points[0]: line.get_markerfacecolor() for points, line in drawn(axis).items()}
    assert fills[15.0, 1.0] == "white" != fills[14.0, 50.0]
    (legend,) = figure.legends
    assert [handle.get_markerfacecolor() == "white" for handle in legend.get_lines()] == [False, True]


def test_wide_interval_of_two_patients_does_not_squeeze_points(monkeypatch: pytest.MonkeyPatch) -> None:
    (axis,) = panels(distances(monkeypatch, ("linf", "pgd", 8.0, 7.0, 40.0, -350.0, 430.0, False))).values()
    assert axis.get_ylim() == (-5, 49)
