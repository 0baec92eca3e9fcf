"""Reads NIfTI-1 and NIfTI-2 files: header checks without voxels, and voxels with every fault as one line."""

import gzip
import io
import logging
import math
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from freqbench.core.errors import DataError, one_line
from freqbench.core.types import Shape, Spacing, triple

# A volume of this size as float32 does not fit beside a network: a header that states more is damaged or hostile.
MAX_BYTES = 8 * 2**30

# Deflate packs no tighter (zlib's documentation): a file that states more than its bytes can hold is refused unread.
MOST_PACKED = 1032

SUFFIXES = (".nii.gz", ".nii")

# Labels that a scale slope or an interpolation has moved this far from whole numbers are rounded.
ROUNDED = 1e-3

CONVERT = "convert each by SimpleITK.WriteImage(SimpleITK.ReadImage(FILE), 'NAME.nii.gz')"

# Endings of files that hold volumes in other formats, and how they become NIfTI.
OTHER_FORMATS = {
    **dict.fromkeys((".mha", ".mhd", ".nrrd", ".seg.nrrd", ".nhdr", ".gipl", ".hdr"), CONVERT),
    **dict.fromkeys((".mgz", ".mgh", ".mnc"), "convert each by nibabel.load(FILE) and nibabel.save"),
    **dict.fromkeys((".dcm", ".ima", ".dicom"), "convert the folder by dcm2niix -z y FOLDER"),
}

# Units of the codes of `xyzt_units`, and their millimetres; lengths without a unit count as millimetres.
UNITS = {0: ("no unit", 1.0), 1: ("metres", 1e3), 2: ("millimetres", 1.0), 3: ("micrometres", 1e-3)}

# Sides of a voxel, from microscopes to body scanners: any other side has a wrong unit.
SMALLEST_MM, LARGEST_MM = 1e-4, 100.0


@dataclass(frozen=True, kw_only=True)
class Header:
    """Header of a volume; shape and spacing in the file's axis order."""

    path: Path
    shape: Shape
    spacing: Spacing  # sides of a voxel in millimetres
    affine: npt.NDArray[np.float64]  # voxel to world millimetres (RAS+), float64 [4, 4]
    fourth: int = 1  # length of the file's fourth axis, the axis of channels
    further: tuple["Header", ...] = ()  # headers of the files with the other channels, one per channel
    is_unfilled: bool = False  # voxels of 1 x 1 x 1 without sform, qform and unit, as in a header that nobody filled

    @property
    def num_channels(self) -> int:
        """Channels of the image, over all its files."""
        return self.fourth + len(self.further)

    def check_same_grid(self, image: "Header", what: str = "label map") -> None:
        """Raises DataError if the shape differs from the image's, or a corner is more than half a voxel away."""
        if self.shape != image.shape:
            raise DataError(
                f"{self.path}: expected the shape {image.shape} of {image.path.name}, got {self.shape}: "
                f"give the {what} of this image"
            )
        last = [*(size - 1 for size in self.shape), 1]
        corners = np.array([(*corner, 1) for corner in product((0, 1), repeat=3)]) * last
        apart = float(np.abs(corners @ (self.affine - image.affine).T).max())
        if apart > min(image.spacing) / 2:
            raise DataError(
                f"{self.path}: expected the orientation and origin of {image.path.name}, got a grid up to "
                f"{apart:.3g} mm away: resample the {what} onto its image"
            )


def stem(path: str) -> str:
    """Returns the file name without folder and without `.nii` or `.nii.gz`."""
    name = path.rsplit("/", 1)[-1]
    for suffix in SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def check_size(path: Path | str, shape: tuple[int, ...], what: str) -> None:
    """Refuses a grid that would not fit in memory: more than MAX_BYTES as float32."""
    if 4 * math.prod(shape) > MAX_BYTES:
        raise DataError(
            f"{path}: expected {what} of at most {MAX_BYTES // 2**30} GiB as float32, got {tuple(shape)}: "
            "check the header, `spacing`, `size` and `pad_to`"
        )


