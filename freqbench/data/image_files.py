"""Reads images and label maps of every format through one interface; each family of formats has a reader."""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from freqbench.core.errors import DataError
from freqbench.core.files import storage
from freqbench.data import dicom, itk, nibabel_files
from freqbench.data.headers import Header, check_place, damage, refusal

ROUNDED = 1e-3  # labels that a scale slope or an interpolation has moved this far from whole numbers are rounded
STACK = "stack the pictures of a volume into one file"
CONVERT = "convert each by SimpleITK.WriteImage(SimpleITK.ReadImage(FILE), 'NAME.nii.gz')"
OTHER_FORMATS = {  # endings of files that hold volumes in formats that are not read, and how they become NIfTI
    ".mnc": "convert each by nibabel.load(FILE) and nibabel.save",
    **dict.fromkeys((".tif", ".tiff", ".vtk", ".h5", ".hdf5", ".mrc", ".lsm", ".nia", ".pic"), CONVERT),
    **dict.fromkeys((".par", ".rec"), "convert each by nibabel.load(PAR FILE) and nibabel.save"),
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".bmp"), f"{STACK}, and state its spacing there"),
    ".img": "give the .hdr file beside it",
    **dict.fromkeys((".dcm", ".ima", ".dicom"), "give the folder of its series (`loader: dicom`)"),
}
BEGIN = 512
BLANK = b"\xef\xbb\xbf \t\r\n"
GZIP = b"\x1f\x8b"
NIFTI = (b"\x5c\1\0\0", b"\0\0\1\x5c", b"\x1c\2\0\0", b"\0\0\2\x1c")  # a header's length, 348 or 540, in either order
NRRD = b"nrrd000"
DOWNLOAD = "fetch the file itself, logged in if it needs that"
STRANGERS = {  # what a file is whose first bytes, in lower case, are these, and what to do
    b"version https://git-lfs": "a Git LFS pointer, which stands for the image: fetch it by git lfs pull",
    **dict.fromkeys((b"<!doctype html", b"<html"), f"an HTML page, as a failed download leaves it: {DOWNLOAD}"),
    b"<?xml": f"an XML document, as a refused download leaves it: {DOWNLOAD}",
    b"{": f"a JSON document, as a refused download leaves it: {DOWNLOAD}",
    b"pk\x03\x04": "a ZIP archive: unpack it, and give the image in it",
    b"\x89png": f"a PNG picture: {STACK}",
    b"\x89hdf": "an HDF5 file, as of MINC or MATLAB: convert it to NIfTI",
    GZIP: "packed by gzip twice: unpack it once",
    NRRD: "a NRRD file: rename it to end in .nrrd",
}


