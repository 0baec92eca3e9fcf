"""What the figures of drops draw, from tables made by hand."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from freqbench.reporting import figure_data
from freqbench.reporting.convergence import SETTING
from freqbench.reporting.figures.curves import KNEE, convergence_figure, distance, factors
from freqbench.reporting.figures.style import log_axis

POINTS = ["threat_model", "family", "budget", "l2_body", "drop", "low", "high", "n", "is_null"]


def distances(monkeypatch: pytest.MonkeyPatch, *rows: Sequence[object]) -> Figure:
    table = pd.DataFrame([(*row[:-1], 3, row[-1]) for row in rows], columns=POINTS)
    monkeypatch.setattr(figure_data, "drops_by_distance", lambda rows: table.assign(label=table["family"]))
    families = {name: i for i, name in enumerate(table["family"].unique())}
    (figure,) = distance(SimpleNamespace(places={"family": families}), table, "phantom", "unet")
    return figure


def panels(figure: Figure) -> Mapping[str, Axes]:
    return {axis.get_title("left"): axis for axis in figure.axes if axis.get_title("left")}


def drawn(axis: Axes) -> dict[tuple[tuple[float, float], ...], Line2D]:
    """Lines with a marker of their own by their points; bars and grey lines aside."""
    lines = [line for line in axis.lines if line.get_marker() not in ("", "None", None, "_")]
    return {tuple(zip(*(map(float, data) for data in line.get_data()), strict=True)): line for line in lines}


def test_there_is_a_panel_a_threat_model_and_budgets_of_an_attack_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = distances(
        monkeypatch,
        ("linf", "pgd", 4.0, 3.5, 20.0, 10.0, 30.0, False),
        ("linf", "pgd", 8.0, 7.0, 40.0, 30.0, 50.0, False),
        ("dct-scaling", "sa2", 0.4, 14.0, 50.0, 40.0, 60.0, False),
    )
    found = panels(figure)
    assert set(found) == {"linf, n = 3 cases", "dct-scaling, n = 3 cases"}
    assert set(drawn(found["linf, n = 3 cases"])) == {((3.5, 20.0), (7.0, 40.0))}
    assert set(drawn(found["dct-scaling, n = 3 cases"])) == {((14.0, 50.0),)}
    assert all(axis.get_xlabel() == "L2 of the change inside the body (intensity)" for axis in found.values())


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


def test_a_wide_interval_of_two_patients_does_not_squeeze_the_points(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = distances(monkeypatch, ("linf", "pgd", 8.0, 7.0, 40.0, -350.0, 430.0, False))
    (axis,) = panels(figure).values()
    assert axis.get_ylim() == (-5, 49)


@pytest.mark.parametrize(("highest", "has_twos"), [(90.0, True), (1000.0, False)])
def test_a_logarithmic_axis_of_two_decades_has_ticks_at_powers_of_ten_alone(highest: float, has_twos: bool) -> None:
    axis = Figure().subplots()
    log_axis(axis, pd.Series([1.0, highest]))
    assert (2.0 in axis.xaxis.get_major_locator().tick_values(1.0, highest)) == has_twos


def test_factors_have_a_panel_each_and_a_ring_at_the_setting_they_share(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [("vafa", "block", "8", False, 20.0), ("vafa", "block", "16", True, 10.0)]
    values += [("vafa", "renormalize", "false", False, 5.0), ("vafa", "renormalize", "null", True, 10.0)]
    table = pd.DataFrame(values, columns=["attack", "factor", "value", "is_common", "mean"])
    table = table.assign(low=table["mean"] - 1, high=table["mean"] + 1, n=3)
    monkeypatch.setattr(figure_data, "factors", lambda rows: table)
    (figure,) = factors(SimpleNamespace(), table, "phantom", "unet")
    found = panels(figure)
    assert set(found) == {"vafa: block", "vafa: renormalize"}
    for axis, words, points, ring in (
        (found["vafa: block"], ["8", "16"], ((0.0, 20.0), (1.0, 10.0)), ((1.0, 10.0),)),
        (found["vafa: renormalize"], ["false", "null"], ((0.0, 5.0), (1.0, 10.0)), ((1.0, 10.0),)),
    ):
        assert [label.get_text() for label in axis.get_xticklabels()] == words
        assert {points, ring} <= set(drawn(axis))


def settings(*rows: Sequence[object]) -> pd.DataFrame:
    """Model, attack, loss, restarts, steps, passes and drop."""
    names = ["model", "attack", "loss", "restarts", "steps", "passes", "drop"]
    table = pd.DataFrame(rows, columns=names).assign(
        dataset="phantom", threat_model="linf", budget="eps=8/255", cases=3
    )
    return table.reindex(columns=SETTING)


def test_a_knee_is_large_restarts_are_hollow_and_the_recommended_setting_has_a_ring() -> None:
    figure = convergence_figure(
        settings(
            ("unet", "apgd", "dice", 1, 10, 21.0, 30.0),
            ("unet", "apgd", "dice", 1, 20, 41.0, 40.0),
            ("unet", "apgd", "dice", 1, 40, 81.0, 40.1),
            ("unet", "apgd", "dice", 3, 10, 63.0, 35.0),
        )
    )
    (axis,) = panels(figure).values()
    lines = drawn(axis)
    (ring,) = [line for points, line in lines.items() if points == ((41.0, 40.0),) and line.get_markersize() > KNEE]
    assert ring.get_markerfacecolor() == "none"
    assert lines[(63.0, 35.0),].get_markerfacecolor() == "white"
    large = [line for line in axis.lines if line.get_markersize() == KNEE]
    assert [[float(value) for value in line.get_xdata()] for line in large] == [[41.0]]


def test_there_is_a_panel_a_model_and_a_curve_that_still_rises_has_no_knee() -> None:
    rising = [("unet", "pgd", "ce", 1, 10, 20.0, 30.0), ("unet", "pgd", "ce", 1, 20, 40.0, 33.0)]
    found = panels(convergence_figure(settings(*rising, ("unetr", "pgd", "ce", 1, 10, 20.0, 9.0))))
    assert [title.split("\n")[0] for title in found] == ["phantom: unet", "phantom: unetr"]
    assert not [line for axis in found.values() for line in axis.lines if line.get_markersize() == KNEE]
