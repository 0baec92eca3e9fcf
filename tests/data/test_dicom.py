"""DICOM: a series is the volume of its NIfTI file, a SEG its label map; what is no volume is refused in one line."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from pydicom.uid import MPEG2MPML, RLELossless, generate_uid

import freqbench as fb
from freqbench.core.errors import UserError
from freqbench.core.types import NativeCase
from freqbench.data import dicom

from .conftest import first_case, first_label, first_native, layout_of, made, refused
from .dicom_files import LABELS, PATIENT, put_seg, put_series
from .downloads import CLASSES, LPS, SRA, TURN, VOXELS, Array, put, volume

SHEARED = LPS.copy()
SHEARED[1, 2] = 2.0


def _dataset(root: Path, **keys: Any) -> Any:
    return made("dicom", name="ct", root=root, **keys)


def _image(root: Path, **keys: Any) -> NativeCase:
    dataset = _dataset(root, **{"reference": "prediction", "labels": 3, **keys})
    (ref,) = dataset.refs()
    return dataset.native(ref)


def _masks(label: Array) -> dict[str, Array]:
    return {name: label == k for k, name in enumerate(LABELS, 1)}


def _put_case(root: Path, **settings: Any) -> Path:
    """Puts a series and the segmentation of its two classes; returns the segmentation's file."""
    path = root / "labels/a.dcm"
    put_seg(path, put_series(root / "images/a", VOXELS), _masks(CLASSES), **settings)
    return path


@pytest.mark.parametrize("grid", [LPS, SRA, TURN @ LPS], ids=["LPS", "SRA", "oblique"])
def test_a_case_is_that_of_its_nifti_files(tmp_path: Path, grid: Array) -> None:
    image, label = volume()
    image = np.rint(image)
    put(tmp_path / "nifti/a.nii.gz", image, grid)
    put(tmp_path / "nifti/a_seg.nii.gz", label, grid)
    series = put_series(tmp_path / "dicom/images/a", image, grid, scale=(0.5, -1024.0))
    put_seg(tmp_path / "dicom/labels/a.dcm", series, _masks(label))
    keys = {"label": "{case}_seg.nii.gz", "labels": ["background", *LABELS]}
    pairs = made("pairs", root=tmp_path / "nifti", image="{case}.nii.gz", **keys)
    dataset = _dataset(tmp_path / "dicom")
    assert dataset.class_names == pairs.class_names
    wanted, case = (first_case(each) for each in (pairs, dataset))
    torch.testing.assert_close(case.image, wanted.image, rtol=0, atol=1e-5)
    assert torch.equal(case.label, wanted.label)
    assert case.spacing == pytest.approx(wanted.spacing, abs=1e-5)


def test_each_slice_has_its_own_slope_and_intercept(tmp_path: Path) -> None:
    voxels = np.rint(VOXELS)
    put_series(tmp_path / "a", voxels, changes={3: {"RescaleSlope": 2.5, "RescaleIntercept": -7}})
    scaled = voxels.copy()
    scaled[:, :, 3] = voxels[:, :, 3] * 2.5 - 7
    np.testing.assert_array_equal(_image(tmp_path).image[0], scaled)


def test_compressed_slices_are_decoded_without_their_slope(tmp_path: Path) -> None:
    voxels = np.rint(VOXELS)
    for path in put_series(tmp_path / "a", voxels, scale=(0.5, -10)):
        fields = pydicom.dcmread(path)
        fields.compress(RLELossless)
        fields.save_as(path)
    np.testing.assert_array_equal(_image(tmp_path).image[0], voxels)


def _drop(paths: list[Path]) -> None:
    paths[3].unlink()


def _double(paths: list[Path]) -> None:
    (paths[3].parent / "copy.dcm").write_bytes(paths[3].read_bytes())


def _truncate(paths: list[Path]) -> None:
    paths[2].write_bytes(paths[2].read_bytes()[:-9])


