"""MSD, AMOS, TotalSegmentator and raw folders of nnU-Net."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from freqbench.core.errors import DataError, UserError
from freqbench.data import DATASETS
from freqbench.data.loaders.amos import AMOS
from freqbench.data.loaders.msd import MSD
from freqbench.data.loaders.nnunet_raw import NnunetRaw
from freqbench.data.loaders.totalsegmentator import TotalSegmentator

from . import conftest, downloads
from .conftest import first_case, first_key, first_label, made, names_of, put_json
from .downloads import put, volume


def refused(loader: str, text: str, **arguments: Any) -> None:
    conftest.refused(text, lambda: made(loader, **arguments).refs(), UserError)


def test_a_task_is_called_by_folder_or_number(tmp_path: Path) -> None:
    own = tmp_path / "Task09_Spleen"
    own.mkdir()
    downloads.decathlon(own, {"training": ["spleen_2", "spleen_3"]})
    for task, root in (("Task09_Spleen", tmp_path), (9, own), ("09", tmp_path)):
        dataset = MSD(name="x", root=str(root), task=task, cases=1)
        assert names_of(dataset) == ["spleen_2"]
        assert dataset.class_names == ("air", "left", "right")


def test_every_task_has_its_own_scale_and_tolerance() -> None:
    assert MSD(name="x", root=".", task=9).space.intensity == {"window": (-57, 164)}
    assert MSD(name="x", root=".", task=4).space.intensity == "percentile"
    assert MSD(name="x", root=".", task=9, intensity="minmax").space.intensity == "minmax"
    tolerances = [MSD(name="x", root=".", task=task, labels=2).classes.tolerances_mm for task in range(1, 11)]
    assert [each for (each,) in tolerances] == [5, 4, 7, 1, 4, 2, 5, 3, 3, 4]


def test_an_unknown_task_is_refused() -> None:
    refused("msd", "unknown task 'Task09_Splen'. Did you mean 'Task09_Spleen'?", task="Task09_Splen")
    refused("msd", "unknown task '11'", task=11)


@pytest.mark.parametrize(
    ("loader", "keys"),
    [
        ("msd", {"task": 7, "root": "."}),
        ("msd", {"task": "hippocampus"}),
        ("msd", {"task": "hippocampus", "list": "mine.json"}),
        ("amos", {"root": ".", "modality": "mr"}),
        ("totalsegmentator", {"root": ".", "classes": ["liver"]}),
        ("nnunet_raw", {"root": ".", "fold": 1}),
        ("decathlon", {"root": ".", "list": "mine.json", "labels": 3, "intensity": {"zscore": 2}}),
    ],
    ids=str,
)
def test_a_dumped_dataset_validates_again(loader: str, keys: dict[str, Any]) -> None:
    dataset = DATASETS[loader].model_validate({"name": "x", **keys})
    assert DATASETS[loader].model_validate(dataset.model_dump(mode="json")) == dataset


@pytest.fixture
def amos(tmp_path: Path) -> Path:
    listed = {"training": ["amos_0001"], "validation": ["amos_0500", "amos_0501"], "test": ["amos_0600"]}
    downloads.decathlon(tmp_path, listed, ("background", "spleen", "arota"))
    return tmp_path


@pytest.mark.parametrize(
    ("modality", "cases", "intensity"),
    [
        ("ct", ["amos_0500"], {"window": (-175, 250)}),
        ("mr", ["amos_0501"], "percentile"),
        ("all", ["amos_0500", "amos_0501"], "percentile"),
    ],
)
def test_the_number_of_a_case_is_its_modality(amos: Path, modality: Any, cases: list[str], intensity: object) -> None:
    dataset = AMOS(name="amos", root=str(amos), modality=modality)
    assert names_of(dataset) == cases
    assert (dataset.space.intensity, len(dataset.classes), dataset.class_names[8]) == (intensity, 16, "aorta")


def test_cases_of_other_names_are_no_amos(tmp_path: Path) -> None:
    downloads.decathlon(tmp_path, {"validation": ["a"]})
    refused("amos", "dataset.json: expected cases like amos_0001, got a: use loader: decathlon", root=str(tmp_path))


@pytest.fixture
def bodies(tmp_path: Path) -> Path:
    downloads.totalsegmentator(tmp_path, {"s0000": "train", "s0001": "test", "s0002": "test"})
    return tmp_path


def total(root: Path, *classes: str, **arguments: Any) -> TotalSegmentator:
    return TotalSegmentator(name="total", root=str(root), classes=classes, crop_foreground=False, **arguments)


def test_masks_are_merged_in_the_order_of_the_classes(bodies: Path) -> None:
    _, boxes = volume(1)
    for classes, expected in {
        ("spleen", "aorta"): np.where(boxes == 1, 1, 0),
        ("liver", "spleen"): np.where(boxes == 1, 2, boxes // 2),
        ("spleen", "liver"): np.where(boxes > 0, 2, 0),
    }.items():
        dataset = total(bodies, *classes)
        assert np.array_equal(first_case(dataset).label[0].numpy(), expected)
        assert dataset.class_names == ("background", *classes)


def test_splits_are_the_tables_and_all_used_masks_identify(bodies: Path) -> None:
    assert names_of(total(bodies, "liver")) == ["s0001", "s0002"]
    assert [ref.patient_id for ref in total(bodies, "liver", split="training").refs()] == ["s0000"]
    dataset = total(bodies, "spleen", "liver", cases=1)
    keys = []
    for structure in ("aorta", "spleen", "liver"):
        keys.append(first_key(dataset))
        put(bodies / f"s0001/segmentations/{structure}.nii.gz", (volume(5)[1][::-1] > 0).astype(np.uint8))
    keys.append(first_key(dataset))
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_a_mask_on_another_grid_or_of_other_values_is_refused(bodies: Path) -> None:
    put(bodies / "s0002/segmentations/liver.nii.gz", np.zeros((3, 3, 3), np.uint8))
    text = "s0002/segmentations/liver.nii.gz: expected the shape (12, 10, 8) of ct.nii.gz, got (3, 3, 3)"
    refused("totalsegmentator", text, root=str(bodies), classes=["spleen", "liver"])
    put(bodies / "s0001/segmentations/liver.nii.gz", volume(1)[1])
    dataset = total(bodies, "spleen", "liver", cases=1)
    with pytest.raises(DataError, match=r"liver.nii.gz: expected labels 0 to 1, got 2"):
        first_case(dataset)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"classes": []}, "classes: expected a list of at least 1, got []"),
        ({"classes": ["liver", "liver"]}, "expected each structure once, and no background"),
        ({"classes": ["liver"], "labels": 2}, "labels: expected none, as `classes` says them all: remove it"),
        ({"classes": ["liver"], "root": "nowhere"}, "nowhere/meta.csv: expected the list of cases, found no file:"),
        ({"classes": ["spleen", "livr"]}, "/s0001/segmentations: unknown structure 'livr'. Did you mean 'liver'? Know"),
        ({"classes": ["liver"], "split": "tset"}, "meta.csv: unknown split 'tset'. Did you mean 'test'?"),
    ],
)
def test_totalsegmentator_refuses_in_one_line(bodies: Path, arguments: dict[str, Any], text: str) -> None:
    refused("totalsegmentator", text, **{"root": str(bodies), **arguments})


def test_a_table_with_other_columns_is_refused(bodies: Path) -> None:
    (bodies / "meta.csv").write_text("image_id,split\ns0000,test\n")
    text = "meta.csv: expected the columns image_id;split, got ['image_id,split']"
    refused("totalsegmentator", text, root=str(bodies), classes=["liver"])


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    downloads.nnunet(tmp_path, ["a", "b", "patient001_frame01"], ["c"])
    return tmp_path


def nnunet(root: Path, **arguments: Any) -> NnunetRaw:
    return NnunetRaw(name="raw", root=str(root), **{"split": "training", **arguments})


def test_cases_are_those_of_the_label_maps(raw: Path) -> None:
    put(raw / "imagesTr/unlabelled_0000.nii.gz", volume(9)[0])
    (raw / "labelsTr/._a.nii.gz").write_bytes(b"")
    assert names_of(nnunet(raw)) == ["a", "b", "patient001_frame01"]
    assert [ref.patient_id for ref in nnunet(raw).refs()] == ["a", "b", "patient001"]
    assert names_of(nnunet(raw, split="test")) == ["c"]
    assert nnunet(raw).unlabelled_cases() == ("unlabelled",)
    dataset = nnunet(raw, crop_foreground=False, cases=("b",))
    assert np.array_equal(first_case(dataset).label[0].numpy(), volume(ord("b"))[1])
    assert dataset.class_names == ("background", "left", "right")


def test_a_folds_cases_are_those_of_its_file(raw: Path) -> None:
    folds = [{"train": ["a"], "val": ["b"]}, {"train": ["b"], "val": ["patient001_frame01"]}]
    put_json(raw / "splits_final.json", folds)
    dataset = nnunet(raw, fold=1, split="validation")
    assert names_of(dataset) == ["patient001_frame01"]
    assert names_of(dataset, "train") == ["b"]
    assert names_of(dataset, "test") == ["c"]


def test_the_first_version_of_the_format_is_read(raw: Path) -> None:
    content = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "tumour", "2": "cyst"}}
    put_json(raw / "dataset.json", content)
    dataset = nnunet(raw)
    assert dataset.class_names == ("background", "tumour", "cyst")
    assert len(dataset.refs()) == 3


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"labels": {"background": 0, "whole": [1, "2"]}}, "or a list of them for a region, got [1, '2'] for whole"),
        (
            {"labels": {"background": 0, "left": "1"}},
            "expected a whole number for each label, or a list of them for a region, got '1' for left",
        ),
        ({"labels": {"air": 0, "left": 2, "right": 2}}, "expected different labels, 0 for the background, got {'air'"),
        ({"labels": {"left": 1, "right": 2}}, "dataset.json: expected different labels, 0 for the background, got"),
        ({"labels": ["background"]}, "dataset.json: expected labels {background: 0, ...}, got ['background']"),
        (
            {"file_ending": ".png"},
            "dataset.json: expected file_ending .nii.gz, .nii, .hdr, .nrrd, .nhdr, .mha, .mhd, .gipl.gz, .gipl, .mgz, "
            ".mgh, got",
        ),
        ({"channel_names": None}, "dataset.json: expected channel_names {'0': ...}, got None"),
    ],
)
def test_descriptions_that_cannot_be_scored_are_refused(raw: Path, changes: dict[str, Any], text: str) -> None:
    downloads.nnunet(raw, [], **changes)
    dataset = nnunet(raw)
    with pytest.raises(DataError, match=re.escape(text)):
        _ = [dataset.refs(), dataset.class_names]


def test_labels_are_classes_in_order_ignore_if_the_job_says(raw: Path) -> None:
    downloads.nnunet(raw, [], labels={"background": 0, "right": 2, "left": 1, "far": 40})
    assert nnunet(raw).class_names == ("background", "left", "right", "far")
    assert nnunet(raw).reading.moved == {40: 3}
    downloads.nnunet(raw, ["a"], labels={"background": 0, "left": 1, "ignore": 2})
    dataset = nnunet(raw, cases=("a",))
    assert dataset.class_names == ("background", "left")
    label = first_label(dataset)
    expected = volume(ord("a"))[1]
    assert np.array_equal(label, np.where(expected == 2, 254, expected))
    assert dataset.notes == ("raw: voxels with the label 2 do not count: not in losses, metrics or success",)
    scored = nnunet(raw, cases=("a",), ignore=[], labels=["air", "left", "unsure"])
    assert np.array_equal(first_label(scored), expected)


@pytest.mark.parametrize(
    ("folds", "text"),
    [
        (None, "splits_final.json: expected the folds, found no file: check `root`"),
        ("{", "splits_final.json: not readable as JSON"),
        ("[]", "splits_final.json: expected fold 0, got a list of 0: choose another `fold`"),
        ('[{"train": ["a"]}]', "splits_final.json: expected lists train and val in fold 0, got {'train': ['a']}"),
        ('[{"train": ["a"], "val": ["z"]}]', "/imagesTr/z_0000.nii.gz: expected the image of case z, found no file"),
    ],
)
def test_a_fold_that_is_none_is_refused(raw: Path, folds: str | None, text: str) -> None:
    if folds is not None:
        (raw / "splits_final.json").write_text(folds)
    refused("nnunet_raw", text, root=str(raw), fold=0, split="validation")
