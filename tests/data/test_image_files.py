"""Formats beside NIfTI: the same volume gives the same case, and damaged, hostile or ambiguous files one line."""

import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

import freqbench as fb
from freqbench.core.errors import DataError
from freqbench.core.files import storage
from freqbench.data import image_files
from freqbench.data.layouts import Layout
from freqbench.job.schema import build_dataset

from .conftest import layout_of, made, put_json, refused
from .downloads import CLASSES, LPS, VOXELS, volume
from .itk_files import put_itk, spoil

FORMATS = (".nrrd", ".nhdr", ".mha", ".mhd", ".hdr")


def _read(path: Path) -> np.ndarray:
    return image_files.read_image(image_files.read_header(path, multichannel=True))


@pytest.mark.parametrize("suffix", FORMATS[:-1])
def test_numbers_of_a_voxel_are_channels(tmp_path: Path, suffix: str) -> None:
    voxels = np.stack([volume(0)[0], volume(1)[0]], axis=-1)
    put_itk(tmp_path / f"a{suffix}", voxels)
    np.testing.assert_array_equal(_read(tmp_path / f"a{suffix}"), np.moveaxis(voxels, -1, 0))
    refused("expected a 3D volume, got shape", lambda: image_files.read_header(tmp_path / f"a{suffix}"))


one_file_formats = pytest.mark.parametrize("suffix", [".nrrd", ".mha"])


@one_file_formats
def test_a_fourth_axis_is_that_of_channels(tmp_path: Path, suffix: str) -> None:
    voxels = np.stack([volume(0)[0], volume(1)[0]])
    image = SimpleITK.GetImageFromArray(voxels.transpose(0, 3, 2, 1), isVector=False)
    SimpleITK.WriteImage(image, str(tmp_path / f"a{suffix}"))
    np.testing.assert_array_equal(_read(tmp_path / f"a{suffix}"), voxels)


