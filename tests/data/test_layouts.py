"""Folders as they are found, and lists of cases as others write them: what is recognised, and what is said."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from command_line import bench

import freqbench as fb
from freqbench.core.errors import DataError, MissingDataError, UserError
from freqbench.data import layouts
from freqbench.data.loaders.decathlon import SPLITS

from . import downloads
from .conftest import layout_of, made, names_of, proposed, put_json, refused
from .downloads import ACDC_PLACES, CLASSES, PLACES, VOXELS, put, volume


def _copies(root: Path, names: list[str]) -> None:
    """The same volume under every name, as headers alone are looked at: links, as they are quick."""
    source = root / "source.nii.gz"
    put(source, CLASSES)
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.hardlink_to(source)
    source.unlink()


def _synapse(root: Path, place: str) -> None:
    numbers = [*range(1, 11), *range(21, 41)]
    for path in PLACES[place]:
        _copies(root, [path.format(case=f"img{n:04d}", number=f"{n:04d}") for n in numbers])


def _acdc(root: Path, place: str) -> None:
    """The first nine cases of the published list."""
    lines = json.loads((SPLITS / "acdc_140_20.json").read_text())["training"][:9]
    for case in (Path(line["image"]).name.removesuffix(".nii.gz") for line in lines):
        patient = case.partition("_")[0]
        for path, voxels in zip(ACDC_PLACES[place], volume(), strict=True):
            put(root / path.format(case=case, patient=patient, side="Tr"), voxels)


_msd = partial(downloads.decathlon, listed={"training": ["spleen_2", "spleen_3"], "test": ["spleen_1"]})
_mine = partial(downloads.decathlon, listed={"training": ["a"], "validation": ["b", "c"]})
_amos = partial(downloads.decathlon, listed={"training": ["amos_0001"], "validation": ["amos_0008", "amos_0507"]})
_total = partial(downloads.totalsegmentator, splits={"s0000": "train", "s0001": "test"})
_raw = partial(downloads.nnunet, training=["patient001_frame01", "b"], test=["c"], channels=2)
BTCV = {"training": 18, "validation": 12}
MINE = {"training": 1, "validation": 2}


# How the folder is called and written; then title, loader and complete cases of each split.
@pytest.mark.parametrize(
    ("name", "expected"),
    {
        "raw": (partial(_synapse, place="raw"), "BTCV as downloaded", "synapse", BTCV),
        "flat": (partial(_synapse, place="flat"), "BTCV as downloaded", "synapse", BTCV),
        "btcv": (partial(_synapse, place="decathlon"), "Synapse (BTCV) in the Decathlon layout", "synapse", BTCV),
        "heart": (partial(_acdc, place="decathlon"), "ACDC in the Decathlon layout", "acdc", {"training": 9}),
        "patients": (partial(_acdc, place="patients"), "ACDC as downloaded", "acdc", {"training": 9}),
        "mine": (_mine, "folder in the layout of the Decathlon", "decathlon", MINE),
        "Task09_Spleen": (_msd, "task of the Medical Segmentation Decathlon", "msd", {"training": 2, "test": 0}),
        "amos22": (_amos, "AMOS", "amos", MINE),
        "total": (_total, "TotalSegmentator", "totalsegmentator", {"train": 1, "test": 1}),
        "scans": (partial(_copies, names=["a.nii.gz", "b.nii.gz"]), "scans without label maps", "images", {"test": 2}),
        "Dataset027_ACDC": (_raw, "raw folder of nnU-Net", "nnunet_raw", {"training": 2, "test": 1}),
    }.items(),
)
def test_every_layout_is_recognised_and_its_job_line_reads_cases(
    tmp_path: Path, name: str, expected: tuple[Callable[[Path], object], str, str, dict[str, int]]
) -> None:
    write, title, loader, complete = expected
    (tmp_path / name).mkdir()
    write(tmp_path / name)
    layout = layout_of(tmp_path / name)
    assert (layout.title, layout.loader) == (title, loader)
    assert {survey.split: len(survey.complete) for survey in layout.surveys}.items() >= complete.items()
    assert layout.problems == () or loader == "acdc"
    dataset = proposed(tmp_path / name, cases=1)
    assert (len(dataset.refs()), dataset.loader) == (1, loader)


def _problems(root: Path) -> str:
    return "\n".join(layout_of(root).problems)


def test_pictures_of_nnunet_are_refused_as_its_loader_does(tmp_path: Path) -> None:
    downloads.nnunet(tmp_path, training=[], file_ending=".png")
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "imagesTr/a_0000.png").touch()
    assert layout_of(tmp_path).loader == "nnunet_raw"
    assert "got '.png': stack the pictures of a volume into one file" in _problems(tmp_path)


@pytest.mark.parametrize("place", ["raw", "decathlon"])
def test_missing_empty_and_unreadable_files_are_named(tmp_path: Path, place: str) -> None:
    _synapse(tmp_path, place)
    image, label = (path.format(case="img0003", number="0007") for path in PLACES[place])
    spoilt = {p.format(case="img0002", number="0006"): t for p, t in zip(PLACES[place], ("", "x" * 900), strict=True)}
    for path in (image, label, *spoilt):
        (tmp_path / path).unlink()
    for path, text in spoilt.items():
        (tmp_path / path).write_text(text)
    layout = layout_of(tmp_path)
    missing = [f"training: 1 files are missing: {label}", f"validation: 1 files are missing: {image}"]
    assert [line for line in layout.problems if "files are missing" in line] == missing
    assert [len(survey.complete) for survey in layout.surveys] == [16, 10]
    for path in spoilt:
        assert f"{path}: expected a NIfTI file, got an unreadable header" in "\n".join(layout.problems)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_file_that_was_cut_off_behind_its_header_is_named(tmp_path: Path, suffix: str) -> None:
    names = {key: f"{key}sTr/a{suffix}" for key in ("image", "label")}
    for name in names.values():
        put(tmp_path / name, CLASSES)
    listed = {"labels": {"0": "background", "1": "left", "2": "right"}, "training": [names]}
    put_json(tmp_path / "dataset.json", listed)
    assert _problems(tmp_path) == ""
    image = tmp_path / names["image"]
    image.write_bytes(image.read_bytes()[:-9])
    (problem,) = layout_of(tmp_path).problems
    assert problem.startswith(f"{image}: expected ")
    assert "damaged or truncated" in problem


@pytest.mark.parametrize(
    "path", ["averaged-training-images/DET0000101_avg.nii.gz", "img/avg152T1_LR.nii.gz", "imagesTr/avg152T1.nii.gz"]
)
def test_averages_are_no_cases(tmp_path: Path, path: str) -> None:
    put(tmp_path / path, VOXELS)
    layout = layout_of(tmp_path)
    assert layout.loader == "synapse"
    assert f"1 files are averages over volumes, not the scans of the split: {Path(path).name}: fetch RawData.zip" in (
        "\n".join(layout.problems)
    )


def test_images_and_channels_without_a_file_are_named(tmp_path: Path) -> None:
    downloads.nnunet(tmp_path, ["a", "b"], channels=2)
    (tmp_path / "labelsTr/b.nii.gz").unlink()
    assert _problems(tmp_path) == "imagesTr: 1 images have no label map in labelsTr: b"
    (tmp_path / "imagesTr/a_0001.nii.gz").unlink()
    assert "training: 1 files are missing: imagesTr/a_0001.nii.gz" in _problems(tmp_path)


@pytest.mark.parametrize("structure", ["liver", "aorta"])
def test_a_mask_that_is_missing_is_named(tmp_path: Path, structure: str) -> None:
    downloads.totalsegmentator(tmp_path, {"s0000": "train", "s0001": "test"})
    (tmp_path / f"s0001/segmentations/{structure}.nii.gz").unlink()
    layout = layout_of(tmp_path)
    (problem,) = layout.problems
    assert {"s0001", structure} <= set(problem.replace(":", " ").replace("/", " ").replace(".", " ").split())
    assert layout.entry["classes"] == ["spleen", "liver"]


def test_folder_of_thousands_is_refused_without_a_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(300):
        (tmp_path / f"{number}").mkdir()
    seen: list[Path] = []
    monkeypatch.setattr(layouts, "_kind_of", seen.append)
    with pytest.raises(UserError, match="expected the folder of a dataset, got one with 0, 1, 10 and 297 more: "):
        layout_of(tmp_path)
    assert len(seen) == 1 + layouts.LOOKED_INTO


def test_unused_files_are_noted_and_a_missing_list_is_a_problem(tmp_path: Path) -> None:
    downloads.decathlon(tmp_path, {"training": ["a"], "test": ["t"]})
    put(tmp_path / "imagesTr/spare.nii.gz", VOXELS)
    layout = layout_of(tmp_path)
    assert layout.notes == (
        "test: no label maps, so its cases need `reference: prediction`",
        "the list does not name: imagesTr/spare.nii.gz",
    )
    assert layout.problems == ()
    (tmp_path / "dataset.json").unlink()
    assert "expected the JSON list of cases" in _problems(tmp_path)


@pytest.mark.parametrize(
    ("write", "text"),
    [
        (lambda _: None, "expected the folder of a dataset, got one with nothing: looked for TotalSegm"),
        (lambda root: (root / "notes.nii.gz").mkdir(), "got one with notes.nii.gz: looked for"),
        (lambda root: (root / "notes.txt").touch(), "got one with notes.txt: looked for TotalSegmentator"),
        (
            lambda root: ((root / "Task09_Spleen").mkdir(), _msd(root / "Task09_Spleen")),
            "give one of its folders: Task09_Spleen (task of the Medical Segmentation Decathlon)",
        ),
        (shutil.rmtree, "expected a folder or an image file, found none: check --data"),
        (
            lambda root: (root.rmdir(), root.symlink_to(root)),
            "expected a folder or an image file, found none: check --d",
        ),
    ],
)
def test_folder_that_is_no_dataset_is_refused(tmp_path: Path, write: Callable[[Path], object], text: str) -> None:
    root = tmp_path / "folder"
    root.mkdir()
    write(root)
    refused(text, lambda: layout_of(root), UserError)


@pytest.mark.parametrize("place", ["", "a.nii.gz"])
def test_doctor_says_what_bare_scans_serve(tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]) -> None:
    _copies(tmp_path, ["a.nii.gz"])
    code, out, _ = bench(capsys, "doctor", "--data", str(tmp_path / place))
    assert code == 0
    assert "reference: prediction, loader: images, split: test}" in out
    assert "how stable it is, not whether it is right" in out


def test_doctor_says_layout_job_line_and_problems(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    downloads.decathlon(tmp_path, {"training": ["a", "b"]})
    code, out, _ = bench(capsys, "doctor", "--data", str(tmp_path))
    assert code == 0
    assert "loader:          decathlon" in out
    assert "training:        2 of 2 cases are complete" in out
    (tmp_path / "imagesTr/b.nii.gz").unlink()
    code, out, _ = bench(capsys, "doctor", "--data", str(tmp_path))
    assert code == 1
    assert "problem:         training: 1 files are missing: imagesTr/b.nii.gz" in out


LABELS = {"0": "background", "1": "left", "2": "right"}


def _listed(root: Path, name: str = "dataset.json", **content: Any) -> None:
    for seed, line in enumerate(line for lines in content.values() if isinstance(lines, list) for line in lines):
        for channel, image in enumerate(line["image"] if isinstance(line["image"], list) else [line["image"]]):
            put(root / image, volume(100 * channel + seed)[0])
        put(root / line["label"], CLASSES)
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


@pytest.mark.parametrize(
    ("folder", "case"), [("S{n}/S{n}_{m}.nii.gz", "S1"), ("S{n}-0{n}-{m}.nii.gz", "S1-01"), ("S{n}/{m}.nii.gz", "S1")]
)
def test_image_of_several_files_is_one_case_of_as_many_channels(tmp_path: Path, folder: str, case: str) -> None:
    names = ["t2", "t1", "t1ce"]
    lines = []
    for n in range(2):
        lines.append({"image": [folder.format(n=n, m=m) for m in names], "label": f"labels/{n}.nii.gz"})
    _listed(tmp_path, labels=LABELS, test=lines)
    dataset = made("decathlon", root=tmp_path)
    refs = dataset.refs()
    assert (refs[1].case_id, dataset.num_channels) == (case, 3)
    expected = np.stack([volume(100 * channel + 1)[0] for channel in range(3)])
    np.testing.assert_array_equal(dataset.native(refs[1]).image, expected)


def test_fold_is_validation_split_and_others_are_training(tmp_path: Path) -> None:
    lines = [
        {"image": f"{case}.nii.gz", "label": f"l/{case}.nii.gz", "fold": number}
        for case, number in {"u": 1, "v": 0, "w": 2}.items()
    ]
    _listed(tmp_path, labels=LABELS, training=lines)
    for split, cases in (("validation", ["w"]), ("training", ["u", "v"])):
        assert names_of(made("decathlon", root=tmp_path, fold=2, split=split)) == cases
    refused("expected entries of training with `fold` 3", made("decathlon", root=tmp_path, fold=3).refs)


def test_list_of_folds_without_class_names_is_proposed_and_read(tmp_path: Path) -> None:
    lines = []
    for n, path in enumerate(("d/E0/E0_", "d/E1/E1_", "d/E2/E2_")):
        lines.append({"fold": n % 2, "image": [f"{path}t1.nii.gz", f"{path}t2.nii.gz"], "label": f"{path}seg.nii.gz"})
    _listed(tmp_path, "folds_2.json", training=lines)
    layout = layout_of(tmp_path)
    (entry,) = yaml.safe_load(layout.job_line)
    assert (entry["loader"], entry["list"], entry["fold"], entry["labels"]) == ("decathlon", "folds_2.json", 0, 3)
    assert names_of(proposed(tmp_path)) == ["E0", "E2"]
    assert any("fold 0 is the split validation" in note for note in layout.notes)


@pytest.mark.parametrize("absolute", [True, False])
def test_paths_may_be_absolute_or_beside_a_list_elsewhere(tmp_path: Path, absolute: bool) -> None:
    there = tmp_path / "there"
    _listed(there, labels=LABELS, test=_lines(("u.nii.gz", "l/u.nii.gz")))
    if absolute:
        lines = _lines((str(there / "u.nii.gz"), str(there / "l/u.nii.gz")))
        put_json(there / "dataset.json", {"labels": LABELS, "test": lines})
    (tmp_path / "root").mkdir()
    dataset = made("decathlon", root=tmp_path / "root", list=str(there / "dataset.json"))
    assert names_of(dataset) == ["u"]
    shutil.copytree(there / "l", tmp_path / "root/l")
    assert len(dataset.refs()) == 1


def _described(root: Path, cases: dict[str, Any], **changes: Any) -> None:
    for seed, files in enumerate(cases.values()):
        for image in files["images"]:
            put(root / image, volume(seed)[0])
        put(root / files["label"], CLASSES)
    labels = {"background": 0, "left": 1, "right": 2}
    content = {"channel_names": {"0": "MR"}, "labels": labels, "file_ending": ".nii.gz", "dataset": cases}
    put_json(root / "dataset.json", {**content, **changes})


def test_nnunets_key_dataset_names_files_from_its_folder(tmp_path: Path) -> None:
    root = tmp_path / "Dataset901_X"
    root.mkdir()
    cases = {
        "q2": {"images": ["../source/q2/mr.nii.gz"], "label": "../source/q2/truth.nii.gz"},
        "q5": {"images": [str(tmp_path / "other/q5.nii.gz")], "label": str(tmp_path / "other/q5_gt.nii.gz")},
    }
    _described(root, cases)
    dataset = proposed(root)
    refs = dataset.refs()
    assert [ref.case_id for ref in refs] == ["q2", "q5"]
    np.testing.assert_array_equal(dataset.native(refs[1]).image[0], volume(1)[0])


def test_a_fold_of_nnunet_selects_from_the_key_dataset(tmp_path: Path) -> None:
    _described(tmp_path, {c: {"images": [f"s/{c}.nii.gz"], "label": f"s/{c}_gt.nii.gz"} for c in ("q1", "q2")})
    put_json(tmp_path / "splits_final.json", [{"train": ["q1"], "val": ["q2"]}])
    (entry,) = yaml.safe_load(layout_of(tmp_path).job_line)
    assert (entry["fold"], entry["split"]) == (0, "validation")
    assert names_of(proposed(tmp_path)) == ["q2"]


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
    put_json(tmp_path / "dataset.json", {**content, "dataset": {"q1": files}})
    refused(text, made("nnunet_raw", root=tmp_path, split="training").refs)


def test_files_of_another_ending_than_the_stated_one_are_refused(tmp_path: Path) -> None:
    downloads.nnunet(tmp_path, ["u"], file_ending=".nii")
    refused("got .nii, though those of", made("nnunet_raw", root=tmp_path, split="training").refs, DataError)


def test_totalsegmentators_mr_is_read_at_percentiles(tmp_path: Path) -> None:
    downloads.totalsegmentator(tmp_path, {"s0003": "test"})
    (tmp_path / "s0003/ct.nii.gz").rename(tmp_path / "s0003/mri.nii.gz")
    keys = {"root": str(tmp_path), "classes": ("spleen",)}
    refused("found mri.nii.gz: set modality: mr", made("totalsegmentator", **keys).refs, MissingDataError)
    dataset = proposed(tmp_path)
    assert (dataset.modality, dataset.intensity) == ("mr", "percentile")
    assert names_of(dataset) == ["s0003"]