def read_header(path: Path, multichannel: bool = False) -> Header:
    """Reads and checks a header; `multichannel` allows channels along a fourth axis.

    Raises DataError for a file that is not NIfTI, not 3D (trailing axes of length 1 aside), empty, too large, or
    without a grid.
    """
    image = _open(path)
    shape = tuple(int(size) for size in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in ((3, 4) if multichannel else (3,)):
        hint = ", channels along a fourth axis" if multichannel else ""
        raise DataError(f"{path}: expected a 3D volume, got shape {shape}: split it into one file a volume{hint}")
    if min(shape) < 1:
        raise DataError(f"{path}: expected at least one voxel an axis, got shape {shape}: the volume is empty")
    check_size(path, shape, "a volume")
    if image.get_data_dtype().kind not in "buif":
        raise DataError(f"{path}: expected real numbers, got {image.get_data_dtype()}: store one number a voxel")
    affine = _affine_of(path, image)
    spacing = triple(np.linalg.norm(affine[:3, :3], axis=0).tolist())
    codes = (image.header[name] for name in ("sform_code", "qform_code"))
    is_unfilled = not any(int(code) for code in codes) and int(image.header["xyzt_units"]) % 8 == 0
    return Header(
        path=path,
        shape=triple(shape[:3]),
        affine=affine,
        spacing=spacing,
        fourth=math.prod(shape[3:]),
        is_unfilled=is_unfilled and spacing == (1.0, 1.0, 1.0),
    )


def check_length(path: Path) -> None:
    """Raises DataError for a truncated file, by its length; reads a file to the end only if its length is wrong."""
    image = _open(path)
    expected = _num_bytes(image)
    with path.open("rb") as stream:
        length = stream.seek(0, 2)
        if path.name.endswith(".gz"):  # gzip ends with the unpacked length, modulo 2^32 (RFC 1952)
            stream.seek(-4, 2)
            length, expected = int.from_bytes(stream.read(), "little"), expected % 2**32
    if length != expected:
        _read_voxels(read_header(path, multichannel=True))


def joined(headers: Sequence[Header]) -> Header:
    """Returns one header for an image with one file per channel, all on the grid of the first."""
    first, *further = headers
    for header in further:
        header.check_same_grid(first, "channel")
    return replace(first, further=tuple(further))


def read_image(header: Header) -> npt.NDArray[np.float32]:
    """Returns voxels `[C, H, W, D]` in the file's axis order; refuses damaged or infinite ones, constant channels."""
    if header.further:
        return np.concatenate([read_image(part) for part in (replace(header, further=()), *header.further)])
    voxels = np.moveaxis(_read_voxels(header), -1, 0)
    if bad := int(voxels.size - np.count_nonzero(np.isfinite(voxels))):
        raise DataError(f"{header.path}: expected finite intensities, got {bad} NaN or infinite: mend or drop the case")
    for index, channel in enumerate(voxels):
        if channel.min() == channel.max():
            where = f" in channel {index}" if len(voxels) > 1 else ""
            raise DataError(
                f"{header.path}: expected an image, got the same intensity {channel.flat[0]:g} everywhere{where}: "
                "drop the case"
            )
    return voxels


def read_integers(header: Header, least: int = 0) -> npt.NDArray[np.float32]:
    """Returns a map's labels `[H, W, D]` in the file's axis order, rounded if they are off by ROUNDED at most.

    Raises DataError unless they are whole numbers from `least` on.
    """
    voxels = _read_voxels(header)[..., 0]
    with np.errstate(invalid="ignore"):
        whole = np.rint(voxels)
        wrong = voxels[~(np.isfinite(voxels) & (np.abs(voxels - whole) <= ROUNDED) & (whole >= least))]
    if wrong.size:
        raise DataError(
            f"{header.path}: expected integers from {least} as labels, got {wrong[0]:g} ({wrong.size} such voxels): "
            "give the label map, not an image or probabilities"
        )
    return whole


def rounding(header: Header) -> str | None:
    """Returns a line on a label map whose numbers are not whole, but are read as such; None if all are whole."""
    image = _open(header.path)
    if image.get_data_dtype().kind in "bui" and image.dataobj.slope == 1 and float(image.dataobj.inter).is_integer():
        return None
    voxels = _read_voxels(header)
    most = float(np.abs(voxels - np.rint(voxels)).max())
    if not 0 < most <= ROUNDED:
        return None
    return f"{header.path}: labels are up to {most:.2g} away from whole numbers, and are rounded to them"


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
            _check_room(path, image, len(content) * MOST_PACKED)
            voxels: npt.NDArray[np.float32] = image.get_fdata(caching="unchanged", dtype=np.float32)
    except DataError:
        raise
    except _damaged() as error:
        raise DataError(
            f"{path}: expected a volume that was saved, got an unreadable one: {_reason_of(error)}"
        ) from None
    return voxels


def _check_room(path: Path | str, image: Any, room: int) -> None:
    """Refuses, before allocating memory, a header that states more bytes than a file of its length can hold."""
    if (size := _num_bytes(image)) > room:
        raise DataError(
            f"{path}: expected {math.prod(image.shape)} voxels, got damaged or truncated data: at most {room} bytes of "
            f"{size}: fetch the file again"
        )


def _num_bytes(image: Any) -> int:
    return int(image.dataobj.offset + math.prod(image.shape) * image.get_data_dtype().itemsize)


def _open(path: Path) -> Any:
    import nibabel

    if not path.name.endswith(SUFFIXES):
        convert = OTHER_FORMATS.get(path.suffix.lower(), "convert the file")
        raise DataError(f"{path}: expected a name that ends in .nii or .nii.gz, got {path.name!r}: {convert}")
    try:
        with path.open("rb"), _unlogged():  # opened first, as nibabel does not say that it may not
            image = nibabel.load(path)
    except PermissionError as error:
        raise DataError(f"{path}: expected a file that may be read, got {error.strerror}: check permissions") from None
    except _damaged() as error:
        raise DataError(f"{path}: expected a NIfTI file, got an unreadable header: {_reason_of(error)}") from None
    if not isinstance(image, nibabel.Nifti1Image):
        raise DataError(f"{path}: expected a NIfTI file, got {type(image).__name__}: convert the file")
    header = image.header
    if header.is_single and (start := image.dataobj.offset) < header.single_vox_offset:
        raise DataError(
            f"{path}: expected voxels from byte {header.single_vox_offset} on, behind the header, got a vox_offset of "
            f"{start}: mend the header"
        )
    return image


def _read_voxels(header: Header) -> npt.NDArray[np.float32]:
    """Returns all voxels `[H, W, D, C]`, scaled by slope and intercept; reads to gzip's checksum at the end."""
    image = _open(header.path)
    is_packed = header.path.name.endswith(".gz")
    _check_room(header.path, image, header.path.stat().st_size * (MOST_PACKED if is_packed else 1))
    try:
        with (gzip.open if is_packed else Path.open)(header.path, "rb") as stream:
            with _unlogged():
                image = type(image).from_stream(stream)
            voxels: npt.NDArray[np.float32] = image.get_fdata(caching="unchanged", dtype=np.float32)
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
    with image.file_map["image"].get_prepare_fileobj("rb") as stream:
        pixdim = type(header).from_fileobj(stream, check=False)["pixdim"][1:4]
    try:
        sform, qform = header.get_sform(coded=True)[0], header.get_qform(coded=True)[0]
    except _damaged() as error:
        raise DataError(
            f"{path}: expected a rotation as qform, got none: {_reason_of(error)}: mend the header"
        ) from None
    if sform is None and not (pixdim > 0).all():
        raise DataError(
            f"{path}: expected sides of voxels above 0, got {shown(pixdim)} in pixdim, and no sform: mend the header"
        )
    affine = np.asarray(image.affine, np.float64).copy()
    steps = affine[:3, :3]
    sides = np.linalg.norm(steps, axis=0)
    volume = abs(float(np.linalg.det(steps))) if np.isfinite(affine).all() else 0.0
    if not volume > 1e-6 * float(sides.prod()):
        raise DataError(f"{path}: expected an invertible affine, got {affine[:3].tolist()}: mend the header")
    code = int(header["xyzt_units"]) % 8
    if code not in UNITS:
        raise DataError(f"{path}: expected a unit of length in xyzt_units (0 to 3), got {code}: mend the header")
    unit, length = UNITS[code]
    if sform is not None and qform is not None:
        others = np.linalg.norm(qform[:3, :3], axis=0)
        along = (steps * qform[:3, :3]).sum(axis=0) / (sides * others)  # the cosine between the two, an axis
        if not (np.isclose(sides, others, rtol=0.01, atol=0) & (along > 0.5)).all():
            raise DataError(
                f"{path}: expected the same grid of sform and qform, got {_oriented(affine)} and {_oriented(qform)} "
                f"({unit}): set the code of the wrong one to 0"
            )
    if not (sides.min() * length >= SMALLEST_MM and sides.max() * length <= LARGEST_MM):
        raise DataError(
            f"{path}: expected voxels of {SMALLEST_MM:g} to {LARGEST_MM:g} mm a side, got {shown(sides * length)} mm, "
            f"as the header gives {shown(sides)} and {unit}: mend its unit (xyzt_units) or sides"
        )
    affine[:3] *= length
    return affine


def shown(sides: Iterable[float]) -> str:
    """Returns the sides of a voxel or grid as an error writes them, `1 x 1 x 2.5`."""
    return " x ".join(f"{side:g}" for side in sides)


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
