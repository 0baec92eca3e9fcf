"""A case that lacks its image is named, whichever loader lists it; one that lacks nothing is read."""

import os
import shutil
from pathlib import Path

import pytest

from freqbench.core.errors import DataError, MissingDataError

from .conftest import layout_of, made, names_of, refused
from .test_reads import LISTS, dicom, listed

IMAGES = {
    "pairs": "c2/t1.nii.gz",
    "nnunet_raw": "imagesTr/c2_0000.nii.gz",
    "decathlon": "imagesVa/c2.nii.gz",
    "totalsegmentator": "s0002/ct.nii.gz",
    "dicom": "images/b",
    "dicom without images": "b",
}


@pytest.mark.parametrize("name", IMAGES)
def test_a_label_map_without_its_image_is_named(name: str, tmp_path: Path) -> None:
    dataset = listed(name, tmp_path) if name in LISTS else dicom(tmp_path, images=".")
    first = names_of(dataset)[0]
    path = tmp_path / IMAGES[name]
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    again = dataset.model_validate(dataset.model_dump(by_alias=True))
    refused(f"{path}: expected the ", again.refs, MissingDataError)
    assert names_of(again.model_copy(update={"cases": (first,)})) == [first]


@pytest.mark.parametrize(
    ("images", "beside"), [("images", []), ("images", ["readme.txt"]), (".", []), (".", ["readme.txt"])]
)
def test_a_folder_without_slices_is_named_if_a_label_is_there(tmp_path: Path, images: str, beside: list[str]) -> None:
    dicom(tmp_path, images=images)
    folder = tmp_path / images / "b"
    for path in folder.iterdir():
        path.unlink()
    for name in beside:
        (folder / name).write_text("x")
    text = f"{folder}: expected the slices of case b, found none: add them"
    refused(text, made("dicom", root=tmp_path).refs, MissingDataError)
    assert any("test: 1 files are missing" in problem for problem in layout_of(tmp_path).problems)


def test_an_empty_folder_of_images_is_a_case_and_another_is_none(tmp_path: Path) -> None:
    dicom(tmp_path / "x", "a")
    (tmp_path / "x/images/b").mkdir()
    keys = {"reference": "prediction", "labels": 3}
    refused("expected the slices of case b", made("dicom", root=tmp_path / "x", **keys).refs, MissingDataError)
    dicom(tmp_path / "y", "a", images=".")
    (tmp_path / "y/notes").mkdir()
    assert names_of(made("dicom", root=tmp_path / "y")) == ["a"]


def test_a_segmentation_without_slices_tells_no_patient(tmp_path: Path) -> None:
    dicom(tmp_path)
    shutil.rmtree(tmp_path / "images/b")
    (tmp_path / "labels/b.dcm").rename(tmp_path / "labels/MRN4711.dcm")
    with pytest.raises(DataError, match="expected the slices of case case-") as error:
        made("dicom", root=tmp_path).refs()
    assert "4711" not in str(error.value)


@pytest.mark.parametrize("is_link", [False, True], ids=["itself", "by a link"])
def test_a_pipe_among_slices_is_left_out_and_never_opened(tmp_path: Path, is_link: bool) -> None:
    dataset = dicom(tmp_path, "a")
    pipe = tmp_path / ("elsewhere" if is_link else "images/a/000.dcm")
    os.mkfifo(pipe)
    if is_link:
        (tmp_path / "images/a/000.dcm").symlink_to(pipe)
    (ref,) = dataset.refs()
    assert (len(dataset.slices(ref).files), layout_of(tmp_path).loader) == (8, "dicom")
