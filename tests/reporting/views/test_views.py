"""Views of a store that need no figure, ejection fractions among them; and what holds for all."""

from itertools import chain, product
from math import nan
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from reporting.handmade import classes, coded, records, row, shown, t_interval

from freqbench.analysis.groups import NOISE, select_scored, steps_text
from freqbench.reporting import render
from freqbench.reporting.figure_data import Material, shown_rows
from freqbench.reporting.figures import FIGURES
from freqbench.reporting.render import Section, terminal
from freqbench.reporting.render.columns import columns_of
from freqbench.reporting.views import VIEWS
from freqbench.reporting.views.clinical import clinical
from freqbench.reporting.views.ejection import ejection, fractions, furthest
from freqbench.reporting.views.overview import overview
from freqbench.reporting.views.smallest import NATIVE, smallest
from freqbench.results import KEY, RECORDS

OF_ALL = {
    "nsd": 0.5,
    "source_defence": '{"name": "bit_depth", "bits": 3, "adaptive": true, "undefended": "id"}',
    "target_defence": '{"name": "bit_depth", "bits": 3, "adaptive": true, "undefended": "id"}',
    "certified_radius": 0.1,
    "added_metrics": '{"suspicion": 1.0, "suspicion_clean": 0.5}',
}
DRAWS = '{"dsc_foreground": [0.5, 0.6]}'
ALWAYS = {column.name for column in RECORDS if column.mark == "identity"} | {"status", "finished_at"}


@pytest.mark.parametrize("name", VIEWS)
def test_view_needs_its_named_columns_alone(name: str) -> None:
    view = VIEWS[name]
    scores = {"dsc": 0.5, "dsc_clean": 0.9, **OF_ALL}
    settings = product(("pgd", "corruption"), "ab", "ab")
    rows = [row(attack, source=source, target=target, **scores) for attack, source, target in settings]
    drawn = {"draws": DRAWS, "target_defence": '{"kind": "voxels", "sigma": 1, "adaptive": true}'}
    ball = row("pgd", {"kind": "voxels", "control": "none"}, source="a", target="a", **scores | drawn)
    ball |= {"attack": "ball"}
    fmn = row("fmn", source="a", target="a", smallest_linf=0.01)
    second = row("pgd", source="a", target="a", case=1, patient_id=rows[0]["patient_id"], **scores)
    frame = shown(
        *rows, second, fmn, ball, ball | {"budget": 0.0, "params": '{"kind": "voxels", "control": "random"}'}
    )[[*dict.fromkeys((*ALWAYS, *view.columns, "label", "left_out"))]]
    held = (classes(*((each, {"background": (1, 1), "LV": (0.1, 0.9)}) for each in (rows[0], second))),)
    held = held if view.needs_classes else ()
    sections = view.build(frame, *held)
    assert sections[0].table is not None
    assert render.markdown(view.build(coded(frame), *held)) == render.markdown(sections)


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_of_failures_only_is_a_sentence(name: str) -> None:
    view = VIEWS[name]
    frame = shown(row("pgd", status="failed", error="no memory"))
    (section,) = view.build(frame, classes()) if view.needs_classes else view.build(frame)
    assert section.table is None
    assert section.text.endswith(".")


def test_smallest_changes_are_counted_by_patient() -> None:
    """Five patients, the first with two cases, the last without a change that was found; other attacks stay out."""
    rows = [
        row("fmn", case=case, patient_id=f"p{patient}", smallest_linf=size and size / 255)
        for case, (patient, size) in enumerate([(0, 3), (0, 1), (1, 4), (2, 2), (3, 8), (4, None)])
    ]
    l2 = [row("ddn", smallest_l2=5 / 255), row("ddn", source="a", smallest_l2=1 / 255), row("pgd", dsc=0.5)]
    (section,) = smallest(shown(*rows, *l2))
    assert section.table is not None
    of_linf, of_l2 = section.table.sort_values("threat_model", ascending=False).to_dict("records")
    names = ["patients", "fallen\n%", "below\n8/255\n%", *(f"size\n{share} %\n1/255" for share in (25, 50, 75))]
    assert [of_linf[name] for name in names] == pytest.approx([5, 80, 80, 2, 4, 8])  # of 1, 2, 4, 8, none
    assert [of_l2[name] for name in names] == pytest.approx([1, 100, 100, 5, 5, 5])
    assert NATIVE not in section.table, "no row tells the unit"