def _damage(paths: list[Path]) -> None:
    paths[2].write_bytes(b"not at all")


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (_drop, "expected a slice every 3 mm, got 1 missing, the first behind slice 3 of 7"),
        (_double, "expected one slice at each position, got 1 more"),
        (_truncate, "expected whole slices, got a truncated file"),
        (_damage, "expected DICOM files alone, got 1 of 8 that are damaged"),
    ],
)
def test_a_spoilt_series_is_refused(tmp_path: Path, spoil: Any, text: str) -> None:
    spoil(put_series(tmp_path / "a", VOXELS, LPS))
    refused(text, lambda: _image(tmp_path))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({-1: {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}}, "expected grey values, got colour, RGB"),
        ({-1: {"PhotometricInterpretation": "PALETTE COLOR"}}, "got colour, PALETTE COLOR"),
        ({2: {"NumberOfFrames": 2}}, "expected one slice a file, got 2 frames in one"),
        ({2: {"ImagePositionPatient": None}}, "got one without ImagePositionPatient"),
        ({2: {"RescaleSlope": 0}}, "expected a RescaleSlope other than 0, got 0"),
        ({2: {"PixelSpacing": [1, 3]}}, "expected slices of one size, spacing and direction"),
        ({2: {"ImagePositionPatient": [-30, -5, -62.9]}}, "expected evenly spaced slices, got 1.9 to 4.1 mm"),
        ({-1: {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}}, "expected two directions of length 1"),
        (
            {-1: {"FrameOfReferenceUID": ""}, 2: {"FrameOfReferenceUID": "1.2"}},
            "expected one frame of reference, got 2",
        ),
    ],
)
def test_slices_that_are_no_volume_are_refused(tmp_path: Path, changes: Mapping[int, Any], text: str) -> None:
    put_series(tmp_path / "a", VOXELS, LPS, changes=changes)
    refused(text, lambda: _image(tmp_path))


def test_a_gantry_tilt_is_refused(tmp_path: Path) -> None:
    put_series(tmp_path / "a", VOXELS, SHEARED)
    refused("got a gantry tilt of 33.7 degrees: resample", lambda: _image(tmp_path))


def test_a_series_of_several_is_chosen_and_said(tmp_path: Path) -> None:
    image, label = volume()
    long = put_series(tmp_path / "a/x", image, LPS, uid="1.2.3")
    short = put_series(tmp_path / "a/y", image[:, :, :6] + 1, LPS, uid="1.2.4")
    dataset = _dataset(tmp_path, reference="prediction", labels=3)
    assert first_native(dataset).label.shape[-1] == 8
    (line,) = dataset.remarks(["a"])
    assert "of the series 1.2.3 (8 slices), 1.2.4 (6 slices), 1.2.3 is read, as it has the most slices" in line
    assert _image(tmp_path, series={"a": "1.2.4"}).image.shape[-1] == 6
    refused("expected series 9, as `series` says, got 1.2.3", lambda: _image(tmp_path, series={"a": "9"}))
    refused("series: expected cases of a, got b", lambda: _image(tmp_path, series={"b": "9"}))
    put_seg(tmp_path / "a/seg.dcm", short, _masks(label[:, :, :6]))
    segmented = _dataset(tmp_path)
    (ref,) = segmented.refs()
    np.testing.assert_array_equal(segmented.native(ref).label[0], label[:, :, :6])
    assert any("as the segmentation is of it" in line for line in segmented.remarks(["a"]))
    long[0].unlink()
    long[1].unlink()
    refused("expected one series that is longer than the others", lambda: _image(tmp_path))


def test_segments_that_overlap_are_regions(tmp_path: Path) -> None:
    image, label = volume()
    series = put_series(tmp_path / "images/a", image)
    put_seg(tmp_path / "labels/a.dcm", series, {"whole": label > 0, "core": label == 2})
    dataset = _dataset(tmp_path)
    assert dataset.classes.overlap
    assert dataset.class_names == ("background", "whole", "core")
    np.testing.assert_array_equal(first_label(dataset), np.array([0, 1, 3])[label])
    single = _dataset(tmp_path, labels=["background", "core"])
    assert not single.classes.overlap
    np.testing.assert_array_equal(first_label(single), label == 2)
    fused = _dataset(tmp_path, label_map={1: 1, 2: 1})
    assert not fused.classes.overlap
    np.testing.assert_array_equal(first_label(fused), label > 0)


