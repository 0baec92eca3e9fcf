"""Numbers behind figures, and what the figures of drops draw, against values by hand."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from reporting.handmade import classes, records, row, t_interval

from freqbench.reporting import figure_data
from freqbench.reporting.convergence import SETTING
from freqbench.reporting.figure_data import Material, shown_rows
from freqbench.reporting.figures.curves import KNEE, convergence_figure, distance, factors, smallest
from freqbench.reporting.figures.maps import worst
from freqbench.reporting.figures.style import log_axis


def test_rows_are_in_the_units_shown() -> None:
    failed = row(case=1, status="failed", error="died")
    scores = {"dsc_foreground": 0.5, "dsc_foreground_clean": 0.75, "dsc": 0.6, "dsc_clean": 0.8, "ssim_body": 0.9}
    shown, vafa = shown_rows(records(row(**scores), failed, row("vafa"))).to_dict("records")
    assert (shown["label"], shown["family"], shown["is_white_box"]) == ("pgd eps=8/255", "pgd", True)
    names = ("dsc_foreground", "dsc_foreground_clean", "dsc", "dsc_clean", "drop", "ssim_body", "budget")
    assert [shown[name] for name in names] == pytest.approx([50, 75, 60, 80, 25, 90, 8])
    assert (vafa["family"], vafa["budget"]) == ("vafa", 20)  # no intensity


def test_places_are_by_threat_model_attack_and_budget() -> None:
    rows = shown_rows(records(row(), row(budget=2 / 255), row("vafa"), row("gn")))
    ordered = ["vafa q_max=20", "gn std=8/255", "pgd eps=2/255", "pgd eps=8/255"]
    assert list(figure_data.places(rows, "label")) == ordered


def attacked(model: str, case: int, dsc: float, attack: str = "pgd", **values: Any) -> dict[str, Any]:
    return row(attack, source=model, target=model, case=case, dsc=dsc, dsc_clean=0.9 if model == "b" else 0.8, **values)


def test_smallest_changes_are_drawn_as_shares_of_patients() -> None:
    """Steps up at each patient's size; the line ends below 100 % where none was found for one of three."""
    rows = [row("fmn", case=case, smallest_linf=size) for case, size in enumerate((2 / 255, 4 / 255, None))]
    shown = shown_rows(records(*rows))
    assert figure_data.smallest_sizes(shown)["size"].tolist() == [2, 4, np.inf]
    (figure,) = smallest(Material(shown, pd.DataFrame(), None), shown, "phantom", "unet")
    assert isinstance(figure, Figure)
    (axis,) = figure.axes
    (line,) = axis.get_lines()
    assert line.get_xdata() == pytest.approx([0, 2, 4, 4.2])
    assert line.get_ydata() == pytest.approx([0, 100 / 3, 200 / 3, 200 / 3])
    assert axis.get_title("left") == "linf-minimal, n = 3 patients"


ATTACKED = [
    *(attacked("a", case, left) for case, left in enumerate((0.5, 0.7))),
    *(attacked("a", case, left, params={"steps": 9}) for case, left in enumerate((0.6, 0.3))),
    *(attacked("b", case, left) for case, left in enumerate((0.2, 0.4))),
    *(attacked("b", case, left, params={"steps": 9}) for case, left in enumerate((0.1, 0.8))),
    attacked("a", 0, 0.05, params={"steps": 99}),  # on one network alone
    attacked("b", 2, 0.0),  # a case of one network alone
    *(attacked(model, 0, left, "vafa") for model, left in (("a", 0.3), ("b", 0.6))),
]


def test_worst_case_is_over_what_all_networks_have() -> None:
    transferred = row(source="a", target="b", case=0, dsc=0.0, dsc_clean=0.9)
    table = figure_data.worst_cases(shown_rows(records(*ATTACKED, transferred)))
    table = table.set_index(["threat_model", "target_model"]).sort_index()
    kinds = [row(name)["threat_model"] for name in ("pgd", "vafa")]
    expected = {(kinds[0], "a"): [40, 80, 2], (kinds[0], "b"): [25, 90, 2], (kinds[1], "a"): [30, 80, 1]}
    for place, values in (expected | {(kinds[1], "b"): [60, 90, 1]}).items():
        assert table.loc[place, ["mean", "clean", "n"]].tolist() == pytest.approx(values)


def test_the_last_panel_has_the_lowest_of_each_network() -> None:
    (drawn,) = worst(Material(rows := shown_rows(records(*ATTACKED)), classes(), None), rows, "phantom")
    assert isinstance(drawn, Figure)
    titles = [axis.get_title() for axis in drawn.axes[:3]]
    assert titles == ["dct-quantization, q_max = 20", "linf, eps = 8/255", "the lowest of these"]
    lowest = [bars.lines[0] for bars in drawn.axes[2].containers]
    assert [(*x.get_xdata(), *x.get_ydata()) for x in lowest] == [pytest.approx((80, 30)), pytest.approx((90, 25))]
    alone = rows[rows["target_model"] == "a"]
    assert list(worst(Material(alone, classes(), None), alone, "phantom")) == [
        "needs an attack with a budget on two networks or more"
    ]


def test_interval_counts_cases_and_leaves_undefined_values_out() -> None:
    rows = [row(case=0, seed=seed, l2_body=2.0) for seed in (0, 1)]
    rows += [row(case=1, l2_body=5.0), row(case=2, l2_body=None), row("gn", l2_body=None)]
    (interval,) = figure_data.intervals(shown_rows(records(*rows)), ["label"], "l2_body").to_dict("records")
    assert (interval["label"], interval["mean"], interval["n"], interval["clusters"]) == ("pgd eps=8/255", 3, 2, 2)


