"""Label maps of several raters, readers or versions beside an image: never scans, and the key `rater` chooses."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import freqbench as fb
from freqbench.core.errors import UserError

from .conftest import layout_of, made, names_of, proposed, refused
from .downloads import put, volume

CASES = ("p01", "p02")


def _write(root: Path, image: str, *masks: str, cases: tuple[str, ...] = CASES) -> None:
    """Write an image a case, and masks of which each differs from the others in one voxel."""
    for seed, case in enumerate(cases):
        put(root / image.format(case), volume(seed)[0])
        for number, mask in enumerate(masks):
            put(root / mask.format(case), _mask(number))


def _mask(number: int) -> Any:
    mask = volume()[1]
    mask[number, 0, 0] = 1
    return mask


# Image, label maps of two raters, the pattern that doctor proposes for these, and the raters.
@pytest.mark.parametrize(
    ("image", "masks", "label", "raters"),
    {
        "numbers": ("{}.nii.gz", ("{}_seg1.nii.gz", "{}_seg2.nii.gz"), "{case}_seg{rater}.nii.gz", ("1", "2")),
        "tasks": (
            "{}/image.nii.gz",
            ("{}/task01_seg01.nii.gz", "{}/task01_seg02.nii.gz"),
            "{case}/task01_seg{rater}.nii.gz",
            ("01", "02"),
        ),
        "labels": (
            "images/{}.nii.gz",
            ("labels/rater1/{}.nii.gz", "labels/rater2/{}.nii.gz"),
            "labels/rater{rater}/{case}.nii.gz",
            ("1", "2"),
        ),
        "readers": (
            "images/{}.nii.gz",
            ("reader_A/{}.nii.gz", "reader_B/{}.nii.gz"),
            "reader_{rater}/{case}.nii.gz",
            ("A", "B"),
        ),
        "named": (
            "scans/{}.nii.gz",
            ("raters/jane/{}.nii.gz", "raters/yu/{}.nii.gz"),
            "raters/{rater}/{case}.nii.gz",
            ("jane", "yu"),
        ),
        "rater at the end": (
            "{}.nii.gz",
            ("{}_rater-1.nii.gz", "{}_rater-2.nii.gz"),
            "{case}_rater-{rater}.nii.gz",
            ("1", "2"),
        ),
        "rater between": (
            "{}.nii",
            ("{}_expert1_seg.nii", "{}_expert2_seg.nii"),
            "{case}_expert{rater}_seg.nii",
            ("1", "2"),
        ),
        "versions": (
            "{}/ct.nii.gz",
            ("{}/mask_v1.nii.gz", "{}/mask_v2.nii.gz"),
            "{case}/mask_v{rater}.nii.gz",
            ("1", "2"),
        ),
        "folders of versions": (
            "images/{}.nii.gz",
            ("labels_v1/{}.nii.gz", "labels_v3/{}.nii.gz"),
            "labels_v{rater}/{case}.nii.gz",
            ("1", "3"),
        ),
        "folders of cases": (
            "images/{}.nii.gz",
            ("labels/{}/1.nii.gz", "labels/{}/2.nii.gz"),
            "labels/{case}/{rater}.nii.gz",
            ("1", "2"),
        ),
        "trees": (
            "images/{}/ct.nii.gz",
            ("labels/{}/seg1.nii.gz", "labels/{}/seg2.nii.gz"),
            "labels/{case}/seg{rater}.nii.gz",
            ("1", "2"),
        ),
        "below the case": (
            "{}/image.nii.gz",
            ("{}/raterA/seg.nii.gz", "{}/raterB/seg.nii.gz"),
            "{case}/rater{rater}/seg.nii.gz",
            ("A", "B"),
        ),
        "twice": (
            "images/{}.nii.gz",
            ("rater1/{}_rater1.nii.gz", "rater2/{}_rater2.nii.gz"),
            "rater{rater}/{case}_rater{rater}.nii.gz",
            ("1", "2"),
        ),
        "Decathlon's folders": (
            "imagesTr/{}.nii.gz",
            ("labelsTr/{}_1.nii.gz", "labelsTr/{}_2.nii.gz"),
            "labelsTr/{case}_{rater}.nii.gz",
            ("1", "2"),
        ),
    }.values(),
)
def test_label_maps_of_raters_are_cases_of_one_patient(
    tmp_path: Path, image: str, masks: tuple[str, str], label: str, raters: tuple[str, str]
) -> None:
    _write(tmp_path, image, *masks)
    layout = layout_of(tmp_path, with_labels=True)
    dataset = proposed(tmp_path)
    assert (dataset.loader, dataset.label, dataset.rater, layout.problems) == ("pairs", label, "all", ())
    refs = dataset.refs()
    expected = [(f"{case}_{rater}", case) for case, rater in itertools.product(CASES, raters)]
    assert [(ref.case_id, ref.patient_id) for ref in refs] == expected
    for number, ref in enumerate(refs[2:]):
        np.testing.assert_array_equal(dataset.native(ref).image[0], volume(1)[0])
        np.testing.assert_array_equal(dataset.native(ref).label[0], _mask(number))
    (survey,) = layout.surveys
    assert (len(survey.complete), len(set(survey.patients))) == (4, 2)
    assert f"raters {', '.join(raters)}: 4 label maps of 2 scans" in " ".join(layout.notes)
    second = proposed(tmp_path, rater=raters[1])
    assert names_of(second) == [f"{case}_{raters[1]}" for case in CASES]


def test_scan_with_label_maps_of_raters_is_one_scan(tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    folder = tmp_path / "p01"
    _write(flat, "{}.nii.gz", "{}_seg1.nii.gz", "{}_seg2.nii.gz", cases=("p01",))
    _write(folder, "image.nii.gz", "task01_seg01.nii.gz", "task01_seg02.nii.gz", cases=("",))
    assert names_of(proposed(flat)) == ["p01_1", "p01_2"]
    layout = layout_of(folder)
    assert [survey.complete for survey in layout.surveys] == [["image"]]
    assert "2 files are label maps by their names and few whole values, and no scans" in " ".join(layout.notes)


@pytest.mark.parametrize(("rater", "chosen"), [("02", 1), (2, 1), ("seg-1", 0), ("rater01", 0)])
def test_a_rater_is_chosen_by_name_or_number(tmp_path: Path, rater: object, chosen: int) -> None:
    _write(tmp_path, "{}.nii.gz", "{}_seg01.nii.gz", "{}_seg02.nii.gz")
    dataset = proposed(tmp_path, rater=rater)
    assert [ref.patient_id for ref in dataset.refs()] == [*CASES]
    np.testing.assert_array_equal(dataset.native(dataset.refs()[1]).label[0], _mask(chosen))


def test_equal_maps_of_raters_are_cases_of_their_own(tmp_path: Path) -> None:
    _write(tmp_path, "{}.nii.gz", "{}_seg1.nii.gz")
    for case in CASES:
        put(tmp_path / f"{case}_seg2.nii.gz", _mask(0))
    dataset = proposed(tmp_path)
    second = proposed(tmp_path, rater=2)
    keys = {ref.case_id: dataset.case_key(ref) for ref in dataset.refs()}
    assert len({*keys.values()}) == 4
    expected = {id: keys[id] for id in ("p01_2", "p02_2")}
    assert {ref.case_id: second.case_key(ref) for ref in second.refs()} == expected


def test_reference_of_a_case_of_raters_is_another_patient(tmp_path: Path) -> None:
    _write(tmp_path, "{}.nii.gz", "{}_seg1.nii.gz", "{}_seg2.nii.gz", "{}_seg3.nii.gz")
    dataset = proposed(tmp_path)
    for ref in dataset.refs():
        assert {dataset.other(ref, seed).patient_id for seed in range(8)} == {*CASES} - {ref.patient_id}


def test_scan_that_some_raters_did_not_draw_has_cases_of_others(tmp_path: Path) -> None:
    _write(tmp_path, "{}/ct.nii.gz", "{}/seg1.nii.gz", "{}/seg2.nii.gz")
    (tmp_path / "p02/seg1.nii.gz").unlink()
    assert names_of(proposed(tmp_path)) == ["p01_1", "p01_2", "p02_2"]
    refused("expected a label map of case p02", proposed(tmp_path, rater=1).refs)


KEYS: dict[str, Any] = {"image": "{case}.nii.gz", "label": "{case}_seg{rater}.nii.gz", "labels": 3}


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({}, "the label maps of one rater, got {case}_seg{rater}.nii.gz of 2 raters, 1, 2: give the key `rater` "),
        ({"rater": 3}, "rater: expected one of {case}_seg{rater}.nii.gz of 2 raters, 1, 2, got '3': give one of these"),
        ({"label": "{case}_seg*.nii.gz"}, "or write {rater} where raters differ"),
    ],
)
def test_several_raters_without_choice_among_them_are_refused(tmp_path: Path, keys: dict[str, Any], text: str) -> None:
    _write(tmp_path, "{}.nii.gz", "{}_seg1.nii.gz", "{}_seg2.nii.gz")
    refused(text, made("pairs", root=tmp_path, **{**KEYS, **keys}).refs)


@pytest.mark.parametrize("keys", [{"label": "{case}_seg1.nii.gz"}, {"reference": "prediction"}])
def test_a_rater_of_no_pattern_is_refused(keys: dict[str, Any]) -> None:
    refused("write {rater} in `label`", lambda: made("pairs", **{**KEYS, "rater": 1, **keys}), UserError)


def test_a_pattern_of_one_rater_reads_the_scans_alone(tmp_path: Path) -> None:
    _write(tmp_path, "{}.nii.gz", "{}_seg1.nii.gz", "{}_seg2.nii.gz")
    cases = fb.load_dataset("pairs", root=str(tmp_path), **{**KEYS, "label": "{case}_seg2.nii.gz"})
    assert [case.name for case in cases] == [*CASES]


def test_agreement_has_one_case_a_scan(tmp_path: Path) -> None:
    _write(tmp_path, "{}.nii.gz", "{}_seg1.nii.gz", "{}_seg2.nii.gz")
    assert names_of(made("pairs", root=tmp_path, reference="prediction", **KEYS)) == [*CASES]


@pytest.mark.parametrize("names", [("img_{}", "mask_{}"), ("volume-{}", "segmentation-{}")])
def test_numbers_that_images_have_too_are_cases_and_no_raters(tmp_path: Path, names: tuple[str, str]) -> None:
    _write(tmp_path / "set", f"{names[0]}.nii.gz", f"{names[1]}.nii.gz", cases=("1", "2"))
    refused("give one of its folders: set (images and label maps", lambda: layout_of(tmp_path), UserError)
    dataset = proposed(tmp_path / "set")
    assert (names_of(dataset), dataset.rater) == (["1", "2"], None)


def test_a_version_beside_the_label_map_is_said_and_no_scan(tmp_path: Path) -> None:
    _write(tmp_path, "{}.nii.gz", "{}_seg.nii.gz", "{}_seg_v2.nii.gz")
    layout = layout_of(tmp_path)
    assert (layout.problems, proposed(tmp_path).label) == ((), "{case}_seg.nii.gz")
    assert "not used: {case}_seg_v2.nii.gz" in layout.notes
    assert names_of(proposed(tmp_path)) == [*CASES]


def test_file_called_as_scan_and_more_is_label_map_by_its_values(tmp_path: Path) -> None:
    _write(tmp_path, "{}.nii.gz", "{}_jane.nii.gz", "{}-2.nii.gz")
    put(tmp_path / "p01_post.nii.gz", volume(5)[0])
    layout = layout_of(tmp_path)
    assert layout.surveys[0].complete == ["p01", "p01_post", "p02"]
    assert "4 files are label maps by their names and few whole values" in " ".join(layout.notes)