def test_segments_are_matched_by_name_not_number(tmp_path: Path) -> None:
    image, label = volume()
    for name, order in (("a", LABELS), ("b", LABELS[::-1])):
        series = put_series(tmp_path / "images" / name, image)
        put_seg(tmp_path / f"labels/{name}/x.dcm", series, {each: _masks(label)[each] for each in order})
    dataset = _dataset(tmp_path)
    for ref in dataset.refs():
        np.testing.assert_array_equal(dataset.native(ref).label[0], label)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"FrameOfReferenceUID": "1.2.3"}, "expected the frame of reference of its series"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.3"}, "expected a DICOM SEG, got RTSTRUCT"),
        ({"SOPClassUID": "1.2 Zweistein"}, "expected a DICOM SEG, got an object without a kind"),
        ({"SegmentationType": "FRACTIONAL"}, "expected a BINARY segmentation, got FRACTIONAL"),
        ({"SegmentSequence": []}, "expected segments, got none"),
    ],
)
def test_another_segmentation_is_refused(tmp_path: Path, fields: dict[str, Any], text: str) -> None:
    _put_case(tmp_path, **fields)
    refused(text, _dataset(tmp_path, labels=["background", *LABELS]).refs)


def test_a_segmentation_of_another_grid_is_refused(tmp_path: Path) -> None:
    image, label = volume()
    uid = generate_uid()
    moved = LPS + np.eye(4)[:, :1] @ np.eye(4)[3:] * 2
    put_series(tmp_path / "images/a", image, LPS, frame=uid)
    put_seg(tmp_path / "labels/a.dcm", put_series(tmp_path / "other", image, moved, frame=uid), _masks(label))
    refused("expected each frame on a slice of its series, got frame 1 up to 2 pixels aside", _dataset(tmp_path).refs)


def test_a_labelmap_is_read(tmp_path: Path) -> None:
    _put_case(tmp_path, kind="LABELMAP")
    dataset = _dataset(tmp_path)
    np.testing.assert_array_equal(first_label(dataset), CLASSES)


