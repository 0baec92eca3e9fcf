"""Reads images and label maps of every format through one interface; each family of formats has a reader."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

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


class Reader(Protocol):
    """Functions of the module that reads a family of formats."""

    def parts(self, path: Path) -> tuple[str, ...]:
        """Returns the names of the files that hold the voxels of a file, in its folder; none if it holds them."""

    def read_header(self, path: Path, multichannel: bool = False) -> Header:
        """Reads and checks a header without voxels; `multichannel` allows several channels in the file.

        Raises DataError for a file that is damaged, not 3D, empty, too large, or without a grid.
        """

    def read_voxels(self, header: Header) -> npt.NDArray[np.float32]:
        """Returns all voxels `[H, W, D, C]` in the file's axis order, scaled; raises DataError if some are damaged."""

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
    """Returns the reader of a file; raises DataError if a file of its voxels is missing."""
    reader = reader_of(path)
    for name in reader.parts(path):
        if not (path.parent / name).is_file():
            raise DataError(f"{path}: expected its voxels in {name} beside it, found no file: add it")
    return reader


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


def read_integers(header: Header, least: int = 0) -> npt.NDArray[np.float32]:
    """Returns a map's labels `[H, W, D]` in the file's axis order, rounded if they are off by ROUNDED at most.

    Raises DataError unless they are whole numbers from `least` on.
    """
    voxels = _voxels(header)[..., 0]
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
    if header.is_integer:
        return None
    voxels = _voxels(header)
    most = float(np.abs(voxels - np.rint(voxels)).max())
    if not 0 < most <= ROUNDED:
        return None
    return f"{header.path}: labels are up to {most:.2g} away from whole numbers, and are rounded to them"


def _voxels(header: Header) -> npt.NDArray[np.float32]:
    if isinstance(header, dicom.Series):
        return dicom.read_voxels(header)
    return reader_of(header.path).read_voxels(header)
