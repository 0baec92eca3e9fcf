"""The test files of pydicom: each is read as its maker's reader reads it, or refused in one line without its values."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.errors import InvalidDicomError
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from freqbench.core.errors import UserError
from freqbench.data import dicom, image_files

from .dicom_files import put_series
from .downloads import LPS, SRA, TURN, VOXELS, Array

SAMPLES = Path(pydicom.__file__).parent / "data"
REFUSAL = re.compile(r"CASE: expected [^\n]+, got [^\n]+: [^\n]+")
NO_PLUGIN = {"JPEG-lossy.dcm", "JPGExtended.dcm"}  # which pydicom itself reads with further packages alone

pytestmark = pytest.mark.filterwarnings("ignore")  # of pydicom, on its own files


def samples() -> list[Path]:
    return sorted(path for path in SAMPLES.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc"))


@cache
def parsed(path: Path) -> Any:
    """A file's fields as pydicom reads them; empty if it does not."""
    with dicom.files.quiet():
        try:
            fields = pydicom.dcmread(path)
        except InvalidDicomError:
            return {}
    return fields if "SOPClassUID" in fields else {}


def names(path: Path) -> Iterator[str]:
    for name in ("PatientName", "PatientID", "ReferringPhysicianName", "InstitutionName", "AccessionNumber"):
        for word in re.split(r"[\W_]+", str(parsed(path).get(name, ""))):
            if len(word) > 3:
                yield word.lower()


def told(files: list[Path], kind: str) -> str:
    """The line that refuses files as a series or as a segmentation; empty if they are read."""
    try:
        if kind == "series":
            image_files.read_image(dicom.series.read_series(files, Path("CASE")))
        else:
            dicom.segmentation.segment_names(files[0], Path("CASE"))
            dicom.segmentation.check_segmentation(files[0], Path("CASE"))
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("kind", ["series", "segmentation"])
def test_every_file_is_refused_in_one_line(kind: str) -> None:
    """Single files are no volumes; the two segmentations lack the number of their frames."""
    assert len(samples()) > 200
    for path in samples():
        line = told([path], kind)
        assert REFUSAL.fullmatch(line), (path, line)
        assert not [word for word in names(path) if word in line.lower()], (path, line)


def twice(path: Path, folder: Path) -> list[Path]:
    """Two slices with the voxels of a file, 1 mm apart and with a scale of their own."""
    paths = []
    for k in range(2):
        fields = pydicom.dcmread(path)
        fields.file_meta.MediaStorageSOPInstanceUID = fields.SOPInstanceUID = generate_uid()
        fields.ImagePositionPatient = [0, 0, k]
        fields.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        fields.PixelSpacing = [1, 1]
        fields.RescaleSlope = 2
        fields.RescaleIntercept = -5
        paths.append(folder / f"{k}.dcm")
        fields.save_as(paths[-1])
    return paths


with dicom.files.quiet():
    SLICES = [
        path
        for path in samples()
        if path.parent.name == "test_files"
        and parsed(path).get("SamplesPerPixel") == parsed(path).get("NumberOfFrames", 1) == 1
        and "PixelData" in parsed(path)
    ]
UNREAD = {
    "JPEG2000-embedded-sequence-delimiter.dcm": "expected voxels that pydicom or GDCM decodes",
    "MR_truncated.dcm": "expected whole slices, got a truncated file",
    "badVR.dcm": "got 2 of 2 that are damaged",
    "examples_palette.dcm": "expected grey values, got colour, PALETTE COLOR",
    "liver_1frame.dcm": "expected the slices of a series, got Segmentation Storage",
    "liver_expb_1frame.dcm": "expected the slices of a series, got Segmentation Storage",
}


@pytest.mark.parametrize("path", SLICES, ids=lambda path: path.name)
def test_slices_of_every_transfer_syntax_are_those_of_pydicom(path: Path, tmp_path: Path) -> None:
    files = twice(path, tmp_path)
    if expected := UNREAD.get(path.name):
        assert expected in told(files, "series")
        return
    voxels: Array = image_files.read_image(dicom.series.read_series(files, Path("CASE")))[0]
    if path.name in NO_PLUGIN:
        own = pydicom.dcmread(path.with_name("JPEG2000.dcm")).pixel_array  # of the same image
        assert np.corrcoef(voxels[:, :, 1].T.ravel(), own.ravel())[0, 1] > 0.95
    else:
        np.testing.assert_array_equal(voxels[:, :, 1].T, parsed(path).pixel_array * 2.0 - 5)


