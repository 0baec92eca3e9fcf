"""Reads the segmentations of a DICOM series, SEG and label maps, on the grid of their image."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from freqbench.core.errors import DataError
from freqbench.data.dicom import files
from freqbench.data.dicom.files import Stamps, read_file
from freqbench.data.dicom.series import KEPT, Series
from freqbench.data.headers import Header, check_size
from freqbench.data.itk import LPS_TO_RAS

Planes = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Segmentation(Header):
    """Header of a SEG on the grid of its image; `path` is what errors show."""

    file: Path
    slices: tuple[int, ...]  # the image's slice of each frame


@dataclass(frozen=True, kw_only=True)
class _Content:
    """Segments and frames of a SEG, without voxels."""

    names: Mapping[int, str]  # of the segments by their numbers
    frame_of_reference: str
    size: tuple[int, int]  # rows and columns of a frame
    planes: Planes  # `[N, 11]`, where each frame lies, as `read_plane` returns it
    numbers: tuple[int, ...]  # the segment of each frame; none for a label map
    may_overlap: bool


def read_segmentation(path: Path, image: Series, where: Path) -> Segmentation:
    """Returns the header of the SEG at `path` on slices of the image; refuses other files, probabilities, frames and
    grids by a DataError that shows `where`."""
    content = _content(files.stamp_files([path], where), where)
    if content.frame_of_reference != image.frame_of_reference:
        raise DataError(
            f"{where}: expected the frame of reference of its series, {image.frame_of_reference or 'none'}, got "
            f"{content.frame_of_reference or 'none'}: give the segmentation of this series"
        )
    if content.size != image.shape[1::-1]:
        raise DataError(
            f"{where}: expected frames of the image's {image.shape[1]} rows and {image.shape[0]} columns, got "
            f"{content.size}: resample the segmentation onto its image"
        )
    wrong, slices = _places(content.planes, image)
    if (is_aside := (wrong.max(axis=1) > 0.5) | (slices < 0) | (slices >= image.shape[2])).any():
        number = int(is_aside.argmax())
        advice = "resample the segmentation onto its image"
        got = f"got frame {number + 1} up to {wrong[number].max():.3g} pixels aside or outside: {advice}"
        raise DataError(f"{where}: expected each frame on a slice of its series, {got}")
    at = tuple(slices.astype(int).tolist())
    return Segmentation(
        path=where, shape=image.shape, spacing=image.spacing, affine=image.affine, stored="uint8", file=path, slices=at
    )


def _places(planes: Planes, image: Series) -> tuple[Planes, Planes]:
    """Returns for each frame the voxels `[N, 2]` by which it lies aside of the image's, and its slice, `[N]`."""
    sides, axes, positions = np.split(planes, [2, 8], axis=1)
    to_voxel = np.linalg.inv(image.affine)
    places = positions @ LPS_TO_RAS @ to_voxel[:3, :3].T + to_voxel[:3, 3]
    ways = (LPS_TO_RAS @ image.affine[:3, :2] / image.spacing[:2]).T
    turned = np.abs(axes.reshape(-1, 2, 3) - ways).max(axis=2)
    stretched = np.abs(sides[:, ::-1] / image.spacing[:2] - 1)
    last = np.array(image.shape[:2]) - 1  # where the far corner of the frame may lie by half
    wrong = (turned + stretched) * last + np.abs(places[:, :2])
    return wrong, np.rint(places[:, 2])


def segment_names(path: Path, where: Path) -> Mapping[int, str]:
    """Returns the label of each segment of the SEG at `path` by its number, in their order; errors show `where`."""
    return _content(files.stamp_files([path], where), where).names


def masks(segmentation: Segmentation) -> Iterator[tuple[int, npt.NDArray[np.bool_]]]:
    """Yields the number of each segment of a `segmentation` and its voxels, bool `[H, W, D]`."""
    for number, frames in _masks(segmentation.file, segmentation.path):
        mask = np.zeros(segmentation.shape[::-1], bool)  # [z, y, x]
        for index, frame in frames:
            mask[segmentation.slices[index]] |= frame
        yield number, mask.T


def check_segmentation(path: Path, where: Path) -> None:
    """Raises DataError, which shows `where`, for a SEG at `path` whose voxels are damaged or truncated."""
    for _ in _masks(path, where):
        pass