def test_sizes_stand_in_unit_that_budgets_of_same_cases_tell() -> None:
    """A window of 425 HU on the first case and of 850 on the second; half of two patients are the first."""
    rows = [row("fmn", case=case, smallest_linf=size / 255) for case, size in enumerate((10, 20))]
    rows += [row("pgd", case=case, budget=8 / 255, eps_native=8 / 255 * hu) for case, hu in enumerate((425, 850))]
    (section,) = smallest(shown(*rows))
    assert section.table is not None
    assert section.table[NATIVE].tolist() == pytest.approx([10 * 425 / 255])
    assert section.data["native"].tolist() == pytest.approx([10 * 425 / 255, 20 * 850 / 255])
    assert "HU for CT" in section.text
    assert steps_text(shown(*rows)).endswith("(HU for CT): phantom 1.67 to 3.33.")
    assert steps_text(shown(*rows[:2])) == ""


def test_clean_row_counts_each_case_once() -> None:
    cases = [{"case": number, "nsd_clean": 0.9, "assd_mm_clean": 1.0 + number} for number in (0, 1)]
    rows = [row("pgd", nsd=0.2, assd_mm=6.0, **cases[0]), row("pgd", nsd=0.4, assd_mm=np.nan, **cases[1])]
    rows += [row("gn", nsd=0.8, assd_mm=2.0, **cases[0]), row("gn", target="other", nsd=0.0, **cases[0])]
    (section,) = clinical(shown(*rows))
    assert [column.heading for column in columns_of(section)] == ["attack", "threat\nmodel", "n", "NSD", "ASSD\nmm"]
    by_model = {name: values for name, _, *values in section.table.itertuples(index=False)}
    assert by_model["clean"] == [2, pytest.approx(90), "1.50"]
    assert by_model["pgd eps=8/255"] == [2, pytest.approx(30), "6.00"]
    assert by_model["gn std=8/255"] == [1, pytest.approx(80), "2.00"]


MODELS = ("unet", "unetr")


def cells(section: Section, first: str) -> dict[str, list[object]]:
    assert section.table is not None
    return {name: values for name, *values in section.table.set_index(first).itertuples(name=None)}


def vafa(control: str, **values: object) -> dict[str, object]:
    return row("vafa", {"control": control}, dsc_clean=0.9, **values)


def test_null_row_stands_beside_its_attack() -> None:
    scores = {("none", "unet"): 0.3, ("none", "unetr"): 0.4, ("uniform", "unet"): 0.85, ("random", "unet"): 0.8}
    rows = [vafa(control, source=model, target=model, dsc=dsc) for (control, model), dsc in scores.items()]
    rows += [row(source="unet", case=case, dsc=0.5 + case / 10, dsc_clean=0.9 - case / 10) for case in range(2)]
    (section,) = overview(shown(*rows))
    assert cells(section, "attack") == {
        "clean": ["85.0", "90.0", ""],
        "vafa q_max=20": ["30.0", "40.0", "80.0"],
        "pgd eps=8/255": ["55.0", "", ""],
    }
    assert "2 cases of 2 patients" in section.text


def test_a_cell_has_its_interval_rounded_outwards() -> None:
    (section,) = overview(shown(*(row(case=case, dsc=x, dsc_clean=0.9) for case, x in enumerate((0.47, 0.5, 0.53)))))
    low, high = t_interval(47.0, 50.0, 53.0, within=(0, 100))
    assert cells(section, "attack")["pgd eps=8/255"] == [f"50.0 [{int(low)}, {int(high) + 1}]"]


def test_a_metric_of_another_package_stands_beside_the_dsc() -> None:
    (section,) = overview(shown(row(dsc=0.5, dsc_clean=0.9, added_metrics='{"share": 0.25, "share_clean": 0.75}')))
    assert section.table is not None
    assert section.table[["attack", "share"]].to_numpy().tolist() == [["clean", "0.75"], ["pgd eps=8/255", "0.25"]]


@pytest.mark.parametrize(
    ("attacked", "cell"),
    [
        ([0.44, 0.45, 0.44], "= 44.3"),
        ([0.45, 0.44, 0.44], "= 44.3"),  # within noise: the interval of 1, -1 and 0 points holds 0
        ([0.436, 0.446, 0.436], "44.3"),  # the same 0.4 points in each case
        ([0.30, 0.60, 0.40], "44.3"),  # a point, and nobody knows
    ],
)
def test_an_attack_that_does_what_its_null_row_does_did_nothing(attacked: list[float], cell: str) -> None:
    pairs = {"none": attacked, "uniform": [0.44, 0.45, 0.44]}
    rows = [vafa(control, case=case, dsc=dsc) for control, scores in pairs.items() for case, dsc in enumerate(scores)]
    (section,) = overview(shown(*rows))
    assert cells(section, "attack")["vafa q_max=20"][1] == cell
    assert ("= where the attack did nothing else" in section.text) == ("=" in cell)


