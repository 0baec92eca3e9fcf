"""The class that a label in a file becomes: by number, by name, by `label_map`, or none at all."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from freqbench.core.errors import DataError, UserError
from freqbench.core.types import IGNORED
from freqbench.data import image_files, nibabel_files
from freqbench.data.labels import classes_of
from freqbench.job import plan
from freqbench.job.grid import expand
from freqbench.job.schema import JobSpec

from . import downloads
from .conftest import Folder, first_key, first_label, layout_of, made, refused
from .downloads import CLASSES, LPS, SHAPE, VOXELS, Nifti1, put, volume

TUMOUR = {0: "background", 1: "core", 2: "oedema", 7: "enhancing"}
ORGANS = {0: "air", 1: "liver", 2: "left_kidney", 3: "aorta"}


def decided(
    listed: Mapping[int, str],
    labels: int | Sequence[str] | None = None,
    label_map: Mapping[int, int] | None = None,
    ignore: Sequence[int] = (),
) -> tuple[tuple[str, ...], dict[int, int]]:
    classes = classes_of("x", listed, labels, label_map, ignore)
    return classes.names, dict(sorted(classes.of_value.items()))


@pytest.mark.parametrize(
    ("listed", "given", "names", "of_value"),
    [
        (TUMOUR, {}, ("background", "core", "oedema", "enhancing"), {0: 0, 1: 1, 2: 2, 7: 3}),
        (
            TUMOUR,
            {"label_map": {1: 1, 2: 1, 7: 1}},
            ("background", "core + oedema + enhancing"),
            {0: 0, 1: 1, 2: 1, 7: 1},
        ),
        (TUMOUR, {"label_map": {1: 0, 2: 1, 7: 0}}, ("background", "oedema"), {0: 0, 1: 0, 2: 1, 7: 0}),
        (
            TUMOUR,
            {"labels": 4, "label_map": {7: 3}},
            ("background", "class 1", "class 2", "class 3"),
            {0: 0, 1: 1, 2: 2, 7: 3},
        ),
        (ORGANS, {"labels": ["air", "aorta"]}, ("air", "aorta"), {0: 0, 1: 0, 2: 0, 3: 1}),
        (
            ORGANS,
            {"labels": ["rest", "Left kidney", "Liver"]},
            ("rest", "Left kidney", "Liver"),
            {0: 0, 1: 2, 2: 1, 3: 0},
        ),
        (
            ORGANS,
            {"labels": ["air", "liver", "kidney", "aorta"]},
            ("air", "liver", "kidney", "aorta"),
            {0: 0, 1: 1, 2: 2, 3: 3},
        ),
        (ORGANS, {"ignore": [9]}, tuple(ORGANS.values()), {0: 0, 1: 1, 2: 2, 3: 3, 9: IGNORED}),
        (ORGANS, {"ignore": [-1, 2]}, tuple(ORGANS.values()), {-1: IGNORED, 0: 0, 1: 1, 2: IGNORED, 3: 3}),
        (ORGANS, {"ignore": [3]}, ("air", "liver", "left_kidney"), {0: 0, 1: 1, 2: 2, 3: IGNORED}),
        (ORGANS, {"label_map": {3: 1, "other": "background"}}, ("air", "aorta"), {0: 0, 1: 0, 2: 0, 3: 1}),
        (ORGANS, {"label_map": {"other": "background"}}, tuple(ORGANS.values()), {0: 0, 1: 1, 2: 2, 3: 3}),
        ({}, {"labels": 3, "label_map": {5: 2}}, ("background", "class 1", "class 2"), {0: 0, 1: 1, 5: 2}),
    ],
)
def test_every_label_has_its_class(
    listed: dict[int, str], given: dict[str, Any], names: tuple[str, ...], of_value: dict[int, int]
) -> None:
    assert decided(listed, **given) == (names, of_value)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"label_map": {3: 1}}, r"expected label 1 \(liver\) in it, .* it background, \{other: background\} all"),
        ({"label_map": {1: 0}}, r"without a gap, got none for class 1, but class 2 for label 2 \(left_kidney\)"),
        ({"label_map": {1: 0, 2: 0, 3: 0}}, "expected a class beside the background, got none: map a label to 1"),
        ({"label_map": {1: 4}, "labels": 4}, r"expected classes 0 to 3, got \{1: 4\}: name all classes in `labels`"),
        ({"labels": ["liver", "aorta"]}, "expected `labels` to begin with the background, 'air', got 'liver', which i"),
        ({"labels": ["air", "aorta", "livre"]}, "got 'aorta', which is label 3, beside 'livre', which is none of air,"),
        ({"label_map": {3: 0}, "ignore": [3]}, "expected 3 in one of label_map and ignore, got it in both"),
    ],
)
def test_a_label_without_a_class_is_refused_with_what_to_list(given: dict[str, Any], text: str) -> None:
    with pytest.raises(DataError, match=text):
        decided(ORGANS, **given)


def test_values_of_a_file_become_their_classes(folder: Folder) -> None:
    label = volume()[1]
    folder.write("a", VOXELS, np.array([0, 12, 5], np.uint8)[label])
    folder.list(labels={"0": "air", "5": "cyst", "12": "kidney"})
    dataset = folder.dataset(cases=["a"])
    assert (first_label(dataset) == np.array([0, 2, 1])[label]).all()
    assert dataset.notes == (
        "small: labels of the files become classes: 5 (cyst) -> 1 (cyst), 12 (kidney) -> 2 (kidney); 0 as in the files",
    )


@pytest.mark.parametrize("codes", ["RAS", "SAR", "PIL"])
@pytest.mark.parametrize("loader", ["pairs", "totalsegmentator"])
def test_a_map_in_other_axes_is_turned_onto_its_image(tmp_path: Path, loader: str, codes: str) -> None:
    """The image is LPS; nibabel turns the label maps, so that no voxel moves in the world."""
    image, label = volume()
    turn = ornt_transform(io_orientation(LPS), axcodes2ornt(tuple(codes)))
    put(tmp_path / "s0000/ct.nii.gz", image, LPS)
    (tmp_path / "meta.csv").write_text("image_id;split\ns0000;test\n")
    for name, mask in {"segmentations/spleen": label == 1, "segmentations/liver": label == 2, "seg": label}.items():
        path = tmp_path / f"s0000/{name}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        nibabel.save(Nifti1(mask.astype(np.uint8), LPS).as_reoriented(turn), path)
    keys = {"image": "{case}/ct.nii.gz", "label": "{case}/seg.nii.gz", "labels": 3}
    dataset = made(loader, root=tmp_path, **keys if loader == "pairs" else {"classes": ["spleen", "liver"]})
    np.testing.assert_array_equal(first_label(dataset), label)


def test_other_labels_become_background_and_a_note_says_so(folder: Folder) -> None:
    image, label = volume()
    files = np.where(label == 2, 9, label).astype(np.int16)
    files[0, 0, 0] = -4
    folder.write("a", image, files)
    dataset = folder.dataset(cases=["a"], label_map={1: 1, "other": "background"})
    (ref,) = dataset.refs()
    assert (dataset.native(ref).label[0].numpy() == (label == 1)).all()
    assert "small: all other labels of the files become background" in dataset.notes
    assert dataset.class_names == ("background", "left")
    named = folder.dataset(cases=["a"], labels=3, label_map={"other": "background"})
    assert (named.native(ref).label[0].numpy() == (label == 1)).all()
    assert dataset.case_key(ref) != folder.dataset(cases=["a"], label_map={1: 1, 2: 0}).case_key(ref)


def test_other_labels_are_background_or_nothing() -> None:
    for text, wrong in (
        ("got `other: 1`: change it", {"other": 1}),
        ("got `4: background`: change it", {4: "background"}),
        ("label_map", {"rest": "background"}),
    ):
        refused(text, lambda wrong=wrong: made("decathlon", label_map=wrong), UserError)


def test_a_map_that_changes_no_case_changes_no_key(folder: Folder) -> None:
    same = ({}, {"label_map": {1: 1}}, {"labels": ["background", "left", "right"]})
    assert len({first_key(folder.dataset(cases=["a"], **keys)) for keys in same}) == 1
    alike = ({"labels": ["background", "right"]}, {"label_map": {1: 0, 2: 1}})
    assert len({first_key(folder.dataset(cases=["a"], **keys)) for keys in alike}) == 1


@pytest.mark.parametrize(("slope", "says"), [(1.0, False), (1.00012, True)])
def test_labels_that_slope_moves_are_rounded_and_line_says_so(folder: Folder, slope: float, says: bool) -> None:
    image, label = volume()
    folder.write("a", image, label)
    path = folder.root / "labelsTr/a.nii.gz"
    stored = Nifti1(label.astype(np.uint8), np.eye(4))
    path.unlink()
    stored.header.set_slope_inter(slope, 0.0)
    stored.to_filename(path)
    dataset = folder.dataset(cases=["a"])
    (ref,) = dataset.refs()
    assert (dataset.native(ref).label[0].numpy() == label).all()
    lines = [line for line in dataset.faults(ref, dataset.space) if "away from whole numbers" in line]
    assert bool(lines) == says == bool(dataset.survey("validation[:1]", with_labels=True).notes)


@pytest.mark.parametrize(
    ("loader", "arguments", "text"),
    [
        ("decathlon", {"reference": "prediction", "ignore": [3]}, "expected no ignore beside reference: prediction"),
        ("totalsegmentator", {"classes": ["liver"], "label_map": {1: 2}}, "label_map: expected none, as `classes` say"),
        ("decathlon", {"label_map": {1: 255}}, "label_map"),
    ],
)
def test_a_map_that_nothing_would_follow_is_refused(loader: str, arguments: dict[str, Any], text: str) -> None:
    refused(text, lambda: made(loader, **arguments), UserError)


def test_nifti_reads_negative_labels_where_they_are_listed(folder: Folder) -> None:
    label = CLASSES.astype(np.int16)
    Nifti1(np.where(label == 2, -1, label), np.eye(4)).to_filename(folder.root / "labelsTr/a.nii.gz")
    dataset = folder.dataset(cases=["a"], ignore=[-1])
    kept = first_label(dataset)
    assert ((kept == IGNORED) == (label == 2)).all()
    assert kept.shape == SHAPE
    with pytest.raises(DataError, match="expected integers from 0 as labels, got -1"):
        image_files.read_integers(nibabel_files.read_header(folder.root / "labelsTr/a.nii.gz"))


def test_plan_and_doctor_say_which_labels_become_which_classes(tmp_path: Path) -> None:
    downloads.nnunet(tmp_path, ["a"], labels={"air": 0, "left": 1, "right": 2, "far": 6, "ignore": 7})
    said = {
        f"{tmp_path.name}: labels of the files become classes: 6 (far) -> 3 (far); 0, 1, 2 as in the files",
        f"{tmp_path.name}: voxels with the label 7 do not count: not in losses, metrics or success",
    }
    assert said <= set(layout_of(tmp_path, with_labels=True).notes)
    entry = {"name": tmp_path.name, "loader": "nnunet_raw", "root": str(tmp_path), "split": "training"}
    args = {"channels": [4, 8], "strides": [2], "num_res_units": 0}
    network = {"name": "m", "arch": "unet", "checkpoint": "random", "args": args, "roi": [16, 16, 16]}
    content = {"name": "j", "datasets": [entry], "models": [network], "attacks": [{"name": "fgsm", "eps": 0.1}]}
    summary = plan.outlook(expand(JobSpec.model_validate(content)), (), None, str(tmp_path / "out"))
    assert {f"note: {line}" for line in said} <= set(plan.lines(summary))
