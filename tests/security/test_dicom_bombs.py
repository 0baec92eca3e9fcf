"""DICOM that unpacks to more than its header states, or promises more than its bytes can hold, is refused unread."""

import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from data.dicom_files import put_seg, put_series
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from freqbench.core.errors import DataError
from freqbench.data import dicom, image_files
from freqbench.data.dicom import segmentation

from .traps import line_of

WHERE = Path("CASE")
STUFF = b"\x09\x00\x01\x00OB\x00\x00" + (10**6).to_bytes(4, "little") + bytes(10**6)
RLE = struct.pack("<16I", 2, 64, 66, *[0] * 13) + b"\x81\x00" * 2
IMAGE = np.random.default_rng(0).integers(-1000, 1000, (20, 18, 4)).astype(np.float32)


def deflated(path: Path, times: int = 0, before: bytes = b"") -> None:
    """Deflates a file by zlib, with a field of nobody, of 1 MB of zeros, at its end or before one of its fields."""
    fields = pydicom.dcmread(path)
    fields.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    fields.save_as(path)
    content = path.read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")
    body = zlib.decompress(content[start:], -zlib.MAX_WBITS)
    cut = body.index(before) if before else len(body)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    parts = [packer.compress(body[:cut]), *(packer.compress(STUFF) for _ in range(times))]
    path.write_bytes(content[:start] + b"".join([*parts, packer.compress(body[cut:]), packer.flush()]))


def _series(folder: Path) -> list[Path]:
    return put_series(folder / "a", IMAGE)


def _seg(folder: Path) -> Path:
    put_seg(folder / "seg.dcm", _series(folder), {"liver": IMAGE > 0, "tumour": IMAGE > 500})
    return folder / "seg.dcm"


def _read(files: list[Path]) -> Any:
    return image_files.read_image(dicom.series.read_series(files, WHERE))


def test_deflated_slices_and_segmentations_are_those_not(tmp_path: Path) -> None:
    series = _series(tmp_path)
    seg = _seg(tmp_path)
    wanted = _read(series)
    masks = [mask for _, mask in segmentation._masks(seg, WHERE)]
    for path in (*series, seg):
        deflated(path)
    np.testing.assert_array_equal(_read(series), wanted)
    for (_, frames), known in zip(segmentation._masks(seg, WHERE), masks, strict=True):
        for (_, frame), (_, expected) in zip(frames, known, strict=True):
            np.testing.assert_array_equal(frame, expected)


@pytest.mark.parametrize("before", [b"", b"\xe0\x7f\x10\x00"], ids=["behind the voxels", "before them"])
@pytest.mark.parametrize("is_seg", [False, True], ids=["slice", "segmentation"])
def test_a_deflated_file_is_inflated_to_what_its_header_states(tmp_path: Path, before: bytes, is_seg: bool) -> None:
    files = [_seg(tmp_path)] if is_seg else _series(tmp_path)
    deflated(files[0], 30, before)
    assert files[0].stat().st_size < 50_000
    with pytest.raises(DataError, match="expected at most 8 MiB beside the voxels of a deflated file, got more") as got:
        dicom.segmentation.check_segmentation(files[0], WHERE) if is_seg else _read(files)
    line_of(got)


@pytest.mark.integration
def test_deflated_files_of_600_megabytes_take_less_than_100(tmp_path: Path) -> None:
    files = _series(tmp_path)
    seg = _seg(tmp_path)
    read = (
        "import resource, sys; from pathlib import Path; from freqbench.data import dicom, image_files\n"
        "import SimpleITK, pydicom, highdicom\n"
        "*files, seg = map(Path, sys.argv[1:])\n"
        "for read in (lambda: image_files.read_image(dicom.series.read_series(files, Path('CASE'))),"
        " lambda: dicom.segmentation.check_segmentation(seg, Path('CASE'))):\n"
        "    try: read()\n"
        "    except ValueError as error: pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = []
    for megabytes in (0, 600):
        for path in (*files, seg) if megabytes == 0 else (files[0], seg):
            deflated(path, megabytes)
        run = [sys.executable, "-c", read, *map(str, (*files, seg))]
        peaks.append(int(subprocess.run(run, capture_output=True, text=True, check=True).stdout))
    assert peaks[1] - peaks[0] < 100_000, peaks  # kilobytes


def _stored(path: Path, frame: bytes, syntax: str, **fields: Any) -> None:
    content = pydicom.dcmread(path)
    for name, value in fields.items():
        setattr(content, name, value)
    content.file_meta.TransferSyntaxUID = syntax
    content.PixelData = encapsulate([frame + bytes(len(frame) % 2)])
    content["PixelData"].VR = "OB"
    content["PixelData"].is_undefined_length = True
    content.save_as(path)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless, DeflatedExplicitVRLittleEndian])
def test_impossible_voxels_are_not_decoded(tmp_path: Path, syntax: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom.files, "read_pixels", lambda *_: pytest.fail("voxels were decoded"))
    files = _series(tmp_path)
    for path in files:
        _stored(path, RLE, RLELossless, Rows=9000, Columns=9000)
        if syntax == DeflatedExplicitVRLittleEndian:
            put_series(tmp_path / "a", IMAGE, changes={-1: {"Rows": 9000, "Columns": 9000}})
            deflated(path)
    with pytest.raises(DataError, match="expected whole slices, got a truncated file") as got:
        _read(files)
    line_of(got)


def test_doubled_segments_are_refused(tmp_path: Path) -> None:
    path = _seg(tmp_path)
    fields = pydicom.dcmread(path)
    fields.SegmentSequence = [*fields.SegmentSequence, fields.SegmentSequence[0]]
    fields.save_as(path)
    with pytest.raises(DataError, match=r"^CASE: expected segments of different numbers, got two of 1: store") as got:
        dicom.segmentation.segment_names(path, WHERE)
    line_of(got)