@pytest.mark.parametrize(
    ("folder", "text"),
    [
        ("77654033/CT2", "expected a slice every 1.25 mm, got 161 missing"),
        ("98892001/CT2N", "expected slices of one size, spacing and direction"),
        ("98892001/CT5N", ""),
        ("98892003/MR1", "expected one series that is longer than the others, got"),
        ("98892003/MR700", "expected slices of one size, spacing and direction"),
    ],
)
def test_a_series_of_a_disc_is_that_of_simpleitk_or_refused(folder: str, text: str) -> None:
    place = SAMPLES / "test_files/dicomdirtests" / folder
    line = told(sorted(place.iterdir()), "series")
    assert text in line
    assert bool(text) == bool(line)
    if not text:
        theirs = SimpleITK.ReadImage(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(place)))
        ours = dicom.series.read_series(sorted(place.iterdir()), Path("CASE"))
        np.testing.assert_array_equal(image_files.read_image(ours)[0].T, SimpleITK.GetArrayFromImage(theirs))
        np.testing.assert_allclose(ours.spacing, theirs.GetSpacing(), atol=1e-4)
        np.testing.assert_allclose(ours.affine[:3, 3] * [-1, -1, 1], theirs.GetOrigin(), atol=1e-4)


def made_by_highdicom(kind: str, series: list[Path]) -> Any:
    """An object of a series that is neither slices nor a segmentation."""
    sources = [pydicom.dcmread(path) for path in series]
    of_series = {"series_instance_uid": generate_uid(), "series_number": 2}
    of_object = {"sop_instance_uid": generate_uid(), "instance_number": 1}
    if kind == "enhanced":
        return highdicom.legacy.LegacyConvertedEnhancedCTImage(sources, **of_series, **of_object)
    maker = {"manufacturer": "x", "manufacturer_model_name": "x", "device_serial_number": "1", "software_versions": "1"}
    values = np.stack([fields.pixel_array for fields in sources])
    if kind == "map":
        return highdicom.pm.ParametricMap(
            sources,
            values.astype(np.float32),
            **of_series,
            **of_object,
            **maker,
            contains_recognizable_visual_features=False,
            real_world_value_mappings=[
                highdicom.pm.RealWorldValueMapping("x", "x", codes.UCUM.NoUnits, (-1e6, 1e6), slope=1, intercept=0)
            ],
            window_center=0,
            window_width=1,
        )
    return highdicom.sc.SCImage.from_ref_dataset(
        sources[0],
        values[0].astype(np.uint16),
        photometric_interpretation="MONOCHROME2",
        bits_allocated=16,
        coordinate_system="PATIENT",
        patient_orientation=("L", "P"),
        manufacturer="x",
        **of_series,
        **of_object,
    )


@pytest.mark.parametrize(
    ("kind", "image", "label"),
    [
        ("map", "expected one slice a file, got 8 frames in one", "got Parametric Map Storage"),
        ("capture", "expected slices with their place, got one without", "got Secondary Capture Image Storage"),
    ],
)
def test_other_objects_of_highdicom_are_refused(tmp_path: Path, kind: str, image: str, label: str) -> None:
    made_by_highdicom(kind, put_series(tmp_path / "a", VOXELS)).save_as(tmp_path / "b.dcm")
    assert image in told([tmp_path / "b.dcm"], "series")
    assert f"expected a DICOM SEG, {label}: convert it" in told([tmp_path / "b.dcm"], "segmentation")


@pytest.mark.parametrize("grid", [LPS, SRA, TURN @ LPS], ids=["LPS", "SRA", "oblique"])
@pytest.mark.parametrize("kind", ["plain", "packed", "deflated"])
def test_an_enhanced_object_is_that_of_simpleitk(tmp_path: Path, kind: str, grid: Array) -> None:
    """Each voxel of SimpleITK's array, at its place in the world, is that of the volume at this place."""
    made = made_by_highdicom("enhanced", put_series(tmp_path / "a", np.rint(VOXELS), grid, scale=(0.5, -10.0)))
    made.save_as(tmp_path / "b.dcm")
    theirs = SimpleITK.ReadImage(tmp_path / "b.dcm")
    if kind == "packed":
        made.compress(pydicom.uid.RLELossless)
    elif kind == "deflated":
        made.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    made.save_as(tmp_path / "b.dcm")
    ours = dicom.series.read_series([tmp_path / "b.dcm"], Path("CASE"))
    voxels = image_files.read_image(ours)[0]
    assert voxels.size == theirs.GetNumberOfPixels()
    lps = np.diag([-1, -1, 1, 1]) @ ours.affine
    for at in np.ndindex(voxels.shape):
        assert theirs[theirs.TransformPhysicalPointToIndex(((lps @ [*at, 1])[:3]).tolist())] == voxels[at]


def test_frames_in_any_order_have_their_own_place_and_scale(tmp_path: Path) -> None:
    voxels = np.rint(VOXELS)
    series = put_series(tmp_path / "a", voxels, changes={2: {"RescaleSlope": 3}})
    made = made_by_highdicom("enhanced", series)
    order = [3, 0, 7, 1, 2, 6, 4, 5]
    made.PerFrameFunctionalGroupsSequence = [made.PerFrameFunctionalGroupsSequence[k] for k in order]
    made.PixelData = made.pixel_array[order].tobytes()
    made.save_as(tmp_path / "b.dcm")
    voxels[:, :, 2] *= 3
    ours = dicom.series.read_series([tmp_path / "b.dcm"], Path("CASE"))
    np.testing.assert_array_equal(image_files.read_image(ours)[0], voxels)
