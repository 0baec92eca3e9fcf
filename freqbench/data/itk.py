"""Reads NRRD, MetaImage and GIPL files by SimpleITK; what it does not check is checked here, without voxels.

SimpleITK reads compressed voxels without their checksums, takes any file that a header names, and ignores units.
"""

import math
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from freqbench.core.errors import DataError, one_line
from freqbench.core.limits import whole
from freqbench.core.types import triple
from freqbench.data.headers import (
    MAX_BYTES,
    MOST_PACKED,
    Header,
    check_invertible,
    check_room,
    check_sides,
    checked_shape,
    shown,
    spacing_of,
)

NRRD, META = (".nrrd", ".nhdr"), (".mha", ".mhd")
SUFFIXES = (*NRRD, *META, ".gipl.gz", ".gipl")
READERS = {**dict.fromkeys(NRRD, "NrrdImageIO"), **dict.fromkeys(META, "MetaImageIO")}  # all others are GIPL

LONGEST_HEADER = 2**22  # bytes of a text header: segmentations list their segments in it
GIPL_HEADER = 256  # bytes
ZLIB_OR_GZIP = 47  # zlib's number for streams of either kind
PACKED_SIZE = "compresseddatasize"
PACKINGS = {"gz": "gzip", "txt": "text", "ascii": "text", "hex": "text"}
FORMATS = {**dict.fromkeys(NRRD, "a NRRD file"), **dict.fromkeys(META, "a MetaImage file")}

# Millimetres of the units that headers state.
UNITS = {
    **dict.fromkeys(("", "?", "mm", "millimeter", "millimeters", "millimetre", "millimetres"), 1.0),
    **dict.fromkeys(("um", "µm", "μm", "micron", "microns", "micrometer", "micrometers"), 1e-3),
    **{"cm": 10.0, "m": 1e3},
}

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
NO_DIRECTIONS = (
    "the header names no anatomical directions: its axes of space are taken as towards left, posterior and superior, "
    "as SimpleITK does"
)
NAMED_SPACES = ("lps", "ras", "las", "left-posterior-superior", "right-anterior-superior", "left-anterior-superior")


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """Layout of a file by its header: fields of a text header by their names in lower case, and the place of voxels."""

    fields: Mapping[str, str]
    data: str | None = None  # name of the file of the voxels, in the header's folder; None: they follow the header
    start: int = 0  # first byte of the voxels in their file, packed or not
    unpacked_start: int = 0  # first byte of the voxels once they are unpacked
    packing: str  # of the voxels: raw, gzip, zlib, text, or another, which is not checked
    states_sides: bool = True  # of the voxels
    states_axes: bool = False  # their directions

    def file(self, path: Path) -> Path:
        """Returns the file of the voxels."""
        return path if self.data is None else path.parent / self.data


def parts(path: Path) -> tuple[str, ...]:
    """Returns the name of the file with the voxels, in the folder of the header; none if they follow the header."""
    return tuple(filter(None, [_layout(path).data]))


def read_header(path: Path, multichannel: bool = False) -> Header:
    """Reads and checks a header; see `image_files.Reader.read_header`."""
    layout = _layout(path)
    reader = _opened(path)
    size, count = tuple(map(int, reader.GetSize())), int(reader.GetNumberOfComponents())
    if count > 1 and len(size) > 3:
        raise DataError(f"{path}: expected one number a voxel along {len(size)} axes, got {count}: split the file")
    shape = checked_shape(path, (*size, *([count] if count > 1 else [])), multichannel)
    affine = _affine(path, reader, layout)
    spacing = spacing_of(affine)
    return Header(
        path=path,
        shape=triple(shape[:3]),
        affine=affine,
        spacing=spacing,
        stated=triple(reader.GetSpacing()[:3]) if len(reader.GetSpacing()) > 2 else None,
        fourth=math.prod(shape[3:]),
        stored=_stored(path, reader).name,
        unfilled="" if layout.states_sides or spacing != (1.0, 1.0, 1.0) else "fields for them",
        guess="" if layout.states_axes else NO_DIRECTIONS,
        segments=_segments(path, layout.fields),
    )