def test_a_truncated_segmentation_is_refused(tmp_path: Path) -> None:
    path = _put_case(tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    dataset = _dataset(tmp_path)
    refused("labels/a: expected 720 voxels, got damaged or truncated data", lambda: first_native(dataset))
    assert len(layout_of(tmp_path).problems) == 1


def test_a_syntax_without_a_decoder_is_refused(tmp_path: Path) -> None:
    for path in put_series(tmp_path / "a", VOXELS):
        fields = pydicom.dcmread(path)
        fields.compress(RLELossless)
        fields.file_meta.TransferSyntaxUID = MPEG2MPML
        fields.save_as(path)
    refused("expected voxels that pydicom or GDCM decodes, got a file that neither does", lambda: _image(tmp_path))


def test_doctor_knows_a_folder(tmp_path: Path) -> None:
    _put_case(tmp_path)
    layout = layout_of(tmp_path, with_labels=True)
    assert layout.loader == "dicom"
    assert layout.problems == ()
    assert len(made(**layout.entry).classes) == 3
    (tmp_path / "labels/a.dcm").unlink()
    assert layout_of(tmp_path).entry["reference"] == "prediction"
    assert layout_of(tmp_path / "images/a").loader == "dicom"


def test_wrong_value_hidden(tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder) -> None:
    """Pydicom warns of a date that is a name, and logs it."""
    with dicom.files.quiet():
        put_series(tmp_path / "a", VOXELS, changes={-1: {"PatientBirthDate": "Zweistein"}})
    _image(tmp_path)
    assert not caplog.text
    assert not list(recwarn)


def test_no_field_of_the_patient_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Ids, remarks, layouts and refusals have none, though all files and folders are called by the patient."""
    image, label = volume()
    name = f"{PATIENT['PatientID']}_Zweistein_{PATIENT['PatientBirthDate']}"
    series = put_series(tmp_path / "images" / name, image)
    put_seg(tmp_path / "labels" / f"{name}.dcm", series, _masks(label))
    put_series(tmp_path / "images/second", image + 1)
    dataset = _dataset(tmp_path)
    ref = dataset.refs("test[0:1]")[0]
    told = [repr(ref), repr(dataset.native(ref).source), *dataset.remarks([ref.patient_id]), *dataset.notes]
    told += [
        repr(dataset.whole_recipe()),
        *dataset.faults(ref, dataset.space),
        repr(layout_of(tmp_path, with_labels=True)),
    ]
    assert re.fullmatch("case-[0-9a-f]{8}", ref.case_id)
    assert {scan.patient for scan in dataset.scans.values()} == {ref.patient_id}
    for spoil in (_truncate, _double, _drop, _damage):
        spoil(series)
        with pytest.raises(UserError) as error:
            _dataset(tmp_path).refs("test[0:1]")
        told.append(str(error.value))
    told += [repr(layout_of(tmp_path)), *capfd.readouterr()]
    words = "^".join(PATIENT.values()).lower().split("^")
    assert not [word for word in words if word in "\n".join(told).lower()]


def test_a_case_is_made_of_a_folder(tmp_path: Path) -> None:
    """Python's case is that of the job's dataset; the folder's own SEG is no label map unless it is given."""
    image, label = volume()
    series = put_series(tmp_path / "images/a/x", image, LPS, uid="1.2.3")
    put_series(tmp_path / "images/a/y", image[:, :, :6] + 1, LPS, uid="1.2.4")
    put_seg(tmp_path / "labels/a.dcm", series, _masks(label))
    window: dict[str, Any] = {"intensity": {"window": [0, 150]}}
    dataset = _dataset(tmp_path, **window)
    wanted = first_case(dataset)
    folder = tmp_path / "images/a"
    seg = tmp_path / "labels/a.dcm"
    with pytest.warns(UserWarning, match=r"a: of the series 1.2.3 \(8 slices\), .* the segmentation is of it"):
        case = fb.Case.from_file(folder, seg, **window)
    assert torch.equal(case.image, wanted.image)
    assert case.label is not None
    assert torch.equal(case.label, wanted.label)
    assert (case.name, case.class_names) == ("a", ("background", *LABELS))
    with pytest.warns(UserWarning, match="the most slices"):
        assert fb.Case.from_file(folder, **window).reference == "prediction"
    assert fb.Case.from_file(folder, series="1.2.4", crop_foreground=False, **window).image.shape == (1, 12, 10, 6)


@pytest.mark.parametrize(
    ("image", "label", "text"),
    [
        ("a", "none.dcm", "none.dcm: expected a DICOM SEG of the series"),
        ("a", "b.nii.gz", "b.nii.gz: expected a DICOM SEG of the series"),
        ("a/first.dcm", None, "got 'first.dcm': give the folder of its series (`loader: dicom`)"),
        ("memory://clinic/a", None, "got 'a': of a DICOM series give the folder, on this machine"),
        ("empty", None, "expected images/CASE with slices of a series, found none"),
    ],
)
def test_a_case_of_no_folder_is_refused(tmp_path: Path, image: str, label: str | None, text: str) -> None:
    first, *_ = put_series(tmp_path / "a", VOXELS)
    first.rename(tmp_path / "a/first.dcm")
    put(tmp_path / "b.nii.gz", CLASSES)
    (tmp_path / "empty").mkdir()
    place = image if "://" in image else tmp_path / image
    refused(text, lambda: fb.Case.from_file(place, label and tmp_path / label))


def test_a_uri_is_refused() -> None:
    refused("s3://clinic: expected a folder of this machine", made("dicom", root="s3://clinic").refs)
