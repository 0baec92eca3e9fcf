"""Reads NIfTI-1 and NIfTI-2 files: header checks without voxels, and voxels with every fault as one line."""

import gzip
import io
import logging
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from freqbench.core.errors import DataError, one_line
from freqbench.core.types import Spacing, triple
from freqbench.data.headers import (
    MAX_BYTES,
    MOST_PACKED,
    Header,
    check_invertible,
    check_room,
    check_sides,
    check_size,
    checked_shape,
    shown,
    spacing_of,
)

PAIR = ".hdr"  # a header with its voxels in `.img` beside it
SUFFIXES = (".nii.gz", ".nii", PAIR)

# Units of the codes of `xyzt_units`, and their millimetres; lengths without a unit count as millimetres.
UNITS = {0: ("no unit", 1.0), 1: ("metres", 1e3), 2: ("millimetres", 1.0), 3: ("micrometres", 1e-3)}


def parts(path: Path) -> tuple[str, ...]:
    """Returns the name of the file with the voxels, in the folder of the header; none if they follow the header."""
    return (_file_of_voxels(path).name,) if path.suffix == PAIR else ()


def read_header(path: Path, multichannel: bool = False) -> Header:
    """Reads and checks a header; `multichannel` allows channels along a fourth axis.

    Raises DataError for a file that is not NIfTI, not 3D (trailing axes of length 1 aside), empty, too large, or
    without a grid.
    """
    image = _open(path)
    shape = checked_shape(path, tuple(int(size) for size in image.shape), multichannel)
    if image.get_data_dtype().kind not in "buif":
        raise DataError(f"{path}: expected real numbers, got {image.get_data_dtype()}: store one number a voxel")
    affine = _affine_of(path, image)
    spacing, scale = spacing_of(affine), image.dataobj
    codes = (image.header[name] for name in ("sform_code", "qform_code"))
    is_unfilled = not any(int(code) for code in codes) and int(image.header["xyzt_units"]) % 8 == 0
    return Header(
        path=path,
        shape=triple(shape[:3]),
        affine=affine,
        spacing=spacing,
        stated=_stated(image, spacing),
        fourth=math.prod(shape[3:]),
        stored=str(image.get_data_dtype()) if (scale.slope, scale.inter) == (1, 0) else "float32",
        unfilled="sform, qform and unit" if is_unfilled and spacing == (1.0, 1.0, 1.0) else "",
    )


def _stated(image: Any, spacing: Spacing) -> Spacing | None:
    """Returns the sides in pixdim, which ITK takes; None if they are not those of the affine."""
    _, length = UNITS[int(image.header["xyzt_units"]) % 8]
    sides = triple(float(side) * length for side in image.header["pixdim"][1:4])
    return sides if np.allclose(sides, spacing, rtol=1e-3) else None


def check_length(path: Path) -> None:
    """Raises DataError for a truncated file, by its length; reads a file to the end only if its length is wrong."""
    image = _open(path)
    expected = _num_bytes(image)
    with _file_of_voxels(path).open("rb") as stream:
        length = stream.seek(0, 2)
        if path.name.endswith(".gz"):  # gzip ends with the unpacked length, modulo 2^32 (RFC 1952)
            stream.seek(-4, 2)
            length, expected = int.from_bytes(stream.read(), "little"), expected % 2**32
    if length != expected:
        read_voxels(read_header(path, multichannel=True))


def read_packed(content: bytes, path: str) -> npt.NDArray[np.float32]:
    """Returns the voxels of a `.nii.gz` in memory, `[H, W, D]` or with channels on a fourth axis; `path` is for errors.

    Raises DataError if it is damaged, or its header states more voxels than it holds.
    """
    import nibabel

    try:
        with gzip.open(io.BytesIO(content)) as stream, _unlogged():
            image = nibabel.Nifti1Image.from_stream(stream)
            shape = tuple(int(size) for size in image.shape)
            if len(shape) not in (3, 4) or min(shape) < 1 or image.get_data_dtype().kind not in "buif":
                raise DataError(f"{path}: expected a volume of real numbers, got {shape}, {image.get_data_dtype()}")
            check_size(path, shape, "a volume")
            check_room(path, math.prod(shape), _num_bytes(image), len(content) * MOST_PACKED)
            voxels: npt.NDArray[np.float32] = image.get_fdata(caching="unchanged", dtype=np.float32)
    except DataError:
        raise
    except _damaged() as error:
        raise DataError(
            f"{path}: expected a volume that was saved, got an unreadable one: {_reason_of(error)}"
        ) from None
    return voxels


def _file_of_voxels(path: Path) -> Path:
    return path.with_suffix(".img") if path.suffix == PAIR else path


def _num_bytes(image: Any) -> int:
    return int(image.dataobj.offset + math.prod(image.shape) * image.get_data_dtype().itemsize)