def overlaps(path: Path, where: Path) -> frozenset[frozenset[str]]:
    """Returns the sets of segments of the SEG at `path` that share a voxel, by label; reads voxels unless the header
    denies it. Errors show `where`."""
    return _overlaps(files.stamp_files([path], where), where)


@lru_cache(maxsize=KEPT)
def _overlaps(stamps: Stamps, where: Path) -> frozenset[frozenset[str]]:
    if not (content := _content(stamps, where)).may_overlap:
        return frozenset()
    at = defaultdict[tuple[float, ...], list[tuple[int, npt.NDArray[np.bool_]]]](list)  # by the frames' positions
    for number, frames in _masks(stamps[0][0], where):
        for index, frame in frames:
            at[tuple(content.planes[index, 8:].round(2))].append((number, frame))
    sets: set[frozenset[str]] = set()
    for of_slice in at.values():
        together = np.stack([frame for _, frame in of_slice])
        shared = together[:, together.sum(axis=0) > 1]  # [frames, voxels]
        for held in np.unique(shared.T, axis=0):
            sets.add(frozenset(content.names[number] for number, _ in compress(of_slice, held)))
    return frozenset(names for names in sets if len(names) > 1)


def _masks(path: Path, where: Path) -> Iterator[tuple[int, list[tuple[int, npt.NDArray[np.bool_]]]]]:
    """Yields each segment's number and its frames, with their index."""
    content = _content(files.stamp_files([path], where), where)
    shape = len(content.planes), *content.size
    check_size(where, shape, "frames")
    pixels = files.read_pixels(path, where).reshape(shape)
    for number in content.names:
        if content.numbers:
            yield number, [(k, pixels[k] != 0) for k, other in enumerate(content.numbers) if other == number]
        else:
            yield number, [(k, frame == number) for k, frame in enumerate(pixels)]


@lru_cache(maxsize=KEPT)
def _content(stamps: Stamps, where: Path) -> _Content:
    """Returns segments and frames of a SEG; refuses other files by name, and probabilities."""
    file = read_file(stamps[0][0], where)
    fields = file.fields
    kind = file.kind
    if kind not in (files.SEG, files.LABELMAP):
        what = files.kind_name(kind) + ", contours whose voxels every reader fills otherwise" * (kind == files.RTSTRUCT)
        raise DataError(f"{where}: expected a DICOM SEG, got {what}: convert it to a SEG or NIfTI")
    if kind == files.SEG and (stored := str(fields.get("SegmentationType", ""))) != "BINARY":
        raise DataError(f"{where}: expected a BINARY segmentation, got {stored or 'none'}: store yes or no a voxel")
    names = _segments(fields.get("SegmentSequence", []), where)
    frames = files.read_frames(fields, where)
    numbers = [files.read_whole(frame, "ReferencedSegmentNumber", where) for frame in frames if kind == files.SEG]
    if strange := sorted({*numbers} - names.keys()):
        raise DataError(f"{where}: expected frames of segments {sorted(names)}, got one of {strange[0]}: store it anew")
    frame_of_reference = str(fields.get("FrameOfReferenceUID", ""))
    is_apart = str(fields.get("SegmentsOverlap", "")) == "NO"
    size = files.read_whole(fields, "Rows", where), files.read_whole(fields, "Columns", where)
    planes = np.array([files.read_plane(frame, where) for frame in frames]).reshape(-1, 11)
    return _Content(
        names=names,
        frame_of_reference=frame_of_reference,
        size=size,
        planes=planes,
        numbers=tuple(numbers),
        may_overlap=kind == files.SEG and not is_apart and len(names) > 1,
    )


def _segments(items: Iterable[Any], where: Path) -> dict[int, str]:
    """Returns the names of segments by their numbers, in their order."""
    names: dict[int, str] = {}
    for item in items:
        if (number := files.read_whole(item, "SegmentNumber", where)) in names:
            raise DataError(f"{where}: expected segments of different numbers, got two of {number}: store it anew")
        names[number] = str(item.get("SegmentLabel", "")).strip() or f"segment {number}"
    names.pop(0, None)  # the background of a label map
    if not names:
        raise DataError(f"{where}: expected segments, got none: store the segmentation anew")
    return dict(sorted(names.items()))