def test_size_of_the_change_stands_beside_the_dsc() -> None:
    sizes = {"pgd": 0.99, "vafa_opt": 0.8}
    (section,) = overview(shown(*(row(name, dsc=0.5, dsc_clean=0.9, ssim_body=size) for name, size in sizes.items())))
    assert section.table is not None
    assert list(section.table.columns) == ["attack", "unet", "SSIM body"]
    assert cells(section, "attack") == {
        "clean": ["90.0", ""],
        "pgd eps=8/255": ["50.0", "99.0"],
        "vafa_opt q_max=20 °": ["50.0", "80.0"],
    }
    assert "° is this project's own form of the attack." in section.text


def test_a_null_row_without_its_attack_has_a_row_of_its_own() -> None:
    (section,) = overview(shown(vafa("uniform", dsc=0.8)))
    assert cells(section, "attack")["vafa q_max=20 control=uniform"] == ["80.0"]
    assert "null row" not in section.text
    assert "mean over 1 case of 1 patient with" in section.text


def test_the_overview_counts_the_cases_that_have_a_score() -> None:
    (section,) = overview(shown(*(row(case=case, dsc=dsc, dsc_clean=0.9) for case, dsc in enumerate((0.5, 0.6, nan)))))
    assert "mean over 2 cases of 2 patients with" in section.text


def test_matrix_is_of_attack_that_takes_most_from_other_models() -> None:
    """PGD takes most white-box, and a null row most of all from others, which is no transfer."""
    own = {("pgd", ""): 0.1, ("vafa", "none"): 0.4, ("vafa", "uniform"): 0.6}
    other = {("pgd", ""): 0.8, ("vafa", "none"): 0.7, ("vafa", "uniform"): 0.2}
    rows = []
    for (name, control), source, target in product(own, MODELS, MODELS):
        params = {"control": control} if control else {}
        dsc = (own if source == target else other)[name, control]
        rows.append(row(name, params, source=source, target=target, dsc=dsc, dsc_clean=0.9))
    _, matrix = overview(shown(*rows))
    assert matrix.title == "phantom: transfer of vafa q_max=20, which transfers most"
    scores = {name: pytest.approx(values) for name, values in cells(matrix, "source_model").items()}
    assert scores == {"clean": [90.0, 90.0], "unet": [40.0, 70.0], "unetr": [70.0, 40.0]}
    assert "40.0*" in terminal([matrix])


def test_failures_are_lines_and_the_others_are_counted() -> None:
    failed = {"status": "failed", "error": "no\nmemory " + "x" * 200, "dsc": None}
    rows = [row(source="unet", target="unetr", budget=i / 255, **failed) for i in range(1, 8)]
    _, section = overview(shown(row(dsc=0.5, dsc_clean=0.9), *rows))
    assert section.text.startswith("pgd eps=1/255 on unet to unetr, phantom: 1 failed: no memory xxx")
    assert section.text.count("failed: ") == 5
    assert section.text.endswith("In all 7 records failed; 2 more rows of attacks are in the report.")
    assert max(map(len, section.text.splitlines())) < 160


def test_rows_of_reduced_precision_alone_are_said_to_be_left_out() -> None:
    (section,) = overview(shown(row(dsc=0.5, precision="bf16")))
    assert section.text == "Not in the tables: 1 of a reduced precision; report --table all says why."


def test_a_model_called_as_a_column_stays_a_model() -> None:
    rows = [row(source="attack", target=target, dsc=0.5, dsc_clean=0.9) for target in ("attack", "source_model")]
    white, matrix = overview(shown(*rows, row(source="drop", target="drop", dsc=0.5, dsc_clean=0.8)))
    assert cells(white, "attack")["clean"] == ["90.0", "80.0"]
    assert matrix.table is not None
    assert list(matrix.table.columns) == ["source_model", "attack (model)", "drop (model)", "source_model (model)"]


def test_the_quick_start_ends_on_one_screen_of_eighty_columns() -> None:
    """Three models, eleven attacks, two of them null rows; what the run says beside takes ten lines at most."""
    models = ("unet", "unet-vaft", "unetr")
    controls = [(float(budget), "none") for budget in range(1, 10)]
    settings = product([*controls, (1.0, "uniform"), (2.0, "uniform")], models, models, range(3))
    rows = [
        vafa(control, budget=budget, source=source, target=target, case=case, dsc=0.5)
        for (budget, control), source, target, case in settings
    ]
    lines = terminal(overview(shown(*rows)), width=80).splitlines()
    assert len(lines) <= 32
    assert max(map(len, lines)) <= 80


# of the label map: 60 %
ED = 100.0
ES = 40.0