def check_length(path: Path) -> None:
    """Raises DataError for a truncated file, by its length, or reads it to the end if the length does not tell."""
    header, layout = read_header(path, multichannel=True), _layout(path)
    _check_data(header, layout)
    if layout.packing not in ("raw", "gzip") and PACKED_SIZE not in layout.fields:
        read_voxels(header)


def read_voxels(header: Header, kind: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
    """Returns all voxels `[H, W, D, C]`; reads compressed ones to their checksum."""
    import SimpleITK

    layout = _layout(header.path)
    _check_data(header, layout)
    try:
        _read_to_checksum(layout.file(header.path), layout)
        with unwarned():
            image = _opened(header.path).Execute()
    except (RuntimeError, OSError, EOFError, zlib.error) as error:
        raise _damaged(header, _reason(error)) from None
    voxels = SimpleITK.GetArrayViewFromImage(image)  # [z, y, x], or [c, z, y, x], or [z, y, x, c]
    if image.GetNumberOfComponentsPerPixel() > 1:
        voxels = np.moveaxis(voxels, -1, 0)
    scaled: npt.NDArray[Any] = voxels.astype(kind)
    return scaled.T.reshape(*header.shape, header.fourth)


def _damaged(header: Header, reason: str) -> DataError:
    return DataError(
        f"{header.path}: expected {math.prod(header.shape) * header.fourth} voxels, got damaged or truncated data: "
        f"{reason}: fetch the file again"
    )


def _reason(error: Exception) -> str:
    """Returns the last part of an error, which is SimpleITK's reason, in one line without final punctuation."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return one_line(lines[-1] if lines else type(error).__name__)[-200:].rstrip(".:")


def _opened(path: Path) -> Any:
    """Returns SimpleITK's reader of a file, which has read the header."""
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO(READERS.get(path.suffix, "GiplImageIO"))
    reader.SetFileName(str(path))
    try:
        with unwarned():
            reader.ReadImageInformation()
    except RuntimeError as error:
        raise DataError(
            f"{path}: expected {FORMATS.get(path.suffix, 'a GIPL file')}, got an unreadable header: {_reason(error)}"
        ) from None
    return reader


@contextmanager
def unwarned() -> Iterator[None]:
    """Stops SimpleITK from writing warnings, which name no file: faults that matter are refused here."""
    import SimpleITK

    before = SimpleITK.ProcessObject.GetGlobalWarningDisplay()
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        SimpleITK.ProcessObject.SetGlobalWarningDisplay(before)


def _stored(path: Path, reader: Any) -> np.dtype[Any]:
    """Returns the type of a file's numbers; refuses complex and others."""
    import SimpleITK

    kind = str(SimpleITK.GetPixelIDValueAsString(reader.GetPixelID())).removeprefix("vector of ")
    match = re.fullmatch(r"([0-9]+)-bit (?:float|(?P<sign>un)?signed integer)", kind)
    if not match:
        raise DataError(f"{path}: expected real numbers, got {kind}: store one number a voxel")
    name = "float" if "float" in kind else f"{'u' * bool(match['sign'])}int"
    return np.dtype(f"{name}{match[1]}")


def _affine(path: Path, reader: Any, layout: _Layout) -> npt.NDArray[np.float64]:
    """Returns voxel to world millimetres in RAS+, of SimpleITK's LPS+."""
    size = len(reader.GetSize())
    turn = np.reshape(reader.GetDirection(), (size, size))
    if size < 3:
        raise DataError(f"{path}: expected a 3D volume, got shape {reader.GetSize()}: stack the slices into one file")
    if size > 3 and (turn[:3, 3:].any() or turn[3:, :3].any()):
        raise DataError(f"{path}: expected three axes of space, got a fourth that leads along them: split the file")
    affine = np.eye(4)
    affine[:3, :3] = LPS_TO_RAS @ turn[:3, :3] * reader.GetSpacing()[:3]
    affine[:3, 3] = LPS_TO_RAS @ reader.GetOrigin()[:3]
    check_invertible(path, affine)
    unit = _unit(layout.fields)
    length = UNITS.get(unit)
    if length is None:
        raise DataError(f"{path}: expected a unit of length such as mm, got {unit!r:.40}: fix the header")
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    check_sides(path, sides * length, f"{shown(sides)} and {unit or 'no unit'}", "space units or DistanceUnits")
    affine[:3] *= length
    return affine + 0.0  # no -0


def _segments(path: Path, fields: Mapping[str, str]) -> dict[int, str]:
    """Returns the names of a segmentation's values, as 3D Slicer writes them; raises DataError for several layers."""
    names = {match[1]: name for key, name in fields.items() if (match := re.fullmatch(r"segment(\d+)_name", key))}
    if any(fields.get(f"segment{number}_layer", "0") != "0" for number in names):
        raise DataError(
            f"{path}: expected segments in one layer, got several, which may overlap: collapse them into one (3D "
            "Slicer: Segmentations, Binary labelmap, Collapse labelmap layers)"
        )
    values = {number: whole(fields.get(f"segment{number}_labelvalue", "")) for number in names}
    return {value: names[number] for number, value in values.items() if value}


def _unit(fields: Mapping[str, str]) -> str:
    """Returns the unit of length that a header states; empty if it states none."""
    stated = fields.get("space units") or fields.get("units") or fields.get("distanceunits", "")
    units = re.findall(r'"([^"]*)"', stated) if '"' in stated else stated.split()
    return " ".join(dict.fromkeys(unit for unit in units[:3] if unit)).lower()


def _layout(path: Path) -> _Layout:
    """Reads a text header, or what a name tells; raises DataError for a header that is damaged or leads elsewhere."""
    try:
        with path.open("rb") as stream:
            if path.suffix in NRRD:
                return _nrrd(path, stream)
            if path.suffix in META:
                return _meta(path, stream)
    except PermissionError as error:
        raise DataError(f"{path}: expected a file that may be read, got {error.strerror}: check permissions") from None
    if path.suffix == ".gz":
        return _Layout(fields={}, unpacked_start=GIPL_HEADER, packing="gzip")
    if path.stat().st_size < GIPL_HEADER:
        raise DataError(f"{path}: expected a GIPL file, got fewer bytes than its header has: fetch the file again")
    return _Layout(fields={}, start=GIPL_HEADER, packing="raw")


def _lines(stream: IO[bytes]) -> Iterator[str]:
    """Yields the lines of a header, without their ends."""
    while stream.tell() < LONGEST_HEADER and (line := stream.readline(LONGEST_HEADER)):
        yield line.decode(errors="replace").rstrip("\r\n")


def _nrrd(path: Path, stream: IO[bytes]) -> _Layout:
    fields, lines = dict[str, str](), _lines(stream)
    if not next(lines, "").startswith("NRRD"):
        raise DataError(f"{path}: expected a NRRD file, got another or none: fetch the file again")
    for line in lines:
        if not line:
            break
        name, is_field, value = line.partition(":=" if ":=" in line else ": ")
        if is_field and not line.startswith("#"):
            fields[name.strip().lower()] = value.strip()
    data = _beside(path, fields.get("data file", fields.get("datafile")))
    encoding = fields.get("encoding", "").lower()
    skips = any(fields.get(name, "0") != "0" for name in ("line skip", "lineskip", "byte skip", "byteskip"))
    if skips and encoding != "raw":
        raise DataError(f"{path}: expected no line skip and byte skip, got them with {encoding!r:.40}: store it anew")
    return _Layout(
        fields=fields,
        data=data,
        start=0 if data or skips else stream.tell(),
        packing=PACKINGS.get(encoding, encoding),
        states_sides=bool({"space directions", "spacings"} & fields.keys()),
        states_axes="space directions" in fields and fields.get("space", "").lower() in NAMED_SPACES,
    )


def _meta(path: Path, stream: IO[bytes]) -> _Layout:
    fields = dict[str, str]()
    for line in _lines(stream):
        name, is_field, value = line.partition("=")
        if not is_field:
            break
        fields[name.strip().lower()] = value.strip()
        if name.strip().lower() == "elementdatafile":
            break
    lacking = [name for name in ("NDims", "DimSize", "ElementType", "ElementDataFile") if name.lower() not in fields]
    if lacking or fields["ndims"] not in ("2", "3", "4"):
        got = f"no {lacking[0]}" if lacking else f"NDims {fields['ndims']!r:.40}"
        raise DataError(f"{path}: expected a MetaImage file with NDims of 2 to 4, got {got}: fetch the file again")
    file = fields["elementdatafile"]
    data = None if file.upper() == "LOCAL" else _beside(path, file)
    is_packed = fields.get("compresseddata", "").lower().startswith("t")
    is_text = fields.get("binarydata", "true").lower().startswith("f")
    return _Layout(
        fields=fields,
        data=data,
        start=stream.tell() if data is None else whole(fields.get("headersize", "0")) or 0,
        packing="zlib" if is_packed else "text" if is_text else "raw",
        states_sides=bool({"elementspacing", "elementsize"} & fields.keys()),
        states_axes=bool({"transformmatrix", "rotation", "orientation"} & fields.keys()),
    )


def _beside(path: Path, name: str | None) -> str | None:
    """Returns the name of a data file that a header gives, if it leads to a file of the header's folder."""
    if name is None:
        return None
    if name.upper().startswith("LIST") or "%" in name:
        raise DataError(
            f"{path}: expected its voxels in one file, got a list of files, {name!r:.200}: store them in one"
        )
    steps = PurePosixPath(name).parts
    if not steps or steps[0] == "/" or ".." in steps or set("\\:") & set(name) or not name.isprintable():
        raise DataError(
            f"{path}: expected its voxels in a file of its own folder, got {name!r:.200}: put the file beside the "
            "header, and its name into it"
        )
    return str(PurePosixPath(name))


def _check_data(header: Header, layout: _Layout) -> None:
    """Refuses, before memory is allocated, a file that cannot hold the voxels that its header states."""
    file, count = layout.file(header.path), math.prod(header.shape) * header.fourth
    num_bytes = count * np.dtype(header.stored).itemsize
    room = file.stat().st_size - layout.start
    if layout.packing == "text":
        check_room(header.path, count, count, room)  # a digit and a space a voxel
    else:
        check_room(header.path, count, num_bytes, room if layout.packing == "raw" else room * MOST_PACKED)
    if room < (whole(layout.fields.get(PACKED_SIZE, "0")) or 0):
        raise _damaged(header, f"{room} bytes of {layout.fields[PACKED_SIZE]}")
    if layout.packing == "gzip" and room > 4:
        with file.open("rb") as stream:
            stream.seek(-4, 2)  # gzip ends with the unpacked length, modulo 2^32 (RFC 1952)
            if int.from_bytes(stream.read(), "little") != (layout.unpacked_start + num_bytes) % 2**32:
                raise _damaged(header, "its end states another length")


def _read_to_checksum(file: Path, layout: _Layout) -> None:
    """Unpacks compressed voxels once more, as SimpleITK does not look at their checksum."""
    if layout.packing not in ("gzip", "zlib"):
        return
    with file.open("rb") as stream:
        stream.seek(layout.start)
        unpacker, left = zlib.decompressobj(ZLIB_OR_GZIP), MAX_BYTES
        while not unpacker.eof and left > 0:
            piece = stream.read(2**20)
            if not piece:
                raise EOFError("its compressed voxels have no end")
            left -= len(unpacker.decompress(piece))