@pytest.mark.parametrize(("space", "signs"), [("RAS", (1, 1, 1)), ("left-anterior-superior", (-1, 1, 1))])
def test_axes_of_nrrd_file_are_those_of_its_space(tmp_path: Path, space: str, signs: tuple[int, int, int]) -> None:
    put_itk(tmp_path / "a.nrrd", VOXELS, LPS)
    spoil(tmp_path / "a.nrrd", b"left-posterior-superior", space.encode())
    header = image_files.read_header(tmp_path / "a.nrrd")
    np.testing.assert_array_equal(header.affine[:3, :3], np.diag([*signs]) * [1, 2, 3])
    assert header.guess == ""


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("suffix", [*FORMATS, ".gipl", ".gipl.gz"])
def test_truncation_is_reported(tmp_path: Path, suffix: str, packed: bool, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"a{suffix}"
    put_itk(path, VOXELS, packed=packed)
    data = next((file for file in tmp_path.iterdir() if file != path), path)
    data.write_bytes(data.read_bytes()[:-50])
    refused("got damaged or truncated data", lambda: image_files.check_length(path))
    refused("got damaged or truncated data", lambda: _read(path))
    assert capfd.readouterr() == ("", "")


two_file_formats = pytest.mark.parametrize("suffix", [".nhdr", ".mhd"])


@two_file_formats
def test_a_file_of_voxels_of_two_bytes_is_told(tmp_path: Path, suffix: str) -> None:
    """A packed file is long enough for some voxels, but has no end that states their length."""
    put_itk(tmp_path / f"a{suffix}", np.arange(8, dtype=np.uint8).reshape(2, 2, 2), packed=True)
    (data,) = (file for file in tmp_path.iterdir() if file.suffix != suffix)
    data.write_bytes(data.read_bytes()[:2])
    refused("got damaged or truncated data", lambda: image_files.check_length(tmp_path / f"a{suffix}"))


@one_file_formats
def test_a_flipped_bit_of_packed_voxels_is_told(tmp_path: Path, suffix: str) -> None:
    """SimpleITK reads them as other voxels."""
    path = tmp_path / f"a{suffix}"
    put_itk(path, VOXELS, packed=True)
    content = bytearray(path.read_bytes())
    content[-30] ^= 1
    path.write_bytes(content)
    refused("got damaged or truncated data", lambda: _read(path))


def test_a_case_has_the_content_of_a_detached_file_of_voxels(tmp_path: Path) -> None:
    """Other voxels beside the same header are another case."""
    put_itk(tmp_path / "a.mhd", VOXELS)
    scans = made("images", root=tmp_path, reference="prediction", labels=2)
    before = scans.refs()[0].fingerprint
    raw = tmp_path / "a.raw"
    raw.write_bytes(raw.read_bytes()[::-1])
    assert scans.refs()[0].fingerprint != before


@pytest.mark.parametrize("place", ["/etc/passwd", "../b.raw", "x/../../b.raw", "LIST", "a%03d.raw 1 8 1", "C:\\b.raw"])
@two_file_formats
def test_voxels_are_read_from_one_file_below_the_folder_alone(tmp_path: Path, suffix: str, place: str) -> None:
    path = tmp_path / "a" / f"a{suffix}"
    put_itk(path, VOXELS)
    (tmp_path / "b.raw").write_bytes((tmp_path / "a" / "a.raw").read_bytes())
    spoil(path, b"a.raw", place.encode())
    refused("a list, " if place[0] in "La" else "of its own folder", lambda: image_files.read_header(path))


@pytest.mark.parametrize(("suffix", "data"), [(".nhdr", "a.raw"), (".mhd", "a.raw"), (".hdr", "a.img")])
def test_a_missing_file_of_voxels_is_named(tmp_path: Path, suffix: str, data: str) -> None:
    put_itk(tmp_path / f"a{suffix}", VOXELS)
    (tmp_path / data).unlink()
    refused(f"expected its voxels in {data} beside it", lambda: image_files.read_header(tmp_path / f"a{suffix}"))


@pytest.mark.parametrize(
    ("suffix", "old", "new", "text"),
    [
        (".mha", b"12 10 8", b"120000 100000 80000", "a volume of at most"),
        (".mha", b"12 10 8", b"-12 10 8", "a volume of at most"),
        (".mha", b"12 10 8", b"120 100 80", "got damaged or truncated data"),
        (".mha", b"NDims = 3", b"NDims = 99999", "with NDims of 2 to 4"),
        (".mha", b"ElementType", b"ElementTypo", "got no ElementType"),
        (".mha", b"= LOCAL", b"= a\x00b", "of its own folder"),
        (".mha", b"ElementSpacing = 1 1 1", b"ElementSpacing = 1 0 1", ""),
        (".mha", b"ElementSpacing = 1 1 1", b"ElementSpacing = 1 1 nan", ""),
        (".mha", b"ElementSpacing = 1 1 1", b"ElementSpacing = 1000 1 1", "fix its unit"),
        (".mha", b"ObjectType = Image", b"ObjectType = \x00\xff\n\n", ""),
        (".mha", b"MET_FLOAT", b"MET_OTHER", ""),
        (".nrrd", b"12 10 8", b"120000 100000 80000", "a volume of at most"),
        (".nrrd", b"12 10 8", b"-12 10 8", "unreadable header"),
        (".nrrd", b"dimension: 3", b"dimension: 99999", "unreadable header"),
        (".nrrd", b"(0,0,1)", b"(0,1,0)", "an invertible affine"),
        (".nrrd", b"encoding: raw", b"encoding: bzip2", ""),
        (".nrrd", b"encoding: raw", b'encoding: raw\nspace units: "km" "km" "km"', "a unit of length"),
        (".nrrd", b"NRRD0004", b"XRRD0004", "a NRRD file"),
        (".nrrd", b"type: float", b"type: block", ""),
    ],
)
def test_header_without_volume_is_refused(tmp_path: Path, suffix: str, old: bytes, new: bytes, text: str) -> None:
    path = tmp_path / f"a{suffix}"
    put_itk(path, VOXELS)
    spoil(path, old, new)
    with pytest.raises(DataError) as error:
        _read(path)
    assert re.match(rf"{re.escape(str(path))}: expected [^\n]*{text}[^\n]*$", str(error.value))


@pytest.mark.parametrize(
    ("suffix", "after", "line", "side"),
    [
        (".nrrd", b"encoding: raw", b'space units: "cm" "cm" "cm"', 10),
        (".nrrd", b"encoding: raw", b'space units: "" "" ""', 1),
        (".mha", b"ElementSpacing = 1 1 1", b"DistanceUnits = um", 1e-3),
    ],
)
def test_header_units_become_millimetres(tmp_path: Path, suffix: str, after: bytes, line: bytes, side: float) -> None:
    put_itk(tmp_path / f"a{suffix}", VOXELS)
    spoil(tmp_path / f"a{suffix}", after, after + b"\n" + line)
    assert image_files.read_header(tmp_path / f"a{suffix}").spacing == pytest.approx((side,) * 3)


def test_analyze_is_refused_as_readers_take_different_directions(tmp_path: Path) -> None:
    nibabel.save(nibabel.AnalyzeImage(VOXELS, None), tmp_path / "a.hdr")
    refused("got Analyze 7.5", lambda: image_files.read_header(tmp_path / "a.hdr"))


def _laid_out(root: Path, suffix: str) -> dict[str, Layout]:
    """Folders in several layouts, each of one case, by the loader that fits."""
    image, label = volume()
    for folder, (scan, mask) in {
        "nnunet_raw": ("imagesTr/x_0000", "labelsTr/x"),
        "decathlon": ("imagesTr/x", "labelsTr/x"),
        "pairs": ("x", "x.seg"),
        "images": ("x", ""),
    }.items():
        put_itk(root / folder / f"{scan}{suffix}", image, LPS)
        if mask:
            put_itk(root / folder / f"{mask}{suffix}", label, LPS)
    labels = {"background": 0, "left": 1, "right": 2}
    described = {"channel_names": {"0": "MR"}, "labels": labels, "file_ending": suffix}
    put_json(root / "nnunet_raw/dataset.json", described)
    listed = {"labels": {value: name for name, value in labels.items()}}
    lines = [{"image": f"./imagesTr/x{suffix}", "label": f"./labelsTr/x{suffix}"}]
    put_json(root / "decathlon/dataset.json", {**listed, "training": lines})
    return {path.name: layout_of(path) for path in root.iterdir()}


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_layout_is_recognised_and_read_in_every_format(tmp_path: Path, suffix: str) -> None:
    for loader, layout in _laid_out(tmp_path, suffix).items():
        assert (layout.loader, layout.problems) == (loader, ())
        keys = {"labels": 3} if loader == "images" else {}
        dataset = build_dataset({**layout.entry, **keys}, where="job.yaml")
        (ref,) = dataset.refs()
        native = dataset.native(ref)
        assert ref.case_id == "x"
        assert np.array_equal(native.image[0], VOXELS)
        if loader != "images":
            assert np.array_equal(native.label[0], CLASSES)


def test_voxels_beside_a_header_are_fetched_with_it(tmp_path: Path) -> None:
    put_itk(tmp_path / "a.mhd", VOXELS)
    root = f"memory://{tmp_path.name}"
    for file in tmp_path.iterdir():
        storage.write_atomic(f"{root}/{file.name}", file.read_bytes())
    dataset = made("images", root=root, reference="prediction", labels=2)
    (ref,) = dataset.refs()
    assert np.array_equal(dataset.native(ref).image[0], VOXELS)
    assert made("images", root=tmp_path, reference="prediction", labels=2).refs()[0].fingerprint == ref.fingerprint


@pytest.mark.parametrize(
    ("suffix", "directions"),
    [
        (".gipl", "left, posterior and superior, as SimpleITK does"),
        (".nii", "left, anterior and superior, as nibabel does"),
        (".hdr", "left, anterior and superior, as nibabel does"),
    ],
)
def test_plan_and_doctor_say_what_a_file_does_not_state(tmp_path: Path, suffix: str, directions: str) -> None:
    if suffix == ".gipl":
        put_itk(tmp_path / "a.gipl", VOXELS)
    else:
        bare = nibabel.Nifti1Pair if suffix == ".hdr" else nibabel.Nifti1Image
        nibabel.save(bare(VOXELS, None), tmp_path / f"a{suffix}")  # with neither sform nor qform
    dataset = made("images", root=tmp_path, reference="prediction", labels=2)
    dataset.refs()
    said = f"a{suffix}: the header names no anatomical directions: its axes of space are taken as towards {directions}"
    for lines in (dataset.remarks(["a"]), layout_of(tmp_path).notes):
        assert [line for line in lines if said in line]


@pytest.mark.parametrize("form", ["sform", "qform"])
def test_directions_that_one_form_states_are_no_guess(tmp_path: Path, form: str) -> None:
    image = nibabel.Nifti1Image(VOXELS, None)
    getattr(image, f"set_{form}")(LPS, 1)
    nibabel.save(image, tmp_path / "a.nii")
    header = image_files.read_header(tmp_path / "a.nii")
    assert header.guess == ""
    np.testing.assert_allclose(header.affine, LPS, atol=1e-5)


def test_a_header_that_nobody_filled_is_told(tmp_path: Path) -> None:
    put_itk(tmp_path / "a.mha", VOXELS)
    spoil(tmp_path / "a.mha", b"ElementSpacing = 1 1 1\n", b"")
    dataset = made("images", root=tmp_path, reference="prediction", labels=2)
    (ref,) = dataset.refs()
    assert "got 1 x 1 x 1 without fields for them" in " ".join(dataset.faults(ref, dataset.space))


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("a.vtk", "SimpleITK.WriteImage"),
        ("a.tif", "SimpleITK.WriteImage"),
        ("a.TIFF", "SimpleITK.WriteImage"),
        ("a.mrc", "SimpleITK.WriteImage"),
        ("a.h5", "SimpleITK.WriteImage"),
        ("a.mnc", "nibabel.load(FILE)"),
        ("a.par", "nibabel.load(PAR FILE)"),
        ("a.png", "stack the pictures of a volume"),
        ("a.img", "give the .hdr file beside it"),
        ("IM0001.dcm", "give the folder of its series"),
        ("IM0001", "of a DICOM series give the folder"),
        ("a.xyz", "convert the file"),
    ],
)
def test_a_format_that_is_not_read_is_refused_with_the_way_out(tmp_path: Path, name: str, way: str) -> None:
    (tmp_path / name).write_bytes(b"\0" * 512)
    refused(f"got {name!r}: ", lambda: fb.Case.from_file(tmp_path / name))
    refused(way, lambda: fb.Case.from_file(tmp_path / name))
