"""Lists of cases as others write them: equal file names, an image of several files, folds, nnU-Net's key `dataset`."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import freqbench as fb
from freqbench.core.errors import DataError, MissingDataError
from freqbench.data.layouts import recognise
from freqbench.job.schema import build_dataset

from . import downloads
from .conftest import made, refused
from .downloads import put, volume

LABELS = {"0": "background", "1": "left", "2": "right"}


def _listed(root: Path, name: str = "dataset.json", **content: Any) -> None:
    for seed, line in enumerate(line for lines in content.values() if isinstance(lines, list) for line in lines):
        for channel, image in enumerate(line["image"] if isinstance(line["image"], list) else [line["image"]]):
            put(root / image, volume(100 * channel + seed)[0])
        put(root / line["label"], volume()[1])
    (root / name).write_text(json.dumps(content))


def _lines(*pairs: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"image": image, "label": label} for image, label in pairs]


@pytest.mark.parametrize(
    ("images", "cases"),
    [
        (["k_01/imaging.nii.gz", "k_02/imaging.nii.gz"], ["k_01", "k_02"]),
        (["set/p8/anat/t1.nii.gz", "set/p9/anat/t1.nii.gz"], ["p8", "p9"]),
        (["p8/v1/ct.nii.gz", "p8/v2/ct.nii.gz", "p9/v1/ct.nii.gz"], ["p8_v1", "p8_v2", "p9_v1"]),
        (["p8/1.nii.gz", "p8/2.nii.gz", "p9/1.nii.gz"], ["p8_1", "p8_2", "p9_1"]),
        (["a/u.nii.gz", "b/v.nii.gz"], ["u", "v"]),
    ],
)
def test_cases_of_one_file_name_are_named_by_folder(tmp_path: Path, images: list[str], cases: list[str]) -> None:
    _listed(tmp_path, labels=LABELS, test=_lines(*((image, f"labels/{n}.nii.gz") for n, image in enumerate(images))))
    assert [case.name for case in fb.load_dataset("decathlon", root=tmp_path)] == cases


def test_an_entry_listed_twice_is_refused_still(tmp_path: Path) -> None:
    _listed(tmp_path, labels=LABELS, test=_lines(("a/ct.nii.gz", "a/gt.nii.gz"), ("a/ct.nii.gz", "a/gt.nii.gz")))
    refused("expected each case of test once, got ct twice", made("decathlon", root=str(tmp_path)).refs)


@pytest.mark.parametrize(
    ("folder", "case"), [("S{n}/S{n}_{m}.nii.gz", "S1"), ("S{n}-0{n}-{m}.nii.gz", "S1-01"), ("S{n}/{m}.nii.gz", "S1")]
)
def test_image_of_several_files_is_one_case_of_as_many_channels(tmp_path: Path, folder: str, case: str) -> None:
    names = ["t2", "t1", "t1ce"]
    lines = [{"image": [folder.format(n=n, m=m) for m in names], "label": f"labels/{n}.nii.gz"} for n in range(2)]
    _listed(tmp_path, labels=LABELS, test=lines)
    dataset = made("decathlon", root=str(tmp_path))
    refs = dataset.refs()
    assert (refs[1].case_id, dataset.num_channels) == (case, 3)
    expected = np.stack([volume(100 * channel + 1)[0] for channel in range(3)])
    np.testing.assert_array_equal(dataset.native(refs[1]).image, expected)


def test_fold_is_validation_split_and_others_are_training(tmp_path: Path) -> None:
    lines = [
        {**line, "fold": number}
        for line, number in zip(_lines(*((f"{c}.nii.gz", f"l/{c}.nii.gz") for c in "uvw")), (1, 0, 2), strict=True)
    ]
    _listed(tmp_path, labels=LABELS, training=lines)
    for split, cases in (("validation", ["w"]), ("training", ["u", "v"])):
        assert [ref.case_id for ref in made("decathlon", root=str(tmp_path), fold=2, split=split).refs()] == cases
    refused("expected entries of training with `fold` 3", made("decathlon", root=str(tmp_path), fold=3).refs)


def test_list_of_folds_without_class_names_is_proposed_and_read(tmp_path: Path) -> None:
    lines = [
        {"fold": n % 2, "image": [f"d/E{n}/E{n}_{m}.nii.gz" for m in ("t1", "t2")], "label": f"d/E{n}/E{n}_seg.nii.gz"}
        for n in range(3)
    ]
    _listed(tmp_path, "folds_2.json", training=lines)
    layout = recognise(str(tmp_path))
    (entry,) = yaml.safe_load(layout.job_line)
    assert (entry["loader"], entry["list"], entry["fold"], entry["labels"]) == ("decathlon", "folds_2.json", 0, 3)
    assert [ref.case_id for ref in build_dataset(entry, where="job.yaml").refs()] == ["E0", "E2"]
    assert any("fold 0 is the split validation" in note for note in layout.notes)


@pytest.mark.parametrize("absolute", [True, False])
def test_paths_may_be_absolute_or_beside_a_list_elsewhere(tmp_path: Path, absolute: bool) -> None:
    there = tmp_path / "there"
    _listed(there, labels=LABELS, test=_lines(("u.nii.gz", "l/u.nii.gz")))
    if absolute:
        lines = _lines((str(there / "u.nii.gz"), str(there / "l/u.nii.gz")))
        (there / "dataset.json").write_text(json.dumps({"labels": LABELS, "test": lines}))
    (tmp_path / "root").mkdir()
    dataset = made("decathlon", root=str(tmp_path / "root"), list=str(there / "dataset.json"))
    assert [ref.case_id for ref in dataset.refs()] == ["u"]
    shutil.copytree(there / "l", tmp_path / "root/l")
    assert len(dataset.refs()) == 1


def _described(root: Path, cases: dict[str, Any], **changes: Any) -> None:
    for seed, files in enumerate(cases.values()):
        for image in files["images"]:
            put(root / image, volume(seed)[0])
        put(root / files["label"], volume()[1])
    content = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "left": 1, "right": 2},
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps({**content, "dataset": cases, **changes}))


def test_nnunets_key_dataset_names_files_from_its_folder(tmp_path: Path) -> None:
    root = tmp_path / "Dataset901_X"
    root.mkdir()
    cases = {
        "q2": {"images": ["../source/q2/mr.nii.gz"], "label": "../source/q2/truth.nii.gz"},
        "q5": {"images": [str(tmp_path / "other/q5.nii.gz")], "label": str(tmp_path / "other/q5_gt.nii.gz")},
    }
    _described(root, cases)
    (entry,) = yaml.safe_load(recognise(str(root)).job_line)
    dataset = build_dataset(entry, where="job.yaml")
    refs = dataset.refs()
    assert [ref.case_id for ref in refs] == ["q2", "q5"]
    np.testing.assert_array_equal(dataset.native(refs[1]).image[0], volume(1)[0])


def test_a_fold_of_nnunet_selects_from_the_key_dataset(tmp_path: Path) -> None:
    _described(tmp_path, {c: {"images": [f"s/{c}.nii.gz"], "label": f"s/{c}_gt.nii.gz"} for c in ("q1", "q2")})
    (tmp_path / "splits_final.json").write_text(json.dumps([{"train": ["q1"], "val": ["q2"]}]))
    (entry,) = yaml.safe_load(recognise(str(tmp_path)).job_line)
    assert (entry["fold"], entry["split"]) == (0, "validation")
    assert [ref.case_id for ref in build_dataset(entry, where="job.yaml").refs()] == ["q2"]


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ({"images": "q1.nii.gz", "label": "q1_gt.nii.gz"}, "expected `dataset` with {images: [...], label: ...}"),
        ({"images": ["a.nii.gz", "b.nii.gz"], "label": "l.nii.gz"}, "expected an image for each of the 1 channels of "),
    ],
)
def test_a_wrong_entry_of_the_key_dataset_is_refused(tmp_path: Path, files: Any, text: str) -> None:
    _described(tmp_path, {})
    content = json.loads((tmp_path / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps({**content, "dataset": {"q1": files}}))
    refused(text, made("nnunet_raw", root=str(tmp_path), split="training").refs)


def test_nnunet_folders_have_training_and_test_cases(tmp_path: Path) -> None:
    for side, case in (("Tr", "u"), ("Ts", "w")):
        put(tmp_path / f"images{side}/{case}_0000.nii", volume()[0])
        put(tmp_path / f"labels{side}/{case}.nii", volume()[1])
    content = {"channel_names": {"0": "MR"}, "labels": {"background": 0, "left": 1, "right": 2}}
    (tmp_path / "dataset.json").write_text(json.dumps({**content, "file_ending": ".nii"}))
    for split, case in (("training", "u"), ("test", "w")):
        assert [ref.case_id for ref in made("nnunet_raw", root=str(tmp_path), split=split).refs()] == [case]
    (tmp_path / "dataset.json").write_text(json.dumps({**content, "file_ending": ".nii.gz"}))
    refused("got .nii.gz, though those of", made("nnunet_raw", root=str(tmp_path), split="training").refs, DataError)


def test_totalsegmentators_mr_is_read_at_percentiles(tmp_path: Path) -> None:
    downloads.totalsegmentator(tmp_path, {"s0003": "test"})
    (tmp_path / "s0003/ct.nii.gz").rename(tmp_path / "s0003/mri.nii.gz")
    keys = {"root": str(tmp_path), "classes": ("spleen",)}
    refused("found mri.nii.gz: set modality: mr", made("totalsegmentator", **keys).refs, MissingDataError)
    (entry,) = yaml.safe_load(recognise(str(tmp_path)).job_line)
    dataset = build_dataset(entry, where="job.yaml")
    assert (dataset.modality, dataset.intensity) == ("mr", "percentile")
    assert [ref.case_id for ref in dataset.refs()] == ["s0003"]