class Reader(Protocol):
    """Functions of the module that reads a family of formats."""

    def parts(self, path: Path) -> tuple[str, ...]:
        """Returns the names of the files that hold the voxels of the file at `path`, in its folder; none if it holds
        them."""

    def read_header(self, path: Path, multichannel: bool = False) -> Header:
        """Reads the header at `path`; raises DataError for a damaged, empty or too large file, one not 3D (or 4D, if
        `multichannel`) or without a grid."""

    def read_voxels(self, header: Header, kind: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
        """Returns all voxels `[H, W, D, C]` of the file of `header` in its axis order, scaled, as numbers of a kind."""


READERS: Mapping[str, Reader] = {
    **dict.fromkeys(nibabel_files.SUFFIXES, nibabel_files),
    **dict.fromkeys(itk.SUFFIXES, itk),
    **dict.fromkeys(nibabel_files.MGH, nibabel_files),
}
SUFFIXES = tuple(READERS)


def reader_of(path: Path | str) -> Reader:
    """Returns the reader of the file at `path` by its name; raises DataError for another format."""
    if (name := Path(path).name).endswith(SUFFIXES):
        return READERS[name.removeprefix(stem(name))]
    suffix = Path(name).suffix.lower()
    usual = "convert the file" if suffix else "of a DICOM series give the folder, on this machine"
    convert = OTHER_FORMATS.get(suffix, usual)
    raise DataError(f"{path}: expected a name that ends in {', '.join(SUFFIXES)}, got {name!r}: {convert}")


def stem(path: str) -> str:
    """Returns the file name of `path` without folder and without the ending of its format."""
    name = path.rsplit("/", 1)[-1]
    return name.removesuffix(next((suffix for suffix in SUFFIXES if name.endswith(suffix)), ""))


def fetch(path: str) -> Path:
    """Returns a local copy of the image file at `path` (or a URI), with the files of its voxels beside it; see
    `storage.fetch`."""
    local = storage.fetch(path)
    parts = () if storage.is_local(path) else reader_of(path).parts(local)
    if not parts:
        return local
    folder, _, name = path.rpartition("/")
    return storage.fetch_together(folder, (name, *parts)) / name


def sha256s(path: str) -> list[str]:
    """Returns the SHA-256 (hex) of the image file at `path` (or a URI), and of each file of its voxels."""
    if path.endswith((".nii", ".gz")):
        return [storage.sha256(path)]  # without fetching it
    local = fetch(path)
    return [storage.sha256(str(local.parent / name)) for name in (local.name, *reader_of(path).parts(local))]


def read_header(path: Path, multichannel: bool = False) -> Header:
    """Reads and checks the header at `path`, of several channels only if `multichannel`; see `Reader.read_header`."""
    return _whole(path).read_header(path, multichannel)


def check_length(path: Path) -> None:
    """Raises DataError for a truncated file at `path`: by its length, or by its voxels if that does not tell."""
    header = read_header(path, multichannel=True)
    check_place(header)
    place = header.place
    is_told = header.place.packing == "" or header.place.num_packed > 0
    if place.packing == "gzip":
        with refusal(damage(path, header.num_voxels)), place.file.open("rb") as stream:
            stream.seek(-4, 2)  # gzip ends with the unpacked length, modulo 2^32 (RFC 1952)
            is_told = int.from_bytes(stream.read(), "little") == header.num_bytes % 2**32
    if not is_told:
        _voxels(header)


def _whole(path: Path) -> Reader:
    """Returns the reader of a file; raises DataError for what is no image, and if a file of its voxels is missing."""
    reader = reader_of(path)
    if not path.is_file():
        got = "a folder" if path.is_dir() else "something else" if path.exists() else "nothing"
        raise DataError(f"{path}: expected a file, got {got}: give the path of an image")
    # By its first bytes, what stands for an image elsewhere, or is packed otherwise than its name says.
    with refusal(f"{path}: expected a file that can be read, got one that cannot"), path.open("rb") as stream:
        begin = stream.read(BEGIN)
    says_packed = path.name.endswith(nibabel_files.PACKED)
    is_packed = begin.startswith(GZIP)
    if is_packed and not says_packed:
        raise DataError(f"{path}: packed by gzip, which its name does not say: rename it to {path.name}.gz")
    if says_packed and begin.startswith(NIFTI):
        plain = f"{stem(path.name)}.nii"
        raise DataError(f"{path}: not packed by gzip, though its name ends in {path.suffix}: rename it to {plain}")
    if is_packed:
        packed = begin
        begin = b""
        with suppress(zlib.error):  # the reader says what is wrong
            begin = zlib.decompressobj(itk.ZLIB_OR_GZIP).decompress(packed, BEGIN)
    begin = begin.lstrip(BLANK).lower()
    what = next((words for start, words in STRANGERS.items() if begin.startswith(start)), None)
    if what is not None and not (begin.startswith(NRRD) and path.suffix in itk.NRRD):
        raise DataError(f"{path}: {what}")
    for name in reader.parts(path):
        if not (path.parent / name).is_file():
            raise DataError(f"{path}: expected its voxels in {name} beside it, found no file: add it")
    return reader


def stack(headers: Sequence[Header]) -> Header:
    """Returns one header for an image with one file per channel by their `headers`, all on the grid of the first."""
    first, *further = headers
    for header in further:
        header.check_same_grid(first, "channel")
    return replace(first, further=tuple(further))


def read_image(header: Header) -> npt.NDArray[np.float32]:
    """Returns voxels `[C, H, W, D]` of the files of `header` in their axis order and unit; refuses damaged or infinite
    ones, constant channels."""
    if header.further:
        return np.concatenate([read_image(part) for part in (replace(header, further=()), *header.further)])
    voxels = read_channels(header)
    if bad := int(voxels.size - np.count_nonzero(np.isfinite(voxels))):
        raise DataError(f"{header.path}: expected finite intensities, got {bad} NaN or infinite: fix or drop the case")
    for index, channel in enumerate(voxels):
        if channel.min() == channel.max():
            where = f" in channel {index}" if len(voxels) > 1 else ""
            got = f"got the same intensity {channel.flat[0]:g} everywhere{where}: drop the case"
            raise DataError(f"{header.path}: expected an image, {got}")
    return voxels


def read_channels(header: Header) -> npt.NDArray[np.float32]:
    """Returns the numbers `[C, H, W, D]` of the one file of `header` in its axis order, whatever they are."""
    return np.moveaxis(_voxels(header), -1, 0)


def read_integers(header: Header, least: int = 0) -> npt.NDArray[np.integer[Any]]:
    """Returns the labels `[H, W, D]` of the map of `header`, in its axis order; numbers off by ROUNDED at most become
    whole ones.
    Raises DataError unless all are whole, from `least` on, and no segment lies over another."""
    return merge_layers(header, least, lambda labels: labels)


def merge_layers(
    header: Header, least: int, classes_of: Callable[[npt.NDArray[Any]], npt.NDArray[Any]], are_codes: bool = False
) -> npt.NDArray[Any]:
    """Returns the classes `[H, W, D]` of a label map; raises DataError where classes overlap.

    Args:
        header: the map's.
        least: lowest label that is allowed.
        classes_of: turns the labels of one layer into classes, both `[H, W, D]`.
        are_codes: whether they are codes of regions, which are joined where they overlap.
    """
    whole, *others = map(classes_of, _layers(header, least))
    for classes in others:
        if (clash := (whole != 0) & (classes != 0) & (whole != classes)).any() and not are_codes:
            first = tuple(map(int, np.argwhere(clash)[0]))
            names = [repr(header.segments[int(n[first])]) for n in _layers(header, least) if n[first]]
            advice = "give them one class, state `regions`, or separate them"
            got = f"got {' and '.join(names)} at voxel {first} ({np.count_nonzero(clash)} such voxels): {advice}"
            raise DataError(f"{header.path}: expected segments that do not overlap, {got}")
        whole = whole | classes if are_codes else np.where(whole == 0, classes, whole)
    return whole


def _layers(header: Header, least: int) -> Iterator[npt.NDArray[np.integer[Any]]]:
    """Yields the label values `[H, W, D]` of one layer after another; see `read_integers`."""
    voxels = _voxels(header, header.stored if header.is_integer else np.float64)
    for layer, stands_for in enumerate(header.layers or [{}]):
        stored = voxels[..., layer]
        with np.errstate(invalid="ignore"):
            labels = stored if header.is_integer else np.rint(stored)
            is_wrong = ~(np.isfinite(stored) & (np.abs(stored - labels) <= ROUNDED) & (labels >= least))
            labels = labels if header.is_integer else labels.astype(np.int64)
        if is_wrong.any():
            first = tuple(map(int, np.argwhere(is_wrong)[0]))
            advice = "give the label map, not an image or probabilities"
            got = f"got {stored[first]:g} at voxel {first} ({np.count_nonzero(is_wrong)} such voxels): {advice}"
            raise DataError(f"{header.path}: expected integers from {least} as labels, {got}")
        if header.layers:
            values = np.unique(labels)
            if strange := sorted({*values.tolist()} - {0, *stands_for}):
                raise DataError(f"{header.path}: expected segments' values in layer {layer}, got {strange[0]}: save it")
            labels = np.array([stands_for.get(value, 0) for value in values.tolist()])[np.searchsorted(values, labels)]
        yield labels


def rounding(header: Header) -> str | None:
    """Returns a line on the label map of `header` if its numbers are not whole, but are read as such; None if all are
    whole."""
    if header.is_integer:
        return None
    voxels = _voxels(header, np.float64)
    most = float(np.abs(voxels - np.rint(voxels)).max())
    if not 0 < most <= ROUNDED:
        return None
    return f"{header.path}: labels are up to {most:.2g} away from whole numbers, and are rounded to them"


def _voxels(header: Header, kind: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
    if isinstance(header, dicom.series.Series):
        return dicom.series.read_voxels(header)
    if header.turned is not None:
        from nibabel.orientations import apply_orientation

        return apply_orientation(_voxels(header.turned[0], kind), header.turned[1])
    check_place(header)
    with refusal(damage(header.path, header.num_voxels)):
        return reader_of(header.path).read_voxels(header, kind)
