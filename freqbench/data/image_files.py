"""Reads images and label maps of every format through one interface; each family of formats has a reader."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from freqbench.core.errors import DataError
from freqbench.core.files import storage
from freqbench.data import dicom, itk, mgh, nifti
from freqbench.data.headers import Header

SUFFIXES = (*nifti.SUFFIXES, *itk.SUFFIXES, *mgh.SUFFIXES)

# Labels that a scale slope or an interpolation has moved this far from whole numbers are rounded.
ROUNDED = 1e-3

CONVERT = "convert each by SimpleITK.WriteImage(SimpleITK.ReadImage(FILE), 'NAME.nii.gz')"

# Endings of files that hold volumes in formats that are not read, and how they become NIfTI.
OTHER_FORMATS = {
    ".mnc": "convert each by nibabel.load(FILE) and nibabel.save",
    **dict.fromkeys((".tif", ".tiff", ".vtk", ".h5", ".hdf5"), CONVERT),
    **dict.fromkeys((".mrc", ".lsm", ".nia", ".pic"), CONVERT),
    **dict.fromkeys((".par", ".rec"), "convert each by nibabel.load(PAR FILE) and nibabel.save"),
    **dict.fromkeys(
        (".png", ".jpg", ".jpeg", ".bmp"), "stack the pictures of a volume into one file, and state its spacing there"
    ),
    ".img": "give the .hdr file beside it",
    **dict.fromkeys((".dcm", ".ima", ".dicom"), "give the folder of its series (`loader: dicom`)"),
}


BEGIN, BLANK, GZIP = 512, b"\xef\xbb\xbf \t\r\n", b"\x1f\x8b"
NIFTI = tuple(size.to_bytes(4, order) for size in (348, 540) for order in ("little", "big"))  # of a header
PACKED = (".mgz",)  # endings of formats that are packed by gzip as they are
DOWNLOAD = "fetch the file itself, logged in if it needs that"

# What a file is whose first bytes, in lower case, are these, and what to do.
STRANGERS = {
    b"version https://git-lfs": "a Git LFS pointer, which stands for the image: fetch it by git lfs pull",
    **dict.fromkeys((b"<!doctype html", b"<html"), f"an HTML page, as a failed download leaves it: {DOWNLOAD}"),
    b"<?xml": f"an XML document, as a refused download leaves it: {DOWNLOAD}",
    b"{": f"a JSON document, as a refused download leaves it: {DOWNLOAD}",
    b"pk\x03\x04": "a ZIP archive: unpack it, and give the image in it",
    b"\x89png": "a PNG picture: stack the pictures of a volume into one file",
    b"\x89hdf": "an HDF5 file, as of MINC or MATLAB: convert it to NIfTI",
}


class Reader(Protocol):
    """Functions of the module that reads a family of formats."""

    def parts(self, path: Path) -> tuple[str, ...]:
        """Returns the names of the files that hold the voxels of a file, in its folder; none if it holds them."""

    def read_header(self, path: Path, multichannel: bool = False) -> Header:
        """Reads and checks a header without voxels; `multichannel` allows several channels in the file.

        Raises DataError for a file that is damaged, not 3D, empty, too large, or without a grid.
        """

    def read_voxels(self, header: Header, kind: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
        """Returns all voxels `[H, W, D, C]` in the file's axis order, scaled, as numbers of a kind.

        Raises DataError if some are damaged.
        """

    def check_length(self, path: Path) -> None:
        """Raises DataError for a truncated file, by its length as far as that tells."""


def reader_of(path: Path | str) -> Reader:
    """Returns the reader of a file by its name; raises DataError for another format."""
    name = Path(path).name
    if name.endswith(nifti.SUFFIXES):
        return nifti
    if name.endswith(itk.SUFFIXES):
        return itk
    if name.endswith(mgh.SUFFIXES):
        return mgh
    suffix = Path(name).suffix.lower()
    convert = OTHER_FORMATS.get(
        suffix, "convert the file" if suffix else "of a DICOM series give the folder, on this machine"
    )
    raise DataError(f"{path}: expected a name that ends in {', '.join(SUFFIXES)}, got {name!r}: {convert}")


def stem(path: str) -> str:
    """Returns the file name without folder and without the ending of its format."""
    name = path.rsplit("/", 1)[-1]
    for suffixes in (nifti.SUFFIXES, itk.SUFFIXES, mgh.SUFFIXES):
        if name.endswith(suffixes):
            for suffix in suffixes:
                name = name.removesuffix(suffix)
            break
    return name


def fetch(path: str, verify: bool = False) -> Path:
    """Returns a local copy of an image file, with the files of its voxels beside it; see `storage.fetch`.

    With `verify`, fetches a copy again that has changed since.
    """
    local = storage.fetch(path, storage.sha256(path) if verify else None)
    parts = () if storage.is_local(path) else reader_of(path).parts(local)
    if not parts:
        return local
    folder, _, name = path.rpartition("/")
    return storage.fetch_together(folder, (name, *parts)) / name


def sha256s(path: str) -> list[str]:
    """Returns the SHA-256 (hex) of an image file, and of each file of its voxels."""
    if path.endswith((".nii", ".gz")):
        return [storage.sha256(path)]  # without fetching it
    local = fetch(path)
    return [storage.sha256(str(local.parent / name)) for name in (local.name, *reader_of(path).parts(local))]


def read_header(path: Path, multichannel: bool = False) -> Header:
    """Reads and checks a header; see `Reader.read_header`."""
    return _whole(path).read_header(path, multichannel)


def check_length(path: Path) -> None:
    """Raises DataError for a truncated file; see `Reader.check_length`."""
    _whole(path).check_length(path)


def _whole(path: Path) -> Reader:
    """Returns the reader of a file; raises DataError for what is no image, and if a file of its voxels is missing."""
    reader = reader_of(path)
    _require_image(path)
    for name in reader.parts(path):
        if not (path.parent / name).is_file():
            raise DataError(f"{path}: expected its voxels in {name} beside it, found no file: add it")
    return reader


def _require_image(path: Path) -> None:
    """Refuses, by its first bytes, a file that stands for an image elsewhere, or is packed otherwise than its name."""
    try:
        with path.open("rb") as stream:
            begin = stream.read(BEGIN).lstrip(BLANK)
    except OSError:
        return  # the reader says what is wrong
    what = next((words for start, words in STRANGERS.items() if begin[: len(start)].lower() == start), None)
    is_packed = begin.startswith(GZIP)
    if path.name.endswith(".gz") and begin.startswith(NIFTI):
        what = f"not packed by gzip, though its name ends in .gz: rename it to {path.name.removesuffix('.gz')}"
    if is_packed and not path.name.endswith((".gz", *PACKED)):
        what = f"packed by gzip, which its name does not say: rename it to {path.name}.gz"
    if what is not None:
        raise DataError(f"{path}: {what}")


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
    voxels = np.moveaxis(_voxels(header), -1, 0)
    if bad := int(voxels.size - np.count_nonzero(np.isfinite(voxels))):
        raise DataError(f"{header.path}: expected finite intensities, got {bad} NaN or infinite: fix or drop the case")
    for index, channel in enumerate(voxels):
        if channel.min() == channel.max():
            where = f" in channel {index}" if len(voxels) > 1 else ""
            raise DataError(
                f"{header.path}: expected an image, got the same intensity {channel.flat[0]:g} everywhere{where}: "
                "drop the case"
            )
    return voxels


def read_integers(header: Header, least: int = 0) -> npt.NDArray[np.integer[Any]]:
    """Returns a map's labels `[H, W, D]` in the file's axis order; numbers off by ROUNDED at most become whole ones.

    Whole numbers of a file stay of their type, so that none of 64 bits is rounded. Raises DataError unless all are
    whole, from `least` on.
    """
    voxels = _voxels(header, header.stored if header.is_integer else np.float64)[..., 0]
    with np.errstate(invalid="ignore"):
        labels = voxels if header.is_integer else np.rint(voxels)
        is_wrong = ~(np.isfinite(voxels) & (np.abs(voxels - labels) <= ROUNDED) & (labels >= least))
    if is_wrong.any():
        first = tuple(map(int, np.argwhere(is_wrong)[0]))
        raise DataError(
            f"{header.path}: expected integers from {least} as labels, got {voxels[first]:g} at voxel {first} "
            f"({np.count_nonzero(is_wrong)} such voxels): give the label map, not an image or probabilities"
        )
    return labels if header.is_integer else labels.astype(np.int64)


def rounding(header: Header) -> str | None:
    """Returns a line on a label map whose numbers are not whole, but are read as such; None if all are whole."""
    if header.is_integer:
        return None
    voxels = _voxels(header, np.float64)
    most = float(np.abs(voxels - np.rint(voxels)).max())
    if not 0 < most <= ROUNDED:
        return None
    return f"{header.path}: labels are up to {most:.2g} away from whole numbers, and are rounded to them"


def _voxels(header: Header, kind: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
    if isinstance(header, dicom.Series):
        return dicom.read_voxels(header)
    return reader_of(header.path).read_voxels(header, kind)
