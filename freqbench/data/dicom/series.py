"""Reads a DICOM series as one volume: its slices in the order of their positions, each by its slope and intercept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from freqbench.core.errors import DataError
from freqbench.core.types import triple
from freqbench.data.dicom import files
from freqbench.data.dicom.files import File, Stamps, read_file
from freqbench.data.headers import Header, check_invertible, check_sides, checked_shape, spacing_of, spell
from freqbench.data.itk import LPS_TO_RAS

SLICE = (
    *("SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "BitsAllocated"),
    *("BitsStored", "HighBit", "PixelRepresentation", "SOPClassUID", "SeriesInstanceUID", "FrameOfReferenceUID"),
    *(*files.PLANE, "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)
# Objects of CT and MR whose frames are the slices: enhanced ones, and series that were converted to such.
ENHANCED = tuple(f"1.2.840.10008.5.1.4.1.1.{kind}" for kind in ("2.1", "2.2", "4.1", "4.4"))
CT = tuple(f"1.2.840.10008.5.1.4.1.1.{kind}" for kind in ("2", "2.1", "2.2"))
SAME_DIRECTION = 1e-3  # difference of cosines
EVEN = 0.1  # of the distance between slices: how far one may be from its place
KEPT = 1024  # cases whose headers a process keeps, as a plan asks for all of them several times


@dataclass(frozen=True, kw_only=True)
class Series(Header):
    """Header of a volume of slices; `path` is what errors show, not always a file."""

    files: tuple[Path, ...]  # in the order of their positions
    frames: tuple[int, ...]  # of each slice, in its file
    scales: tuple[tuple[float, float], ...]  # slope and intercept of each
    frame_of_reference: str
    is_ct: bool = False


def read_series(paths: Sequence[Path], where: Path, uid: str | None = None, segmentation: Path | None = None) -> Series:
    """Returns the header of one series; frames of an enhanced object are slices.

    Args:
        paths: the files of a folder.
        where: begins errors.
        uid: SeriesInstanceUID of the series; None: that of which the segmentation is, else the longest.
        segmentation: the SEG of the case.

    Raises:
        DataError: slices are no evenly spaced stack, damaged, in colour, or frames of another kind.
    """
    segmentations = files.stamp_files([segmentation] if segmentation else [], where)
    return _series(files.stamp_files(paths, where), where, uid, segmentations)


@lru_cache(maxsize=KEPT)
def _series(stamps: Stamps, where: Path, uid: str | None, segmentations: Stamps) -> Series:
    scanned: list[File] = []
    damaged = 0
    of_series: dict[str, list[File]] = {}
    for path, *_ in stamps:
        if path.name == "DICOMDIR" or path.suffix.lower() in files.NO_SLICES:
            continue
        try:
            scanned.append(read_file(path, where, *SLICE))
        except files.DamagedError:
            damaged += 1
    if damaged:
        advice = "fetch them again, or remove them"
        there = f"got {damaged} of {len(scanned) + damaged} that are damaged or another kind: {advice}"
        raise DataError(f"{where}: expected DICOM files alone, {there}")
    for file in scanned:
        if "Rows" in file.fields and file.kind not in (files.SEG, files.LABELMAP):
            of_one = of_series.setdefault(str(file.fields.get("SeriesInstanceUID", "")), [])
            of_one += _frames(file, where) if file.kind in ENHANCED else [file]
    if not of_series:
        kinds = sorted({files.kind_name(file.kind) for file in scanned})
        got = ", ".join(kind + " without voxels" * kind.endswith("Image Storage") for kind in kinds) or "no DICOM file"
        raise DataError(f"{where}: expected the slices of a series, got {got}: give their folder")
    chosen, reason = _choice(of_series, where, uid, next((path for path, *_ in segmentations), None))
    return _stack_slices(of_series[chosen], where, reason)


def _frames(file: File, where: Path) -> list[File]:
    """Returns the frames of an enhanced object as files of their own."""
    fields = {each.keyword: each.value for each in file.fields}
    frames = files.read_frames(file.fields, where)
    return [replace(file, fields=fields | own | {"NumberOfFrames": 1}, frame=k) for k, own in enumerate(frames)]


def _choice(of_series: Mapping[str, list[File]], where: Path, uid: str | None, labels: Path | None) -> tuple[str, str]:
    """Returns a series and the reason for its choice, empty if there is no other."""
    counts = ", ".join(f"{name} ({len(of_series[name])} slices)" for name in sorted(of_series)[:5])
    counts += f" and {len(of_series) - 5} more" if len(of_series) > 5 else ""
    if uid is not None:
        if uid not in of_series:
            raise DataError(f"{where}: expected series {uid}, as `series` says, got {counts}: choose one of them")
        return uid, ""
    if len(of_series) == 1:
        return next(iter(of_series)), ""
    items = read_file(labels, where).fields.get("ReferencedSeriesSequence", []) if labels else []
    named = {str(item.get("SeriesInstanceUID", "")) for item in items}
    why = "the segmentation is of it"
    if not (named := named & of_series.keys()):
        longest = max(map(len, of_series.values()))
        named = {name for name in of_series if len(of_series[name]) == longest}
        why = "it has the most slices"
    if len(named) > 1:
        advice = "give `series` the SeriesInstanceUID of the one"
        raise DataError(f"{where}: expected one series that is longer than the others, got {counts}: {advice}")
    (chosen,) = named
    return chosen, f"of the series {counts}, {chosen} is read, as {why}: give `series` another"


def read_voxels(series: Series) -> npt.NDArray[np.float32]:
    """Returns all voxels of a series `[H, W, D, 1]`, of each slice by its slope and intercept."""
    voxels = np.empty(series.shape[::-1], np.float32)  # [z, y, x]
    decode = lru_cache(maxsize=1)(partial(files.read_pixels, where=series.path))  # once for all frames of a file
    slices = zip(voxels, series.files, series.frames, series.scales, strict=True)
    for target, path, frame, (slope, intercept) in slices:
        target[:] = decode(path).reshape(-1, *target.shape)[frame] * slope + intercept
    return voxels.T[..., None]


def _stack_slices(slices: Sequence[File], where: Path, reason: str) -> Series:
    """Returns slices in the order of their positions along their normal, as one volume."""
    for file in slices:
        _check_slice(file, where)
    sizes = {_size(file.fields, where) for file in slices}
    planes = np.array([files.read_plane(file.fields, where) for file in slices])
    _check_planes(planes, len(sizes), where)
    row, column = _directions(planes[0, 2:8], where)
    normal = np.cross(row, column)
    positions = planes[:, 8:]
    order = np.argsort(positions @ normal, kind="stable")
    positions = positions[order]
    stack = [slices[index] for index in order]
    gap = _gap(positions, normal, float(planes[:, :2].min()), where)
    between_rows, between_columns = planes[0, :2]
    affine = np.eye(4)
    affine[:3, :3] = LPS_TO_RAS @ np.stack([row * between_columns, column * between_rows, normal * gap], axis=1)
    affine[:3, 3] = LPS_TO_RAS @ positions[0]
    check_invertible(where, affine)
    spacing = spacing_of(affine)
    check_sides(where, np.array(spacing), f"{spell(spacing)} and millimetres", "PixelSpacing")
    scales = tuple(_scale(file.fields, where) for file in stack)
    frame_of_reference = _frame_of_reference(slices, where)
    shape = checked_shape(where, (*sizes.pop(), len(slices)), multichannel=False)
    stored = _kind_of_voxels(slices, scales)
    return Series(
        path=where,
        shape=triple(shape),
        affine=affine + 0.0,
        spacing=spacing,
        stored=stored,
        guess=reason,
        files=tuple(file.path for file in stack),
        frames=tuple(file.frame for file in stack),
        scales=scales,
        frame_of_reference=frame_of_reference,
        is_ct=slices[0].kind in CT,
    )


def _check_slice(file: File, where: Path) -> None:
    """Refuses a file that is no whole slice of grey values with its place."""
    fields = file.fields
    photometric = str(fields.get("PhotometricInterpretation", ""))
    if fields.get("SamplesPerPixel", 1) != 1 or not photometric.startswith("MONOCHROME"):
        got = f"colour, {photometric or 'no grey scale'}"
        raise DataError(f"{where}: expected grey values, got {got}: leave it out")
    if (frames := int(fields.get("NumberOfFrames") or 1)) != 1:
        there = f"got {frames} frames in one, which is no enhanced CT or MR: split it into slices"
        raise DataError(f"{where}: expected one slice a file, {there}")
    if file.num_bytes > file.room:
        raise DataError(f"{where}: expected whole slices, got a truncated file: fetch the series again")
    if lacking := [name for name in files.PLANE if not fields.get(name)]:
        raise DataError(
            f"{where}: expected slices with their place, got one without {lacking[0]} "
            f"({files.kind_name(file.kind)}): give a series of a CT, MR or PET volume"
        )


def _size(fields: Any, where: Path) -> tuple[int, int]:
    """Returns a slice's columns and rows."""
    return files.read_whole(fields, "Columns", where), files.read_whole(fields, "Rows", where)


