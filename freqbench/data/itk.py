"""Reads NRRD, MetaImage and GIPL files by SimpleITK, after checks that it leaves out: checksums, named files, units."""

import gzip
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from freqbench.core.errors import DataError
from freqbench.core.limits import whole
from freqbench.core.types import triple
from freqbench.data.headers import MAX_BYTES, NO_DIRECTIONS, Header, VoxelPlace, header_of, place_behind, refusal

NRRD = (".nrrd", ".nhdr")
META = (".mha", ".mhd")
GIPL = ("GiplImageIO", "a GIPL")
SUFFIXES = (*NRRD, *META, ".gipl.gz", ".gipl")
# SimpleITK's reader of each format, and its name; all others are GIPL.
FORMATS = {**dict.fromkeys(NRRD, ("NrrdImageIO", "a NRRD")), **dict.fromkeys(META, ("MetaImageIO", "a MetaImage"))}
SEGMENT = re.compile(r"segment(\d+)_name")
LONGEST_HEADER = 2**22  # bytes of a text header: segmentations list their segments in it
GIPL_HEADER = 256  # bytes
ZLIB_OR_GZIP = 47  # zlib's number for streams of either kind
PACKINGS = {"raw": "", "gz": "gzip", "txt": "text", "ascii": "text", "hex": "text"}
UNITS = {  # millimetres of the units that headers state
    **dict.fromkeys(("", "?", "mm", "millimeter", "millimeters", "millimetre", "millimetres"), 1.0),
    **dict.fromkeys(("um", "µm", "μm", "micron", "microns", "micrometer", "micrometers"), 1e-3),
    **{"cm": 10.0, "m": 1e3},
}
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
NAMED_SPACES = ("lps", "ras", "las", "left-posterior-superior", "right-anterior-superior", "left-anterior-superior")


def parts(path: Path) -> tuple[str, ...]:
    """Returns the name of the file with the voxels, in the folder of the header at `path`; none if they follow it."""
    file = _layout(path)[1].file
    return () if file == path else (str(file.relative_to(path.parent)),)


def read_header(path: Path, multichannel: bool = False) -> Header:
    """Reads and checks the header at `path`, of several channels only if `multichannel`; see
    `image_files.Reader.read_header`."""
    import SimpleITK

    fields, place = _layout(path)
    reader = _open_reader(path)
    size = reader.GetSize()
    count = int(reader.GetNumberOfComponents())
    if count > 1 and len(size) > 3:
        raise DataError(f"{path}: expected one number a voxel along {len(size)} axes, got {count}: split the file")
    size = (*size, count) if count > 1 else size
    with _refusal(path):
        kind = SimpleITK.GetArrayViewFromImage(SimpleITK.Image([1, 1, 1], reader.GetPixelID())).dtype
    segments, layers = _segments(path, fields, count)
    axes = fields.keys() & {"space directions", "transformmatrix", "rotation", "orientation"}
    if path.suffix in NRRD and fields.get("space", "").lower() not in NAMED_SPACES:
        axes = set()
    sides = fields.keys() & {"space directions", "spacings", "elementspacing", "elementsize"}
    affine, unit = _grid(path, reader, fields)
    guess = f"{NO_DIRECTIONS}left, posterior and superior, as SimpleITK does"
    stated = triple(reader.GetSpacing()[:3])
    return header_of(
        path,
        size,
        kind,
        affine,
        unit,
        multichannel or bool(layers),
        unfilled="" if sides else "fields for them",
        guess="" if axes else guess,
        stated=stated,
        segments=segments,
        layers=layers,
        place=place,
    )


