"""Exports as DICOM: derived series that readers hold to be the case's, of nobody unless asked."""

import io
import json
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from data.conftest import made
from data.dicom_files import LABELS, PATIENT, put_seg, put_series
from data.downloads import LPS, TURN, put, volume
from exchange.elsewhere import AFFINE, SHAPE, folder, voxels_of
from rich.console import Console
from tiny_job import execute, expanded, small

from freqbench.core.errors import UserError
from freqbench.data.loaders.dicom import LABELS as LABELS_FOLDER
from freqbench.exchange import export

pytestmark = pytest.mark.integration

ONE = {"attacks": [{"name": "fgsm", "eps": "8/255"}], "metrics": ["dsc"], "save_adversarial": "nifti"}


def exported(out: Path, entry: dict[str, Any], to: Path, form: export.Form = "dicom", **options: Any) -> Any:
    """The lines of the manifest of an export of a job on one dataset, which is run if need be."""
    content = small(**ONE, datasets=[entry])
    if not out.exists():
        execute(content, out)
    export.export(expanded(content)[1], str(out), str(to), Console(file=io.StringIO()), form, **options)
    return json.loads((to / "manifest.json").read_text())["files"]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A store of a job on a case of DICOM, oblique, and the entry of its dataset."""
    place = tmp_path_factory.mktemp("dicom")
    entry = clinic(place / "clinic")
    exported(place / "out", entry, place / "first")
    return place / "out", entry


def clinic(root: Path) -> dict[str, Any]:
    image, label = volume()
    series = put_series(root / "images/x", 8 * image.round(), TURN @ LPS, (1.0, -1024.0))
    put_seg(root / "labels/x.dcm", series, {name: label == k for k, name in enumerate(LABELS, 1)})
    return {"name": "ct", "loader": "dicom", "root": str(root), "intensity": {"window": [0, 1200]}}


def read_by_itk(place: Path) -> Any:
    return SimpleITK.ReadImage(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(place)))


def read_here(place: Path) -> Any:
    dataset = made("dicom", name="x", root=str(place.parent), reference="prediction", labels=2, cases=[place.name])
    return dataset.native(dataset.refs()[0])


def test_readers_find_the_volume_of_the_nifti_export(tmp_path: Path, case: Any) -> None:
    files = exported(*case, tmp_path / "to")
    exported(*case, tmp_path / "nifti", form="nifti")
    for each in files:
        assert (each["step"], each["dtype"]) == (1.0, "int16")
        wanted = SimpleITK.ReadImage(str(tmp_path / "nifti" / f"{each['path']}.nii.gz"))
        theirs = read_by_itk(tmp_path / "to" / each["path"])
        ours = read_here(tmp_path / "to" / each["path"])
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(theirs), SimpleITK.GetArrayFromImage(wanted))
        np.testing.assert_array_equal(ours.image[0].numpy().T, SimpleITK.GetArrayFromImage(wanted))
        for name in ("GetOrigin", "GetSpacing", "GetDirection"):
            np.testing.assert_allclose(getattr(theirs, name)(), getattr(wanted, name)(), atol=1e-4)
    clean, attacked = (read_here(tmp_path / "to" / each["path"]).image[0].numpy() for each in files)
    assert np.abs(attacked - clean).max() > 10


def test_a_series_says_what_it_is_and_not_of_whom(tmp_path: Path, case: Any) -> None:
    to = tmp_path / "to"
    root = Path(case[1]["root"])
    files = exported(*case, to)
    uids = {*chain.from_iterable(_uids(pydicom.dcmread(path)) for path in root.rglob("*.dcm"))}
    words = {*"^".join(PATIENT.values()).lower().split("^")}
    for path in to.rglob("*.dcm"):
        content = path.read_bytes().lower() + str(path.relative_to(to)).lower().encode()
        assert not [word for word in words if word.encode() in content]
        assert not uids & _uids(pydicom.dcmread(path))
    clean, attacked = ([pydicom.dcmread(path) for path in sorted((to / each["path"]).iterdir())] for each in files)
    for fields in (*clean, *attacked):
        assert fields.ImageType[:2] == ["DERIVED", "SECONDARY"]
        assert (fields.PatientName, fields.PatientID, fields.PatientIdentityRemoved) == ("", "x", "YES")
    assert len({fields.SOPInstanceUID for fields in (*clean, *attacked)}) == 16
    assert len({fields.SeriesInstanceUID for fields in (*clean, *attacked)}) == 2
    assert len({(fields.StudyInstanceUID, fields.FrameOfReferenceUID) for fields in (*clean, *attacked)}) == 1
    assert "fgsm eps=0.0313725 on a" in attacked[0].DerivationDescription
    assert attacked[0].SeriesDescription == "freqbench fgsm eps=0.0313725 on a"
    for fields, source in zip(attacked, clean, strict=True):
        assert fields.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID


def _uids(fields: Any) -> set[str]:
    return {str(item.value) for item in fields.iterall() if item.VR == "UI" and "Class" not in item.keyword}


def test_identity_is_kept_where_it_is_asked_for(tmp_path: Path, case: Any) -> None:
    files = exported(*case, tmp_path / "to", keeps_identity=True)
    own = [pydicom.dcmread(path) for path in Path(case[1]["root"], "images/x").iterdir()]
    own.sort(key=lambda fields: fields.SliceLocation)
    attacked = [pydicom.dcmread(path) for path in sorted((tmp_path / "to" / files[1]["path"]).iterdir())]
    for fields, source in zip(attacked, own, strict=True):
        for name in (*PATIENT, "StudyInstanceUID", "FrameOfReferenceUID"):
            if name not in ("SeriesDescription", "DeviceSerialNumber"):
                assert fields[name].value == source[name].value
        assert fields.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
        assert fields.SOPInstanceUID != source.SOPInstanceUID
        assert "PatientIdentityRemoved" not in fields


def test_predictions_are_segmentations_of_the_series(tmp_path: Path, case: Any) -> None:
    """Segments are the saved label map, whose axes are turned, as SimpleITK resamples it onto the series."""
    for each, kind in zip(exported(*case, tmp_path / "to"), ("clean", "adversarial"), strict=True):
        (saved,) = case[0].glob(f"volumes/*/*/prediction_{kind}-a.nii.gz")
        place = tmp_path / "to" / each["path"]
        nearest = SimpleITK.sitkNearestNeighbor
        wanted = SimpleITK.Resample(SimpleITK.ReadImage(str(saved)), read_by_itk(place), SimpleITK.Transform(), nearest)
        dataset = made("dicom", root=str(place.parent), labels=["background", *LABELS])
        label = dataset.native(dataset.refs()[0]).label[0].numpy()
        assert {1, 2} <= {*label.flat}
        np.testing.assert_array_equal(label.T, SimpleITK.GetArrayFromImage(wanted))


def test_segments_of_regions_overlap(tmp_path: Path) -> None:
    """Untrained networks predict regions that cross: each segment is its region as the saved map tells it."""
    entry = {"name": "lesions", "loader": "phantom", "regions": True, "shape": [24, 20, 16], "cases": 1}
    content = small(**ONE, datasets=[entry])
    content["models"] = [{**model, "outputs": "sigmoid"} for model in content["models"]]
    execute(content, tmp_path / "out")
    grid = expanded(content)[1]
    export.export(grid, str(tmp_path / "out"), str(tmp_path / "to"), Console(file=io.StringIO()), "dicom")
    (saved,) = tmp_path.glob("out/volumes/*/*/prediction_clean-a.nii.gz")
    label = nibabel.load(saved).get_fdata()
    regions = grid.cells[0].dataset.classes.of_labels
    (seg,) = (tmp_path / "to").glob(f"clean/{LABELS_FOLDER}/*/prediction-a.dcm")
    segments = highdicom.seg.segread(seg)
    for number in range(1, len(grid.cells[0].dataset.class_names)):
        wanted = np.isin(label, [value for value, inside in enumerate(regions) if number in inside])
        got = segments.get_volume(segment_numbers=[number]).array if wanted.any() else np.zeros(1)
        assert int(got.sum()) == int(wanted.sum())
    assert np.isin(label, [value for value, inside in enumerate(regions) if len(inside) > 1]).any()


@pytest.mark.parametrize("channels", [1, 2])
def test_a_case_of_other_files_gets_made_headers(tmp_path: Path, channels: int) -> None:
    """Small floats are in 65534 steps; readers begin at the other end of a third axis that runs against the normal."""
    files = exported(tmp_path / "out", folder(tmp_path / "data", channels=channels, top=1.0), tmp_path / "to")
    wanted = voxels_of(tmp_path / "data/imagesTr/x.nii.gz").reshape(*SHAPE, channels)[:, :, ::-1]
    for channel in range(channels):
        place = tmp_path / "to/clean/x" / (f"channel_{channel}" if channels > 1 else "")
        image = read_by_itk(place)
        assert np.abs(SimpleITK.GetArrayFromImage(image).T - wanted[..., channel]).max() <= files[0]["step"] / 2 + 1e-6
        grid = np.diag([-1, -1, 1]) @ np.reshape(image.GetDirection(), (3, 3)) @ np.diag(image.GetSpacing())
        np.testing.assert_allclose(grid, AFFINE[:3, :3] @ np.diag([1, 1, -1]), atol=1e-6)
        last = AFFINE @ [0, 0, SHAPE[2] - 1, 1]
        np.testing.assert_allclose(image.GetOrigin(), [-last[0], -last[1], last[2]], atol=1e-6)
    assert files[0]["step"] == pytest.approx(1 / 65534, rel=0.01)
    fields = pydicom.dcmread(place / "0001.dcm")
    assert (fields.Modality, fields.PatientID, "PatientIdentityRemoved" in fields) == ("MR", "x", False)


def test_a_second_export_replaces_the_first_and_no_other_file(tmp_path: Path, case: Any) -> None:
    exported(*case, tmp_path)
    stale = tmp_path / "clean/x/0099.dcm"
    first = tmp_path / "clean/x/0001.dcm"
    before = first.read_bytes()
    stale.write_bytes(before)
    exported(*case, tmp_path)
    assert not stale.exists()
    assert first.read_bytes() == before
    (tmp_path / "clean/x/mine.txt").write_text("mine")
    with pytest.raises(UserError, match=r"mine.txt: expected no file or one that freqbench wrote, got another"):
        exported(*case, tmp_path)


def test_axes_that_dicom_cannot_hold_are_refused(tmp_path: Path) -> None:
    sheared = np.eye(4)
    sheared[0, 1] = 0.3
    put(tmp_path / "data/x.nii.gz", volume()[0], sheared)
    entry = {"name": "x", "loader": "images", "root": str(tmp_path / "data"), "reference": "prediction", "labels": 2}
    with pytest.raises(UserError, match=r"expected axes at right angles, .* got a cosine of 0\.2.*: export it"):
        exported(tmp_path / "out", entry, tmp_path / "to")
    with pytest.raises(UserError, match=r"--keep-identity: expected --format dicom and cases of `loader: dicom`, got"):
        exported(tmp_path / "out", entry, tmp_path / "to", keeps_identity=True)


def test_a_missing_package_is_one_line(tmp_path: Path, case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(UserError, match=r"expected the package highdicom: pip install '.\[dicom\]'"):
        exported(*case, tmp_path)