def _check_planes(planes: npt.NDArray[np.float64], num_sizes: int, where: Path) -> None:
    """Refuses less than two slices, and slices of several sizes, spacings or directions; see `files.read_plane`."""
    if len(planes) < 2:
        raise DataError(f"{where}: expected a volume of two slices or more, got one: leave the case out")
    apart = np.ptp(planes, axis=0)
    is_scaled = apart[:2].max() > 1e-3 * planes[:, :2].min()
    is_turned = apart[2:8].max() > SAME_DIRECTION
    if num_sizes > 1 or is_scaled or is_turned:
        raise DataError(f"{where}: expected slices of one size, spacing and direction, got several: keep one volume")


def _directions(axes: npt.NDArray[np.float64], where: Path) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Returns the directions of rows and columns, of length 1; refuses those that are at no right angle."""
    row, column = (axis / (np.linalg.norm(axis) or 1.0) for axis in axes.reshape(2, 3))
    if abs(float(row @ column)) > SAME_DIRECTION or abs(np.linalg.norm(axes) - 2**0.5) > 0.01:
        raise DataError(f"{where}: expected two directions of length 1 at a right angle, got {axes.tolist()}")
    return row, column


def _kind_of_voxels(slices: Sequence[File], scales: Sequence[tuple[float, float]]) -> str:
    """Returns the type that holds all voxels: as they are stored, or float32 if a slice has a scale."""
    if {*scales} != {(1.0, 0.0)}:
        return "float32"
    bits = max(int(file.fields.get("BitsAllocated", 16)) for file in slices)
    sign = "" if any(file.fields.get("PixelRepresentation") for file in slices) else "u"
    return f"{sign}int{bits}"


def _frame_of_reference(slices: Sequence[File], where: Path) -> str:
    """Returns the frame of reference that all slices share."""
    frame, *further = {str(file.fields.get("FrameOfReferenceUID", "")) for file in slices}
    if further:
        raise DataError(f"{where}: expected one frame of reference, got {1 + len(further)}: keep the slices of one")
    return frame


def _gap(positions: npt.NDArray[np.float64], normal: npt.NDArray[np.float64], side: float, where: Path) -> float:
    """Returns the distance between slices in their order, in mm; refuses a stack that is no even one."""
    along = (positions - positions[0]) @ normal
    gaps = np.diff(along)
    gap = float(along[-1] / (len(along) - 1))
    if doubled := int((gaps <= 1e-3).sum()):
        got = f"got {doubled} more in one series (copies, phases, echoes): keep those of one volume"
        raise DataError(f"{where}: expected one slice at each position, {got}")
    if np.abs(along - gap * np.arange(len(along))).max() > EVEN * gap:
        raise DataError(f"{where}: expected {_unevenness(gaps)}")
    aside = np.linalg.norm(positions - positions[0] - along[:, None] * normal, axis=1)
    if aside.max() > side / 2:
        angle = np.degrees(np.arctan2(aside[-1], along[-1]))
        got = f"got a gantry tilt of {angle:.1f} degrees: resample the volume, such as by dcm2niix"
        raise DataError(f"{where}: expected slices stacked along their normal, {got}")
    return gap


def _unevenness(gaps: npt.NDArray[np.float64]) -> str:
    """Returns the words on uneven distances in mm: slices that are missing, or another reason."""
    middle = float(np.median(gaps))
    steps = gaps / middle
    whole = np.rint(steps)
    if (whole >= 1).all() and np.abs(steps - whole).max() <= EVEN:
        missing = int(whole.sum()) - len(gaps)
        first = int(whole.argmax()) + 1
        lack = f"{missing} missing, the first behind slice {first} of {len(gaps) + 1}"
        return f"a slice every {middle:g} mm, got {lack}: fetch the series again"
    return f"evenly spaced slices, got {gaps.min():g} to {gaps.max():g} mm: resample it"


def _scale(fields: Any, where: Path) -> tuple[float, float]:
    """Returns slope and intercept of a slice."""
    if fields.get("ModalityLUTSequence"):
        raise DataError(f"{where}: expected a slope and an intercept, got a table of values: convert the series")
    slope = _number(fields, "RescaleSlope", 1.0, where)
    intercept = _number(fields, "RescaleIntercept", 0.0, where)
    if slope == 0:
        raise DataError(f"{where}: expected a RescaleSlope other than 0, got 0: fix the series")
    return slope, intercept


def _number(fields: Any, name: str, default: float, where: Path) -> float:
    return default if fields.get(name) is None else float(files.read_numbers(fields, name, 1, where)[0])
