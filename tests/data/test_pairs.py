"""Files whose names alone say what they are: doctor pairs them, and its job line reads what the names mean."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import freqbench as fb
from freqbench.core.errors import MissingDataError, UserError

from .conftest import first_case, first_native, layout_of, made, names_of, proposed, refused
from .downloads import CLASSES, put, volume


def _write(root: Path, images: Iterable[str], labels: Iterable[str]) -> None:
    for seed, path in enumerate(images):
        put(root / path, volume(seed)[0])
    for path in labels:
        put(root / path, CLASSES)


TWO = [("x1",), ("x2",)]
VISITS = [("k1", "t0"), ("k1", "t1"), ("k2", "t0")]


# Image and label map of a case, the texts that fill them in, one case's name, and how many patients there are.
@pytest.mark.parametrize(
    ("image", "label", "texts", "last", "patients"),
    {
        "KiTS": ("case_{0}/imaging.nii.gz", "case_{0}/segmentation.nii.gz", [("7",), ("9",)], "case_9", 2),
        "suffix": ("{0}.nii.gz", "{0}-mask.nii.gz", TWO, "x2", 2),
        "dot": ("{0}.nii", "{0}.label.nii", TWO, "x2", 2),
        "prefix": ("{0}.nii.gz", "gt_{0}.nii.gz", TWO, "x2", 2),
        "LiTS": ("volume-{0}.nii", "segmentation-{0}.nii", [("31",), ("4",)], "4", 2),
        "folders": ("imgs/{0}.nii.gz", "masks/{0}.nii.gz", TWO, "x2", 2),
        "beside": ("{0}.nii.gz", "labels/{0}.nii.gz", TWO, "x2", 2),
        "visits": ("{0}/{1}/scan.nii.gz", "{0}/{1}/seg.nii.gz", VISITS, "k2_t0", 2),
        "trees": ("images/{0}/{1}.nii.gz", "labels/{0}/{1}.nii.gz", VISITS, "k2_t0", 2),
        "BIDS": (
            "sub-{0}/ses-{1}/anat/sub-{0}_ses-{1}_T2w.nii.gz",
            "sub-{0}/ses-{1}/anat/sub-{0}_ses-{1}_dseg.nii.gz",
            [("8", "a"), ("8", "b"), ("9", "a")],
            "sub-9_ses-a",
            2,
        ),
        "frames": (
            "h{0}/h{0}_frame{1}.nii.gz",
            "h{0}/h{0}_frame{1}_gt.nii.gz",
            [("1", "01"), ("1", "09"), ("2", "01")],
            "h2_frame01",
            2,
        ),
    }.values(),
)
def test_images_and_label_maps_are_paired_by_their_names(
    tmp_path: Path, image: str, label: str, texts: list[tuple[str, ...]], last: str, patients: int
) -> None:
    images = [image.format(*each) for each in texts]
    _write(tmp_path, images, [label.format(*each) for each in texts])
    dataset = proposed(tmp_path)
    refs = dataset.refs()
    assert (dataset.loader, len(refs), refs[-1].case_id, len(dataset.classes)) == ("pairs", len(texts), last, 3)
    assert len({ref.patient_id for ref in refs}) == patients
    native = dataset.native(refs[-1])
    np.testing.assert_array_equal(native.image[0], volume(len(texts) - 1)[0])
    np.testing.assert_array_equal(native.label[0], CLASSES)


def test_folders_of_splits_may_share_names(tmp_path: Path) -> None:
    images = ["train/imgs/u.nii.gz", "val/imgs/u.nii.gz"]
    _write(tmp_path, images, ["train/labels/u.nii.gz", "val/labels/u.nii.gz"])
    dataset = proposed(tmp_path)
    assert (dataset.image, dataset.split) == (("{split}/imgs/{case}.nii.gz",), "val")
    np.testing.assert_array_equal(first_native(dataset).image[0], volume(1)[0])


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (["_t2", "_t1", "_t1ce", "_flair"], ["_flair", "_t1ce", "_t1", "_t2"]),
        (["-t2f", "-t2w", "-t1n", "-t1c"], ["-t1n", "-t1c", "-t2w", "-t2f"]),
        (["_0001", "_0000"], ["_0000", "_0001"]),
        (["_adc", "_T2W"], ["_T2W", "_adc"]),
    ],
)
def test_channels_have_a_stated_order_that_is_said(tmp_path: Path, names: list[str], order: list[str]) -> None:
    images = [f"G1/G1{name}.nii.gz" for name in names]
    images += [f"G2/G2{name}.nii.gz" for name in names]
    _write(tmp_path, images, ["G1/G1_seg.nii.gz", "G2/G2_seg.nii.gz"])
    dataset = proposed(tmp_path)
    image = dataset.native(dataset.refs()[1]).image
    np.testing.assert_array_equal(image, np.stack([volume(len(names) + names.index(name))[0] for name in order]))
    shown = ", ".join(f"{{case}}/{{case}}{name}.nii.gz" for name in order)
    assert f"channels are in the order of `image`: {shown}: " in " ".join(layout_of(tmp_path).notes)


def test_images_whose_names_tell_no_order_are_refused(tmp_path: Path) -> None:
    images = ["a/early.nii.gz", "a/late.nii.gz", "b/early.nii.gz", "b/late.nii.gz"]
    _write(tmp_path, images, ["a/mask.nii.gz", "b/mask.nii.gz"])
    line = "got {case}/early.nii.gz, {case}/late.nii.gz: write `loader: pairs`"
    refused(line, lambda: layout_of(tmp_path), UserError)


def test_missing_files_of_a_case_are_named(tmp_path: Path) -> None:
    images = [f"{name}.nii.gz" for name in ("a/a_t1", "a/a_t2", "b/b_t1", "c/c_t1", "c/c_t2", "d/d_t1", "d/d_t2")]
    _write(tmp_path, images, ["a/a_seg.nii.gz", "b/b_seg.nii.gz", "d/d_seg.nii.gz"])
    missing = ("1 files are missing: b/b_t2.nii.gz", "1 images have no label map: c")
    assert layout_of(tmp_path).problems == tuple(f"test: {each}" for each in missing)
    keys = {"root": str(tmp_path), "image": ("{case}/{case}_t1.nii.gz", "{case}/{case}_t2.nii.gz"), "labels": 3}
    keys["label"] = "{case}/{case}_seg.nii.gz"
    line = "expected a label map of case c, found no {case}/{case}_seg.nii.gz"
    refused("b/b_t2.nii.gz: expected the image of case b, found no file", made("pairs", **keys, cases=("b",)).refs)
    refused(line, made("pairs", **keys, cases=("c",)).refs)
    assert names_of(made("pairs", **keys, cases=("a", "d"))) == ["a", "d"]


def test_a_file_belongs_to_the_pattern_of_most_letters(tmp_path: Path) -> None:
    _write(tmp_path, ["u.nii.gz", "u_t2.nii.gz"], ["u_seg.nii.gz"])
    keys = {"root": str(tmp_path), "image": ("{case}.nii.gz", "{case}_t2.nii.gz"), "label": "{case}_seg.nii.gz"}
    dataset = made("pairs", labels=3, **keys)
    assert [(ref.case_id, dataset.num_channels) for ref in dataset.refs()] == [("u", 2)]


def test_names_in_braces_give_split_patient_and_case(tmp_path: Path) -> None:
    _write(tmp_path, ["val/k/v1.nii.gz", "train/k/v2.nii.gz"], ["val/k/v1_gt.nii.gz", "train/k/v2_gt.nii.gz"])
    keys = {"image": "{split}/{patient}/{case}.nii.gz", "label": "{split}/{patient}/{case}_gt.nii.gz"}
    (case,) = fb.load_dataset("pairs", labels=3, split="validation", root=str(tmp_path), **keys)
    assert (case.name, case.volume.ref.patient_id) == ("k_v1", "k")


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"image": "a.nii.gz"}, "expected a name in braces such as {case}"),
        ({"image": "{case}.nii.gz", "label": "{other}_seg.nii.gz"}, "the same in each pattern"),
        ({"image": "{case.nii.gz"}, "close each brace"),
        ({"image": "{case}.nii.gz", "label": "{case}.nii.gz"}, "expected different patterns"),
        ({"image": "{case}.nii.gz", "label": None}, "expected `label`, the pattern of the label maps"),
    ],
)
def test_a_pattern_that_cannot_be_is_refused(keys: dict[str, Any], text: str) -> None:
    refused(text, lambda: made("pairs", **{"label": "{case}_seg.nii.gz", **keys}), UserError)


def test_a_pattern_of_two_files_or_none_is_refused(tmp_path: Path) -> None:
    _write(tmp_path, ["u/v1.nii.gz", "w/v1.nii.gz"], [])
    keys = {"root": str(tmp_path), "image": "*/{case}.nii.gz", "labels": 3, "reference": "prediction"}
    refused("got u/v1.nii.gz and w/v1.nii.gz", made("pairs", **keys).refs)
    keys = {"root": str(tmp_path), "image": "{case}.nii.gz", "label": "{case}_gt.nii.gz", "labels": 3}
    refused("expected images {case}.nii.gz, found none", made("pairs", **keys).refs, MissingDataError)


def _scans(root: Path) -> Any:
    return made("images", root=root, reference="prediction", labels=3)


def _remarks(root: Path, *patients: str) -> list[str]:
    dataset = _scans(root)
    dataset.refs()
    return [*dataset.remarks(patients)]


@pytest.mark.parametrize(
    ("stems", "cases"),
    [
        (["amos_0501", "amos_0502", "amos_0503"], ["amos_0501", "amos_0502", "amos_0503"]),
        (["u_0000", "u_0001", "w_0000", "w_0001"], ["u", "w"]),
        (["u_0000", "u_0002", "w_0000", "w_0002"], ["u_0000", "u_0002", "w_0000", "w_0002"]),
        (["u_0001", "u_0002"], ["u_0001", "u_0002"]),
        (["u_0000", "u_0001", "w_0000"], ["u_0000", "u_0001", "w_0000"]),
        (["u_0000", "w_0000"], ["u", "w"]),
        (["u_0000", "u_0001", "notes"], ["notes", "u_0000", "u_0001"]),
    ],
)
def test_numbers_are_channels_from_0_without_gap(tmp_path: Path, stems: list[str], cases: list[str]) -> None:
    _write(tmp_path, [f"{stem}.nii.gz" for stem in stems], [])
    assert names_of(_scans(tmp_path)) == cases


def test_a_channel_that_a_case_lacks_is_said(tmp_path: Path) -> None:
    _write(tmp_path, ["u_0000.nii.gz", "u_0001.nii.gz", "w_0000.nii.gz"], [])
    (said,) = _remarks(tmp_path, "u", "u", "w")
    assert "each file counts as a case" in said
    assert "found no w_0001" in said


@pytest.mark.parametrize("mask", ["p_seg", "p-segmentation", "p.label", "mask_p", "labels-p", "segmentation", "p_GT"])
def test_a_mask_among_scans_is_left_out_and_said(tmp_path: Path, mask: str) -> None:
    _write(tmp_path, ["p.nii.gz", "q.nii.gz"], [f"{mask}.nii.gz"])
    assert names_of(_scans(tmp_path)) == ["p", "q"]
    assert f"1 files are label maps by their names and few whole values, and no scans: {mask}" in " ".join(
        _remarks(tmp_path, "p", "q")
    )


def test_mask_by_name_is_a_scan_by_its_values(tmp_path: Path) -> None:
    _write(tmp_path, [], ["p_seg.nii.gz"])
    refused("expected scans, got label maps by name", _scans(tmp_path).refs)
    _write(tmp_path, ["p.nii.gz", "p_seg.nii.gz"], [])
    assert names_of(_scans(tmp_path)) == ["p", "p_seg"]
    assert "1 files are scans though they are called label maps" in " ".join(_remarks(tmp_path, "p", "p"))


def test_scan_of_eight_bits_is_no_label_map(tmp_path: Path) -> None:
    scan = np.random.default_rng(0).integers(0, 256, (12, 12, 12))
    for name, voxels in (("scan", scan), ("structures", np.kron(np.arange(27).reshape(3, 3, 3), np.ones((4, 4, 4))))):
        folder = tmp_path / name
        folder.mkdir()
        put(folder / "p.nii.gz", voxels.astype(np.uint8))
    assert "few different values" not in " ".join(_remarks(tmp_path / "scan", "p"))
    assert "few different values" in " ".join(_remarks(tmp_path / "structures", "p"))


def test_a_folder_above_a_data_set_is_pointed_down(tmp_path: Path) -> None:
    _write(tmp_path, ["set/x1.nii.gz", "set/x2.nii.gz"], ["set/x1_seg.nii.gz", "set/x2_seg.nii.gz"])
    refused("give one of its folders: set (images and label maps", lambda: layout_of(tmp_path), UserError)


@pytest.mark.parametrize(("file", "shown"), [("case.mnc", ".mnc"), ("imagesTr/a.vtk", ".vtk")])
def test_other_formats_are_named_with_a_way_to_convert_them(tmp_path: Path, file: str, shown: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_bytes(b"\0" * 128)
    (tmp_path / "dataset.json").write_text("{}")
    refused(
        f".nhdr, .mha, .mhd, .gipl.gz, .gipl, .mgz, .mgh, got {shown} files such as {file}: convert ",
        lambda: layout_of(tmp_path),
        UserError,
    )


@pytest.mark.parametrize(("values", "classes"), [((1, 2, 4), {4: 3}), ((255,), {255: 1}), ((1, 2), None)])
def test_gapped_labels_get_classes(tmp_path: Path, values: tuple[int, ...], classes: dict[int, int] | None) -> None:
    for seed, name in enumerate("ab"):
        image = np.random.default_rng(seed).random((6, 6, 6), np.float32)
        label = np.zeros((6, 6, 6), np.uint8)
        label.flat[: len(values)] = values
        put(tmp_path / f"{name}.nii.gz", image)
        put(tmp_path / f"{name}_seg.nii.gz", label)
    entry = layout_of(tmp_path).entry
    assert (entry["labels"], entry.get("label_map")) == (len(values) + 1, classes)
    dataset = proposed(tmp_path, crop_foreground=False)
    assert first_case(dataset).label.unique().tolist() == list(range(len(values) + 1))


def test_a_pattern_of_many_stars_is_refused_at_once(tmp_path: Path) -> None:
    _write(tmp_path, [f"{'a' * 60}c.nii.gz"], [])
    image = "{case}" + "*a" * 12 + "b.nii.gz"
    dataset = made("pairs", root=tmp_path, image=image, reference="prediction", labels=2)
    refused("expected a pattern that is matched at once", dataset.refs)
