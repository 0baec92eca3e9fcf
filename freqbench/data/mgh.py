"""Reads FreeSurfer's MGH files: a header of 284 bytes, then big-endian voxels, packed by gzip as `.mgz`."""

import gzip
import io
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from freqbench.core.errors import DataError, one_line
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

PACKED = ".mgz"
SUFFIXES = (PACKED, ".mgh")

# Version, lengths of three axes and frames, type, degrees of freedom, if the grid is stated, sides of a voxel, the
# directions of the axes one by one, and the place of the centre (FreeSurfer's wiki, FsTutorial/MghFormat).
FIELDS = struct.Struct(">7ih3f9f3f")
HEADER = 284  # bytes, most of them unused
TYPES = {0: "uint8", 1: "int32", 3: "float32", 4: "int16", 10: "uint16"}


def parts(path: Path) -> tuple[str, ...]:
    """Returns no name, as voxels follow the header."""
    return ()


def read_header(path: Path, multichannel: bool = False) -> Header:
    """Reads and checks a header; see `image_files.Reader.read_header`."""
    try:
        with _opened(path) as stream:
            content = FIELDS.unpack(stream.read(HEADER)[: FIELDS.size])
    except PermissionError as error:
        raise DataError(f"{path}: expected a file that may be read, got {error.strerror}: check permissions") from None
    except (OSError, EOFError, struct.error, zlib.error) as error:
        raise DataError(f"{path}: expected an MGH file, got an unreadable header: {_reason(error)}") from None
    version, *lengths, kind, _, states_grid = content[:8]
    if version != 1 or kind not in TYPES:
        raise DataError(
            f"{path}: expected an MGH file of version 1 with real numbers, got version {version} and type {kind}: "
            "convert it by mri_convert"
        )
    if not states_grid:
        raise DataError(
            f"{path}: expected a header that states the directions of its axes, got goodRASFlag 0: fix it, such as by "
            "mri_convert with -iid, -ijd, -ikd"
        )
    shape = checked_shape(path, tuple(lengths), multichannel)
    sides, turn, centre = (np.array(content[part]) for part in (slice(8, 11), slice(11, 20), slice(20, 23)))
    affine = np.eye(4)
    affine[:3, :3] = turn.reshape(3, 3).T * sides
    affine[:3, 3] = centre - affine[:3, :3] @ np.array(shape[:3]) / 2
    check_invertible(path, affine)
    spacing = spacing_of(affine)
    check_sides(path, np.array(spacing), f"{shown(spacing)} mm", "MGH has millimetres")
    return Header(
        path=path,
        shape=triple(shape[:3]),
        affine=affine,
        spacing=spacing,
        fourth=math.prod(shape[3:]),
        stored=TYPES[kind],
    )


def check_length(path: Path) -> None:
    """Raises DataError for a truncated file; reads a packed one to its end, as fields of any length follow voxels."""
    header = read_header(path, multichannel=True)
    if path.suffix == PACKED:
        read_voxels(header)
    else:
        _check_room(header)


def read_voxels(header: Header, kind: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
    """Returns all voxels `[H, W, D, C]`; reads to gzip's checksum at the end."""
    shape = (*header.shape, header.fourth)
    num_bytes = _check_room(header)
    try:
        with _opened(header.path) as stream:
            stream.seek(HEADER)
            content = stream.read(num_bytes)
            for _ in range(MAX_BYTES // 2**20):
                if not stream.read(2**20):
                    break
        voxels = np.frombuffer(content, np.dtype(header.stored).newbyteorder(">")).reshape(shape, order="F")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(
            f"{header.path}: expected {math.prod(shape)} voxels, got damaged or truncated data: {_reason(error)}: "
            "fetch the file again"
        ) from None
    return voxels.astype(kind)


def _opened(path: Path) -> gzip.GzipFile | io.BufferedReader:
    return gzip.open(path, "rb") if path.suffix == PACKED else path.open("rb")


def _check_room(header: Header) -> int:
    """Returns the bytes of the voxels; refuses a file that cannot hold them, before memory is allocated."""
    count = math.prod(header.shape) * header.fourth
    num_bytes, size = count * np.dtype(header.stored).itemsize, header.path.stat().st_size
    check_room(header.path, count, num_bytes, size * MOST_PACKED if header.path.suffix == PACKED else size - HEADER)
    return num_bytes


def _reason(error: Exception) -> str:
    """Returns an error's text in one line, without its final punctuation."""
    return one_line(error).rstrip(".:")