def _open(path: Path) -> Any:
    import nibabel

    try:
        with path.open("rb"), _unlogged():  # opened first, as nibabel does not say that it may not
            image = nibabel.load(path)
    except PermissionError as error:
        raise DataError(f"{path}: expected a file that may be read, got {error.strerror}: check permissions") from None
    except _damaged() as error:
        raise DataError(f"{path}: expected a NIfTI file, got an unreadable header: {_reason_of(error)}") from None
    if isinstance(image, nibabel.AnalyzeImage) and not isinstance(image, nibabel.Nifti1Pair):
        raise DataError(
            f"{path}: expected a NIfTI file, got Analyze 7.5, which does not state the directions of its axes, and "
            "readers take different ones: convert it by a tool that knows them"
        )
    if not isinstance(image, nibabel.Nifti1Pair):
        raise DataError(f"{path}: expected a NIfTI file, got {type(image).__name__}: convert the file")
    header = image.header
    if header.is_single and (start := image.dataobj.offset) < header.single_vox_offset:
        raise DataError(
            f"{path}: expected voxels from byte {header.single_vox_offset} on, behind the header, got a vox_offset of "
            f"{start}: fix the header"
        )
    return image


def read_voxels(header: Header, kind: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
    """Returns all voxels `[H, W, D, C]`, scaled by slope and intercept; reads to gzip's checksum at the end."""
    image = _open(header.path)
    is_packed, file = header.path.name.endswith(".gz"), _file_of_voxels(header.path)
    room = file.stat().st_size * (MOST_PACKED if is_packed else 1)
    check_room(header.path, math.prod(image.shape), _num_bytes(image), room)
    try:
        with (gzip.open if is_packed else Path.open)(file, "rb") as stream:
            if file == header.path:
                with _unlogged():
                    image = type(image).from_stream(stream)
            voxels: npt.NDArray[Any] = np.asanyarray(image.dataobj, dtype=kind)
            for _ in range(MAX_BYTES // 2**20):
                if not stream.read(2**20):
                    break
    except _damaged() as error:
        raise DataError(
            f"{header.path}: expected {math.prod(header.shape) * header.fourth} voxels, got damaged or truncated data: "
            f"{_reason_of(error)}: fetch the file again"
        ) from None
    return voxels.reshape(*header.shape, header.fourth)


@contextmanager
def _unlogged() -> Iterator[None]:
    """Stops nibabel from logging its repairs of headers, which name no file: faults that matter are refused here."""
    logger, silence = logging.getLogger("nibabel.global"), lambda _: False
    logger.addFilter(silence)
    try:
        yield
    finally:
        logger.removeFilter(silence)


def _affine_of(path: Path, image: Any) -> npt.NDArray[np.float64]:
    """Returns voxel to world millimetres, by sform, else qform, else pixdim; refuses contradictions."""
    header = image.header
    # As written: nibabel replaces sides that are not positive.
    with image.file_map["header" if path.suffix == PAIR else "image"].get_prepare_fileobj("rb") as stream:
        pixdim = type(header).from_fileobj(stream, check=False)["pixdim"][1:4]
    try:
        sform, qform = header.get_sform(coded=True)[0], header.get_qform(coded=True)[0]
    except _damaged() as error:
        raise DataError(
            f"{path}: expected a rotation as qform, got none: {_reason_of(error)}: fix the header"
        ) from None
    if sform is None and not (pixdim > 0).all():
        raise DataError(
            f"{path}: expected sides of voxels above 0, got {shown(pixdim)} in pixdim, and no sform: fix the header"
        )
    affine = np.asarray(image.affine, np.float64).copy()
    steps = affine[:3, :3]
    sides = np.linalg.norm(steps, axis=0)
    check_invertible(path, affine)
    code = int(header["xyzt_units"]) % 8
    if code not in UNITS:
        raise DataError(f"{path}: expected a unit of length in xyzt_units (0 to 3), got {code}: fix the header")
    unit, length = UNITS[code]
    if sform is not None and qform is not None:
        others = np.linalg.norm(qform[:3, :3], axis=0)
        along = (steps * qform[:3, :3]).sum(axis=0) / (sides * others)  # the cosine between the two, an axis
        if not (np.isclose(sides, others, rtol=0.01, atol=0) & (along > 0.5)).all():
            raise DataError(
                f"{path}: expected the same grid of sform and qform, got {_oriented(affine)} and {_oriented(qform)} "
                f"({unit}): set the code of the wrong one to 0"
            )
    check_sides(path, sides * length, f"{shown(sides)} and {unit}", "xyzt_units")
    affine[:3] *= length
    return affine


def _oriented(affine: npt.NDArray[np.float64]) -> str:
    """Returns the sides of the voxels, and the directions of the axes."""
    from nibabel.orientations import aff2axcodes

    return f"{shown(np.linalg.norm(affine[:3, :3], axis=0))} {''.join(map(str, aff2axcodes(affine)))}"


def _damaged() -> tuple[type[Exception], ...]:
    """Returns the errors that nibabel raises for a file that is no volume, or is damaged."""
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    of_nibabel = (ImageFileError, HeaderDataError, WrapStructError)
    return *of_nibabel, OSError, EOFError, ValueError, OverflowError, struct.error, zlib.error


def _reason_of(error: Exception) -> str:
    """Returns an error's text in one line, without its final punctuation."""
    return one_line(error).rstrip(".:")
