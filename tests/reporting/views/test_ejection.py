"""Ejection fractions by hand: two frames of a patient, the attack that does most, classes that turn, what has none."""

from math import nan
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from reporting.handmade import classes, records, row, shown

from freqbench.analysis.ejection import fractions, furthest
from freqbench.analysis.groups import NOISE, select_scored
from freqbench.reporting.figure_data import Material, shown_rows
from freqbench.reporting.figures import FIGURES
from freqbench.reporting.views.ejection import ejection
from freqbench.results import KEY

ED, ES = 100.0, 40.0  # of the label map: 60 %


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
    pairs = [pair for each in beats for pair in each]
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
