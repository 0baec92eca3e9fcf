"""Defines the header of an image file of any format, and the checks that all readers share."""

import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from freqbench.core.errors import DataError, UserError, one_line
from freqbench.core.types import Shape, Spacing, triple

# A volume of this size as float32 does not fit beside a network: a header that states more is damaged or hostile.
MAX_BYTES = 8 * 2**30
# Deflate packs no tighter (zlib's documentation): a file that states more than its bytes can hold is refused unread.
MOST_PACKED = 1032
# sides of a voxel, from microscopes to body scanners: any other has a wrong unit
SMALLEST_MM = 1e-4
LARGEST_MM = 100.0
NO_DIRECTIONS = "the header names no anatomical directions: its axes of space are taken as towards "
Faults = tuple[type[Exception], ...]
FAULTS = (OSError, EOFError, ValueError, ArithmeticError, LookupError, RuntimeError, zlib.error)  # of libraries


@dataclass(frozen=True, kw_only=True)
class VoxelPlace:
    """Place of voxels: their file, and how they lie in it."""

    file: Path = Path()
    start: int = 0  # first byte of them, packed or not
    before: int = 0  # bytes that are packed before them
    packing: str = ""  # gzip, zlib, text, or another, which is not checked; raw voxels have none
    num_packed: int = 0  # bytes of packed voxels, if the header states them


@dataclass(frozen=True, kw_only=True)
class Header:
    """Header of a volume; shape and spacing in the file's axis order."""

    path: Path
    shape: Shape
    spacing: Spacing  # sides of a voxel in millimetres
    affine: npt.NDArray[np.float64]  # voxel to world millimetres (RAS+), float64 [4, 4]
    stated: Spacing | None = None  # as the header writes them, to the last digit; None: by the affine alone
    fourth: int = 1  # channels in this file: length of its fourth axis, or numbers of a voxel
    further: tuple["Header", ...] = ()  # headers of the files with the other channels, one per channel
    stored: str = "float32"  # type of the file's numbers, as numpy calls it; that of scaled ones is float32
    unfilled: str = ""  # fields that are missing, if voxels are 1 x 1 x 1 as in a header that nobody filled
    guess: str = ""  # sentence on what the file does not state, and how it is read
    segments: Mapping[int, str] = field(default_factory=dict)  # names of values, where a file of segments states them
    layers: tuple[Mapping[int, int], ...] = ()  # of its segments, if several: what each value in a layer stands for
    place: VoxelPlace = VoxelPlace()
    itemsize: int = 4  # bytes of a number in the file
    turned: "tuple[Header, npt.NDArray[np.float64]] | None" = None  # the file's own, and how nibabel turns its axes

    @property
    def num_channels(self) -> int:
        """Channels of the image, over all its files."""
        return self.fourth + len(self.further)

    @property
    def num_voxels(self) -> int:
        """Numbers in this file."""
        return math.prod(self.shape) * self.fourth

    @property
    def num_bytes(self) -> int:
        """Bytes of the voxels once they are unpacked, with what is packed before them; of text, the least."""
        return self.place.before + self.num_voxels * (1 if self.place.packing == "text" else self.itemsize)

    @property
    def is_integer(self) -> bool:
        """True if the numbers are whole."""
        return np.dtype(self.stored).kind in "bui"

    def turn_to(self, image: "Header") -> "Header":
        """Returns the header with its axes as the image's; one axis mirrored alone stays, to be refused."""
        from nibabel.orientations import inv_ornt_aff, io_orientation

        turn = io_orientation(np.linalg.inv(image.affine) @ self.affine)
        if (turn[:, 0] == [0, 1, 2]).all() and (turn[:, 1] < 0).sum() < 2:
            return self
        affine = self.affine @ inv_ornt_aff(turn, self.shape)
        shape = triple([self.shape[axis] for axis in np.argsort(turn[:, 0])])
        spacing = spacing_of(affine)
        return replace(self, shape=shape, affine=affine, spacing=spacing, stated=None, turned=(self, turn))

    def check_same_grid(self, image: "Header", what: str = "label map") -> None:
        """Refuses another shape than the image's, but of a part with segments, and a corner half a voxel away; `what`
        it is stands in the error."""
        if self.shape != image.shape and self.segments and self.place_in(image):
            return
        if self.shape != image.shape:
            got = f"got {self.shape}: give the {what} of this image"
            raise DataError(f"{self.path}: expected the shape {image.shape} of {image.path.name}, {got}")
        last = [*(size - 1 for size in self.shape), 1]
        corners = np.array([(*corner, 1) for corner in product((0, 1), repeat=3)]) * last
        apart = float(np.abs(corners @ (self.affine - image.affine).T).max())
        if apart > min(image.spacing) / 2:
            got = f"got a grid up to {apart:.3g} mm away: resample the {what} onto its image"
            raise DataError(f"{self.path}: expected the orientation and origin of {image.path.name}, {got}")

    def place_in(self, image: "Header") -> tuple[slice, ...]:
        """Returns the voxels of the image that a part of its grid holds, all of a grid of its shape; () elsewhere."""
        if self.shape == image.shape:
            return (slice(None),) * 3
        way = np.linalg.inv(image.affine) @ self.affine
        start = np.rint(way[:3, 3]).astype(int)
        stop = start + self.shape
        is_shifted = np.allclose(way[:3, :3], np.eye(3), atol=1e-3) and np.allclose(way[:3, 3], start, atol=0.1)
        if not is_shifted or (start < 0).any() or (stop > image.shape).any():
            return ()
        return tuple(map(slice, start, stop))