def read_voxels(header: Header, kind: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
    """Returns all voxels `[H, W, D, C]` of the file of `header` as numbers of a `kind`; reads compressed ones to their
    checksum."""
    import SimpleITK

    if header.place.packing in ("gzip", "zlib"):
        _unpack(header.place, header.num_bytes)
    with silence_warnings():
        image = _open_reader(header.path).Execute()
    voxels = SimpleITK.GetArrayViewFromImage(image)  # [z, y, x], or [c, z, y, x], or [z, y, x, c]
    if image.GetNumberOfComponentsPerPixel() > 1:
        voxels = np.moveaxis(voxels, -1, 0)
    return voxels.astype(kind).T.reshape(*header.shape, header.fourth)


def _unpack(place: VoxelPlace, num_bytes: int) -> None:
    """Unpacks compressed voxels once more, as SimpleITK does not look at their checksum."""
    unpacker = zlib.decompressobj(ZLIB_OR_GZIP)
    count = 0
    with place.file.open("rb") as stream:
        stream.seek(place.start)
        while not unpacker.eof and count <= MAX_BYTES:
            piece = unpacker.unconsumed_tail or stream.read(2**20)
            if not piece:
                raise EOFError("its compressed voxels have no end")
            count += len(unpacker.decompress(piece, 2**22))
    if count != num_bytes:
        raise EOFError(f"{count} bytes of {num_bytes}")


def _open_reader(path: Path) -> Any:
    """Returns SimpleITK's reader of a file, which has read the header."""
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO(FORMATS.get(path.suffix, GIPL)[0])
    reader.SetFileName(str(path))
    with _refusal(path), silence_warnings():
        reader.ReadImageInformation()
    return reader


def _refusal(path: Path) -> AbstractContextManager[None]:
    return refusal(f"{path}: expected {FORMATS.get(path.suffix, GIPL)[1]} file, got an unreadable header")


@contextmanager
def silence_warnings() -> Iterator[None]:
    """Stops SimpleITK from writing warnings, which name no file: faults that matter are refused here."""
    import SimpleITK

    before = SimpleITK.ProcessObject.GetGlobalWarningDisplay()
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        SimpleITK.ProcessObject.SetGlobalWarningDisplay(before)


def _grid(path: Path, reader: Any, fields: Mapping[str, str]) -> tuple[npt.NDArray[np.float64], tuple[str, float, str]]:
    """Returns voxel to world in RAS+, of SimpleITK's LPS+, and its unit; see `headers.header_of`."""
    size = len(reader.GetSize())
    turn = np.reshape(reader.GetDirection(), (size, size))
    if size < 3:
        raise DataError(f"{path}: expected a 3D volume, got shape {reader.GetSize()}: stack the slices into one file")
    if size > 3 and (turn[:3, 3:].any() or turn[3:, :3].any()):
        raise DataError(f"{path}: expected three axes of space, got a fourth that leads along them: split the file")
    stated = fields.get("space units") or fields.get("units") or fields.get("distanceunits", "")
    units = re.findall(r'"([^"]*)"', stated) if '"' in stated else stated.split()
    if (unit := " ".join(dict.fromkeys(unit for unit in units[:3] if unit)).lower()) not in UNITS:
        raise DataError(f"{path}: expected a unit of length such as mm, got {unit!r:.40}: fix the header")
    affine = np.eye(4)
    affine[:3, :3] = LPS_TO_RAS @ turn[:3, :3] * reader.GetSpacing()[:3]
    affine[:3, 3] = LPS_TO_RAS @ reader.GetOrigin()[:3]
    return affine, (unit or "no unit", UNITS[unit], "space units or DistanceUnits")


def _segments(path: Path, fields: Mapping[str, str], count: int) -> tuple[dict[int, str], tuple[dict[int, int], ...]]:
    """Returns the names of a segmentation's values, numbered anew unless they are unique, and its layers."""
    found = [match[1] for key in fields if (match := SEGMENT.fullmatch(key))]
    layers: list[dict[int, int]] = [{}] * count
    labels = {number: whole(fields.get(f"segment{number}_labelvalue", "")) for number in sorted(found, key=int)}
    stored = {number: value for number, value in labels.items() if value}
    is_unique = count == 1 or len({*stored.values()}) == len(stored)
    values = stored if is_unique else {number: place for place, number in enumerate(stored, 1)}
    for number, value in values.items():
        layer = fields.get(f"segment{number}_layer", "0")
        name = fields[f"segment{number}_name"]
        if (index := whole(layer)) is None or index >= count:
            got = f"got {layer!r:.40} for {name!r}: save it anew"
            raise DataError(f"{path}: expected segments in layers 0 to {count - 1}, as the file has {count}, {got}")
        layers[index] = layers[index] | {stored[number]: value}
    names = {value: fields[f"segment{number}_name"] for number, value in values.items()}
    return names, tuple(layers) if names and count > 1 else ()


def _layout(path: Path) -> tuple[dict[str, str], VoxelPlace]:
    """Returns the fields of a text header by their names in lower case, and the place of the voxels by them."""
    fields: dict[str, str] = {}
    is_meta = path.suffix in META
    with _refusal(path), gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
        if path.suffix not in FORMATS:
            if len(stream.read(GIPL_HEADER)) < GIPL_HEADER:
                raise EOFError("it is shorter than one")
            return fields, place_behind(GIPL_HEADER, path, path.suffix == ".gz")
        while stream.tell() < LONGEST_HEADER and not (is_meta and "elementdatafile" in fields):
            line = stream.readline(LONGEST_HEADER).decode(errors="replace").rstrip("\r\n")
            name, is_field, value = line.partition("=" if is_meta else ":=" if ":=" in line else ": ")
            if not line or (is_meta and not is_field):
                break
            if is_field and not line.startswith("#"):
                fields[name.strip().lower()] = value.strip()
        end = stream.tell()
    return fields, (_meta if is_meta else _nrrd)(path, fields, end)


def _nrrd(path: Path, fields: Mapping[str, str], end: int) -> VoxelPlace:
    file = _file_of(path, fields.get("data file", fields.get("datafile")))
    encoding = fields.get("encoding", "").lower()
    packing = PACKINGS.get(encoding, encoding)
    skips = any(fields.get(name, "0") != "0" for name in ("line skip", "lineskip", "byte skip", "byteskip"))
    if skips and packing:
        raise DataError(f"{path}: expected no line skip and byte skip, got them with {encoding!r:.40}: store it anew")
    return VoxelPlace(file=file, start=0 if skips or file != path else end, packing=packing)


def _meta(path: Path, fields: Mapping[str, str], end: int) -> VoxelPlace:
    lacking = [name for name in ("NDims", "DimSize", "ElementType", "ElementDataFile") if name.lower() not in fields]
    if lacking or fields["ndims"] not in ("2", "3", "4"):
        got = f"no {lacking[0]}" if lacking else f"NDims {fields['ndims']!r:.40}"
        raise DataError(f"{path}: expected a MetaImage file with NDims of 2 to 4, got {got}: fetch the file again")
    name = fields["elementdatafile"]
    file = _file_of(path, None if name.upper() == "LOCAL" else name)
    packing = ""
    if fields.get("binarydata", "true").lower().startswith("f"):
        packing = "text"
    if fields.get("compresseddata", "").lower().startswith("t"):
        packing = "zlib"
    return VoxelPlace(
        file=file,
        start=end if file == path else whole(fields.get("headersize", "0")) or 0,
        packing=packing,
        num_packed=whole(fields.get("compresseddatasize", "0")) or 0,
    )


def _file_of(path: Path, name: str | None) -> Path:
    """Returns the file of the voxels that a header names, if it is one of the header's folder; its own for None."""
    if name is None:
        return path
    if name.upper().startswith("LIST") or "%" in name:
        raise DataError(f"{path}: expected its voxels in one file, got a list, {name!r:.200}: store them in one")
    steps = PurePosixPath(name).parts
    if not steps or steps[0] == "/" or ".." in steps or set("\\:") & set(name) or not name.isprintable():
        advice = "put the file beside the header, and its name into it"
        raise DataError(f"{path}: expected its voxels in a file of its own folder, got {name!r:.200}: {advice}")
    return path.parent / name
