"""FreeSurfer's MGH files: read as nibabel reads them; damaged ones, and those without a grid, give one line."""

from pathlib import Path

import nibabel
import numpy as np
import pytest

from freqbench.data import image_files

from .conftest import refused
from .downloads import LPS, SRA, TURN, VOXELS, volume

PLACE = 28  # of the field that says if the grid is stated


def put_mgh(path: Path, voxels: np.ndarray, grid: np.ndarray = LPS, kind: type = np.float32) -> Path:
    nibabel.save(nibabel.MGHImage(voxels.astype(kind), grid), path)
    return path


@pytest.mark.parametrize("suffix", [".mgz", ".mgh"])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32, np.float32])
@pytest.mark.parametrize("grid", [LPS, SRA, TURN @ LPS], ids=["LPS", "SRA", "oblique"])
def test_a_volume_is_that_of_nibabel(tmp_path: Path, suffix: str, kind: type, grid: np.ndarray) -> None:
    path = put_mgh(tmp_path / f"a{suffix}", VOXELS, grid, kind)
    header = image_files.read_header(path)
    theirs = nibabel.load(path)
    assert (header.shape, header.stored) == (theirs.shape, np.dtype(kind).name)
    np.testing.assert_allclose(header.affine, theirs.affine, atol=1e-5)
    np.testing.assert_allclose(header.affine, grid, atol=1e-4)
    np.testing.assert_array_equal(image_files.read_image(header)[0], np.asarray(theirs.dataobj))
    image_files.check_length(path)


def test_frames_are_channels(tmp_path: Path) -> None:
    voxels = np.stack([volume(0)[0], volume(1)[0]], axis=-1)
    path = put_mgh(tmp_path / "a.mgz", voxels)
    assert np.array_equal(image_files.read_image(image_files.read_header(path, True)), voxels.transpose(3, 0, 1, 2))
    refused("expected a 3D volume, got shape (12, 10, 8, 2)", lambda: image_files.read_header(path))


def test_a_flipped_bit_of_packed_voxels_is_told(tmp_path: Path) -> None:
    path = put_mgh(tmp_path / "a.mgz", VOXELS)
    content = bytearray(path.read_bytes())
    content[-6] ^= 1  # of the checksum
    path.write_bytes(content)
    refused("got damaged or truncated data", lambda: image_files.check_length(path))


@pytest.mark.parametrize(
    ("start", "field", "text"),
    [
        (PLACE, b"\0\0", "expected a header that states the directions of its axes, got goodRASFlag 0"),
        (0, b"\0\0\0\7", "expected an MGH file of version 1 with real numbers, got version 7"),
        (20, b"\0\0\0\7", "with real numbers, got version 1 and type 7"),
        (4, b"\0\0\0\0", "expected at least one voxel an axis"),
        (4, b"\x7f\0\0\0", "GiB as float32"),
        (4, b"\0\0\xff\0", "expected 5222400 voxels, got damaged or truncated data"),
        (30, b"\0\0\0\0", "expected an invertible affine"),
        (30, b"\x47\0\0\0", "expected voxels of 0.0001 to 100 mm a side"),
    ],
)
def test_a_header_that_is_wrong_is_refused(tmp_path: Path, start: int, field: bytes, text: str) -> None:
    path = put_mgh(tmp_path / "a.mgh", VOXELS)
    content = bytearray(path.read_bytes())
    content[start : start + len(field)] = field
    path.write_bytes(content)
    refused(text, lambda: image_files.read_image(image_files.read_header(path)))