def beat(
    patient: str, clean: tuple[float, float], attacked: tuple[float, float], attack: str = "pgd", **values: Any
) -> list[tuple[dict[str, Any], dict[str, float]]]:
    """Rows of both frames of a patient with the voxels of the ventricle, at end-diastole and at end-systole."""
    return [
        (
            row(attack, case=f"{patient}_{frame}", patient_id=patient, dsc=0.5, dsc_clean=0.9, **values),
            {"label_voxels": true, "pred_voxels": after, "pred_voxels_clean": before},
        )
        for frame, true, before, after in zip(("01", "09"), (ED, ES), clean, attacked, strict=True)
    ]


def framed(*beats: list[tuple[dict[str, Any], dict[str, float]]], name: str = "left ventricle") -> Any:
    pairs = [*chain(*beats)]
    made = classes(*((record, {"background": (1.0, 1.0), name: (0.5, 0.9)}) for record, _ in pairs))
    for number, (_, voxels) in enumerate(pairs):
        made.loc[2 * number + 1, [*voxels]] = [*voxels.values()]
    return [record for record, _ in pairs], made


def of_patients(*beats: list[tuple[dict[str, Any], dict[str, float]]]) -> pd.DataFrame:
    rows, made = framed(*beats)
    return furthest(fractions(select_scored(shown(*rows), KEY), made)).set_index("patient_id")


def test_ejection_fraction_is_of_both_frames() -> None:
    made = of_patients(
        beat("turned", clean=(100, 40), attacked=(100, 60)),
        beat("kept", clean=(110, 50), attacked=(90, 44)),
        beat("lost", clean=(100, 40), attacked=(0, 20)),
    )
    assert list(made.loc["turned", ["true", "clean", "attacked", "moved"]]) == pytest.approx([60, 60, 40, 20])
    assert list(made.loc["kept", ["clean", "attacked"]]) == pytest.approx([100 * 60 / 110, 100 * 46 / 90])
    assert list(made.loc["lost", ["attacked", "moved"]]) == pytest.approx([nan, nan], nan_ok=True)
    assert made["turned"].to_dict() == {"turned": True, "kept": False, "lost": True}


def test_attack_that_turns_a_patient_counts() -> None:
    further: dict[str, Any] = {"params": {"loss": "dice"}}
    made = of_patients(
        beat("a", clean=(100, 48), attacked=(100, 52)),
        beat("a", clean=(100, 48), attacked=(100, 10), **further),
        beat("b", clean=(100, 20), attacked=(100, 30)),
        beat("b", clean=(100, 20), attacked=(100, 45), **further),
    )
    assert dict(made["attacked"]) == pytest.approx({"a": 48, "b": 55})


def test_null_rows_stand_apart_and_one_frame_has_no_fraction() -> None:
    rows, made = framed(
        beat("a", clean=(100, 40), attacked=(100, 60)),
        beat("a", clean=(100, 40), attacked=(100, 41), attack="random_noise"),
        beat("a", clean=(100, 40), attacked=(100, 42), attack="vafa_opt", params={"control": "random"}),
        beat("alone", clean=(100, 40), attacked=(100, 60))[:1],
    )
    (section,) = ejection(shown(*rows), made)
    assert section.table is not None
    lines = section.table.set_index(["threat_model", "change"])
    assert dict(lines["turned"]) == {("linf", "attack"): 1, ("l2", "null row"): 0, ("dct-quantization", "null row"): 0}
    assert list(lines.loc[("linf", "attack"), ["patients", "EF\nlabel", "moved", "no EF"]]) == pytest.approx(
        [1, 60, 20, 0]
    )
    assert "random_noise" in NOISE


@pytest.mark.parametrize(("name", "is_told"), [("LV", True), ("liver", False)])
def test_dataset_without_left_ventricle_is_told_what_table_needs(name: str, is_told: bool) -> None:
    rows, made = framed(beat("a", clean=(100, 40), attacked=(100, 60)), name=name)
    (section,) = ejection(shown(*rows), made)
    assert (section.table is not None) is is_told
    assert is_told or section.text.startswith("No patient has a left ventricle in two cases")


def test_the_figure_has_a_panel_a_set_and_a_point_a_patient() -> None:
    patients = {"a": (100, 60), "b": (100, 30), "lost": (0, 20)}
    rows, made = framed(*(beat(name, clean=(100, 40), attacked=left) for name, left in patients.items()))
    figure = dict(FIGURES["ejection"](Material(shown_rows(records(*rows)), made, None)))[("phantom",)]
    assert isinstance(figure, Figure)
    (axis,) = figure.axes
    (points,) = (line for line in axis.lines if line.get_marker() not in ("None", None))
    assert sorted(np.asarray(points.get_ydata())) == pytest.approx([axis.get_ylim()[0], 40, 70])