def test_factors_differ_in_one_parameter() -> None:
    """Null rows and a setting that differs in two are aside; numbers by size, other values after them."""

    def setting(dsc: float, q_max: float = 20, **changed: Any) -> dict[str, Any]:
        params = {"block": 16, "keep": None, "control": "none"}
        return row("vafa", params | changed, budget=q_max, dsc=dsc, dsc_clean=0.9)

    rows = [setting(0.8), setting(0.6, q_max=30), setting(0.85, q_max=10), setting(0.7, block=8)]
    rows += [setting(0.5, keep=False), setting(0.4, keep="best"), setting(0.2, block=8, q_max=30)]
    rows += [setting(0.9, control="random"), *(row(budget=eps / 255, dsc=0.5) for eps in (2, 4))]
    table = figure_data.factors(shown_rows(records(*rows)))
    assert list(table[["factor", "value", "is_common", "mean"]].itertuples(index=False, name=None)) == [
        ("block", "8", False, pytest.approx(20)),
        ("block", "16", True, pytest.approx(10)),
        ("keep", "false", False, pytest.approx(40)),
        ("keep", '"best"', False, pytest.approx(50)),
        ("keep", "null", True, pytest.approx(10)),
        ("q_max", "10", False, pytest.approx(5)),
        ("q_max", "20", True, pytest.approx(10)),
        ("q_max", "30", False, pytest.approx(30)),
    ]
    assert set(table["attack"]) == {"vafa"}  # of pgd one parameter alone changes


def test_transfers_are_mean_drops_with_empty_gaps() -> None:
    def pair(source: str, target: str, dsc: float, attack: str = "pgd") -> dict[str, Any]:
        return row(attack, source=source, target=target, dsc=dsc, dsc_clean=0.9)

    rows = records(pair("a", "a", 0.2), pair("a", "b", 0.7), pair("b", "b", 0.5), pair("a", "a", 0.3, "gn"))
    matrices = figure_data.transfers(shown_rows(rows))
    assert list(matrices) == ["pgd eps=8/255"]  # the other has no target but its source
    matrix = matrices["pgd eps=8/255"]
    assert (list(matrix.index), list(matrix.columns)) == (["a", "b"], ["a", "b"])
    np.testing.assert_allclose(matrix.to_numpy(), [[70, 20], [np.nan, 40]])


def test_means_come_in_the_order_of_places() -> None:
    rows = records(row(case=0, l2_body=2.0), row(case=1, l2_body=4.0), row("vafa", l2_body=9.0))
    table = figure_data.means(shown_rows(rows), ["l2_body"])
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
    (figure,) = distance(SimpleNamespace(places={"family": families}), table, "phantom", "unet")
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


@pytest.mark.parametrize(("highest", "has_twos"), [(90.0, True), (1000.0, False)])
def test_logarithmic_axis_has_ticks_at_powers_of_ten(highest: float, has_twos: bool) -> None:
    axis = Figure().subplots()
    log_axis(axis, pd.Series([1.0, highest]))
    assert (2.0 in axis.xaxis.get_major_locator().tick_values(1.0, highest)) == has_twos


def test_factors_have_panel_each_and_ring_at_setting_they_share(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [("vafa", "block", "8", False, 20.0), ("vafa", "block", "16", True, 10.0)]
    values += [("vafa", "renormalize", "false", False, 5.0), ("vafa", "renormalize", "null", True, 10.0)]
    table = pd.DataFrame(values, columns=["attack", "factor", "value", "is_common", "mean"])
    table = table.assign(low=table["mean"] - 1, high=table["mean"] + 1, n=3)
    monkeypatch.setattr(figure_data, "factors", lambda rows: table)
    (figure,) = factors(SimpleNamespace(), table, "phantom", "unet")
    by_title = panels(figure)
    assert set(by_title) == {"vafa: block", "vafa: renormalize"}
    for axis, words, points, ring in (
        (by_title["vafa: block"], ["8", "16"], ((0.0, 20.0), (1.0, 10.0)), ((1.0, 10.0),)),
        (by_title["vafa: renormalize"], ["false", "null"], ((0.0, 5.0), (1.0, 10.0)), ((1.0, 10.0),)),
    ):
        assert [label.get_text() for label in axis.get_xticklabels()] == words
        assert {points, ring} <= set(drawn(axis))


def settings(*rows: Sequence[object]) -> pd.DataFrame:
    """Model, attack, loss, restarts, steps, passes and drop."""
    table = pd.DataFrame(rows, columns=["model", "attack", "loss", "restarts", "steps", "passes", "drop"]).assign(
        dataset="phantom", threat_model="linf", budget="eps=8/255", cases=3
    )
    return table.reindex(columns=SETTING)


def test_knee_is_large_and_the_recommendation_ringed() -> None:
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
    assert (ring.get_markerfacecolor(), lines[(63.0, 35.0),].get_markerfacecolor()) == ("none", "white")
    large = [line for line in axis.lines if line.get_markersize() == KNEE]
    assert [[float(value) for value in line.get_xdata()] for line in large] == [[41.0]]


def test_each_model_has_a_panel_and_a_rising_curve_no_knee() -> None:
    rising = [("unet", "pgd", "ce", 1, 10, 20.0, 30.0), ("unet", "pgd", "ce", 1, 20, 40.0, 33.0)]
    by_title = panels(convergence_figure(settings(*rising, ("unetr", "pgd", "ce", 1, 10, 20.0, 9.0))))
    assert [title.split("\n")[0] for title in by_title] == ["phantom: unet", "phantom: unetr"]
    assert not [line for axis in by_title.values() for line in axis.lines if line.get_markersize() == KNEE]