def header_of(
    path: Path,
    shape: Sequence[int],
    kind: np.dtype[Any],
    affine: npt.NDArray[np.float64],
    unit: tuple[str, float, str],
    multichannel: bool,
    unfilled: str,
    **more: Any,
) -> Header:
    """Returns the header of a file in mm, once it is checked.

    Args:
        path: the file.
        shape: voxels an axis, `[H, W, D]`, and further axes.
        kind: type of the file's numbers.
        affine: voxel to world (RAS+) in `unit`, `[4, 4]`.
        unit: of the affine: its name, its millimetres, and the field that states it.
        multichannel: whether a fourth axis may have channels.
        unfilled: as in Header, if voxels are 1 x 1 x 1.
        more: further fields of Header.
    """
    sizes = checked_shape(path, tuple(map(int, shape)), multichannel)
    (name, length, field_of_unit) = unit
    grid = triple(sizes[:3])
    if kind.kind not in "buif":
        raise DataError(f"{path}: expected real numbers, got {kind}: store one number a voxel")
    check_invertible(path, affine)
    sides = np.array(spacing_of(affine))
    check_sides(path, sides * length, f"{spell(sides)} and {name}", field_of_unit)
    affine = np.vstack([affine[:3] * length, affine[3:]]) + 0.0  # no -0
    spacing = spacing_of(affine)
    return Header(
        path=path,
        shape=grid,
        spacing=spacing,
        affine=affine,
        fourth=math.prod(sizes[3:]),
        stored=kind.name,
        itemsize=kind.itemsize,
        unfilled=unfilled if spacing == (1.0, 1.0, 1.0) else "",
        **more,
    )


def place_behind(start: int, file: Path, is_packed: bool) -> VoxelPlace:
    """Returns the place of voxels behind the first `start` bytes of a file, which gzip may have packed as a whole
    (`is_packed`)."""
    return VoxelPlace(file=file, before=start, packing="gzip") if is_packed else VoxelPlace(file=file, start=start)


def spacing_of(affine: npt.NDArray[np.float64]) -> Spacing:
    """Returns the sides of a voxel in the unit of its `affine`, `[4, 4]`."""
    return triple(np.linalg.norm(affine[:3, :3], axis=0).tolist())


def checked_shape(path: Path, shape: tuple[int, ...], multichannel: bool) -> tuple[int, ...]:
    """Returns the 3D shape of the file at `path` without trailing axes of length 1 (`multichannel`: of 4D too); refuses
    empty and huge ones."""
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in ((3, 4) if multichannel else (3,)):
        of_masks = "; masks of regions become one label map, which `regions` combines"
        hint = "split it into one file a volume" + (", channels along a fourth axis" if multichannel else of_masks)
        if len(shape) == 2:
            hint = f"add a third axis of length 1, as {(*shape, 1)}"
        elif shape[0] == 1 and len(shape) == 4:
            hint = f"move its first axis behind the others, as {(*shape[1:], 1)}"
        raise DataError(f"{path}: expected a 3D volume, got shape {shape}: {hint}")
    if min(shape) < 1:
        raise DataError(f"{path}: expected at least one voxel an axis, got shape {shape}: the volume is empty")
    check_size(path, shape, "a volume")
    return shape


