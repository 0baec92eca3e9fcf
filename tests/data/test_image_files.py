"""Formats beside NIfTI: the same volume gives the same case, and damaged, hostile or ambiguous files one line."""

import re
from pathlib import Path

import numpy as np
import pytest

from freqbench.core.errors import DataError
from freqbench.data import image_files

from .conftest import made, refused
from .downloads import LPS, SRA, TURN, volume
from .itk_files import put_itk, spoil

FORMATS = (".nrrd", ".nhdr", ".mha", ".mhd")


def _read(path: Path) -> np.ndarray:
    return image_files.read_image(image_files.read_header(path, multichannel=True))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("grid", [LPS, SRA, TURN @ LPS], ids=["LPS", "SRA", "oblique"])
def test_a_volume_is_that_of_its_nifti_file(tmp_path: Path, suffix: str, packed: bool, grid: np.ndarray) -> None:
    voxels = volume()[0]
    put_itk(tmp_path / "a.nii.gz", voxels, grid)
    put_itk(tmp_path / f"a{suffix}", voxels, grid, packed)
    nifti, other = (image_files.read_header(tmp_path / f"a{end}") for end in (".nii.gz", suffix))
    assert other.shape == nifti.shape
    np.testing.assert_allclose(other.affine, nifti.affine, atol=1e-5)  # NIfTI has it in 32 bits
    np.testing.assert_array_equal(image_files.read_image(other), image_files.read_image(nifti))
    image_files.check_length(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("suffix", FORMATS)
def test_numbers_of_a_voxel_are_channels(tmp_path: Path, suffix: str) -> None:
    voxels = np.stack([volume(0)[0], volume(1)[0]], axis=-1)
    put_itk(tmp_path / f"a{suffix}", voxels)
    np.testing.assert_array_equal(_read(tmp_path / f"a{suffix}"), np.moveaxis(voxels, -1, 0))
    refused("expected a 3D volume, got shape", lambda: image_files.read_header(tmp_path / f"a{suffix}"))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("suffix", [*FORMATS, ".gipl", ".gipl.gz"])
def test_a_truncated_file_is_told_by_its_length_and_when_it_is_read(
    tmp_path: Path, suffix: str, packed: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"a{suffix}"
    put_itk(path, volume()[0], packed=packed)
    data = next(iter([*tmp_path.glob("a*raw*")]), path)
    data.write_bytes(data.read_bytes()[:-50])
    refused("got damaged or truncated data", lambda: image_files.check_length(path))
    refused("got damaged or truncated data", lambda: _read(path))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_a_flipped_bit_of_packed_voxels_is_told(tmp_path: Path, suffix: str) -> None:
    """SimpleITK reads them as other voxels."""
    path = tmp_path / f"a{suffix}"
    put_itk(path, volume()[0], packed=True)
    content = bytearray(path.read_bytes())
    content[-30] ^= 1
    path.write_bytes(content)
    refused("got damaged or truncated data", lambda: _read(path))


def test_a_case_has_the_content_of_a_detached_file_of_voxels(tmp_path: Path) -> None:
    """Other voxels beside the same header are another case."""
    put_itk(tmp_path / "a.mhd", volume()[0])
    scans = made("images", root=str(tmp_path), reference="prediction", labels=2)
    before = scans.refs()[0].fingerprint
    raw = tmp_path / "a.raw"
    raw.write_bytes(raw.read_bytes()[::-1])
    assert scans.refs()[0].fingerprint != before


@pytest.mark.parametrize("place", ["/etc/passwd", "../b.raw", "x/../../b.raw", "LIST", "a%03d.raw 1 8 1", "C:\\b.raw"])
@pytest.mark.parametrize("suffix", [".nhdr", ".mhd"])
def test_voxels_are_read_from_one_file_below_the_folder_alone(tmp_path: Path, suffix: str, place: str) -> None:
    path = tmp_path / "a" / f"a{suffix}"
    put_itk(path, volume()[0])
    (tmp_path / "b.raw").write_bytes((tmp_path / "a" / "a.raw").read_bytes())
    spoil(path, b"a.raw", place.encode())
    refused("a list of files" if place[0] in "La" else "of its own folder", lambda: image_files.read_header(path))


@pytest.mark.parametrize("suffix", [".nhdr", ".mhd"])
def test_a_missing_file_of_voxels_is_named(tmp_path: Path, suffix: str) -> None:
    put_itk(tmp_path / f"a{suffix}", volume()[0])
    (tmp_path / "a.raw").unlink()
    refused("expected its voxels in a.raw beside it", lambda: image_files.read_header(tmp_path / f"a{suffix}"))


@pytest.mark.parametrize(
    ("suffix", "old", "new", "text"),
    [
        (".mha", b"12 10 8", b"120000 100000 80000", "a volume of at most"),
        (".mha", b"12 10 8", b"-12 10 8", "a volume of at most"),
        (".mha", b"12 10 8", b"120 100 80", "got damaged or truncated data"),
        (".mha", b"NDims = 3", b"NDims = 99999", "with NDims of 2 to 4"),
        (".mha", b"ElementSpacing = 1 1 1", b"ElementSpacing = 1 0 1", ""),
        (".mha", b"ElementSpacing = 1 1 1", b"ElementSpacing = 1 1 nan", ""),
        (".mha", b"ElementSpacing = 1 1 1", b"ElementSpacing = 1000 1 1", "mend its unit"),
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
def test_a_header_that_states_no_volume_is_one_line(
    tmp_path: Path, suffix: str, old: bytes, new: bytes, text: str
) -> None:
    path = tmp_path / f"a{suffix}"
    put_itk(path, volume()[0])
    spoil(path, old, new)
    with pytest.raises(DataError) as error:
        _read(path)
    assert re.match(rf"{re.escape(str(path))}: expected [^\n]*{text}[^\n]*$", str(error.value))


def test_units_of_headers_are_millimetres_after_reading(tmp_path: Path) -> None:
    put_itk(tmp_path / "a.nrrd", volume()[0])
    spoil(tmp_path / "a.nrrd", b"encoding: raw", b'encoding: raw\nspace units: "cm" "cm" "cm"')
    assert image_files.read_header(tmp_path / "a.nrrd").spacing == (10, 10, 10)