def check_invertible(path: Path, affine: npt.NDArray[np.float64]) -> None:
    """Refuses an affine `[4, 4]` of the file at `path` with NaN, or whose axes do not span the space."""
    steps = affine[:3, :3]
    with np.errstate(over="ignore", invalid="ignore"):
        volume = abs(float(np.linalg.det(steps))) if np.isfinite(affine).all() else 0.0
        least = 1e-6 * float(np.linalg.norm(steps, axis=0).prod())
    if not least < volume < math.inf:
        raise DataError(f"{path}: expected an invertible affine, got {affine[:3].tolist()}: fix the header")


def check_sides(path: Path, sides: npt.NDArray[np.float64], stated: str, unit: str) -> None:
    """Refuses voxels of sides in millimetres `[3]` that no scanner makes; `stated` and the field `unit` are those of
    the header at `path`."""
    if not (sides.min() >= SMALLEST_MM and sides.max() <= LARGEST_MM):
        got = f"got {spell(sides)} mm, as the header gives {stated}: fix its unit ({unit}) or sides"
        raise DataError(f"{path}: expected voxels of {SMALLEST_MM:g} to {LARGEST_MM:g} mm a side, {got}")


def check_size(path: Path | str, shape: tuple[int, ...], what: str) -> None:
    """Refuses a grid of `shape` voxels that would not fit in memory: more than MAX_BYTES as float32. `path` begins the
    error, and `what` is expected to fit."""
    if 4 * math.prod(shape) > MAX_BYTES:
        got = f"got {tuple(shape)}: check the header, `spacing`, `size` and `pad_to`"
        raise DataError(f"{path}: expected {what} of at most {MAX_BYTES // 2**30} GiB as float32, {got}")


def check_room(path: Path | str, num_voxels: int, num_bytes: int, room: int) -> None:
    """Refuses, before allocating memory, the header at `path` of `num_voxels` voxels if they are more bytes
    (`num_bytes`) than a file of its length can hold (`room`)."""
    if num_bytes > room:
        raise DataError(f"{damage(path, num_voxels)}: at most {room} bytes of {num_bytes}: fetch the file again")


def check_place(header: Header) -> None:
    """Refuses, before allocating memory, a file that cannot hold the voxels that its header states."""
    place = header.place
    room = place.file.stat().st_size - place.start
    most = 1 if place.packing in ("", "text") else MOST_PACKED
    check_room(header.path, header.num_voxels, header.num_bytes, room * most)
    check_room(header.path, header.num_voxels, place.num_packed, room)


def damage(path: Path | str, num_voxels: int) -> str:
    """Returns the begin of a refusal of the damaged voxels of `path`, of which the header states `num_voxels`."""
    return f"{path}: expected {num_voxels} voxels, got damaged or truncated data"


@contextmanager
def refusal(begin: str, advice: str = "fetch the file again", faults: Faults = FAULTS) -> Iterator[None]:
    """Turns an error of a library, one of `faults`, into one line: `begin` (path, expected and got), its reason, and
    advice."""
    try:
        yield
    except UserError:
        raise
    except PermissionError as error:
        got = f"got {error.strerror}: check permissions"
        raise DataError(f"{error.filename}: expected a file that may be read, {got}") from None
    except faults as error:
        lines = [line for line in str(error).splitlines() if line.strip()]  # SimpleITK's reason is in the last one
        raise DataError(f"{begin}: {one_line(lines[-1] if lines else error)[-200:].rstrip('.:')}: {advice}") from None


def spell(sides: Iterable[float]) -> str:
    """Returns the sides of a voxel or grid as an error writes them, `1 x 1 x 2.5`."""
    return " x ".join(f"{side:g}" for side in sides)
