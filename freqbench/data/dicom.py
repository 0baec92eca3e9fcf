"""Reads DICOM by pydicom: a series as one volume, and the segmentations (SEG) of it on its grid.

Names of its files and fields of a patient are in no error: hospitals write names into both. Of a case that is called by
a hash, errors show the hash.
"""

import logging
import re
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from freqbench.core.errors import DataError, UserError, installing
from freqbench.core.types import triple
from freqbench.data.headers import (
    MOST_PACKED,
    Header,
    check_invertible,
    check_room,
    check_sides,
    check_size,
    checked_shape,
    shown,
    spacing_of,
)
from freqbench.data.itk import LPS_TO_RAS, unwarned

SEG, LABELMAP, RTSTRUCT = (
    "1.2.840.10008.5.1.4.1.1.66.4",
    "1.2.840.10008.5.1.4.1.1.66.7",
    "1.2.840.10008.5.1.4.1.1.481.3",
)
NO_SLICES = (".txt", ".md", ".xml", ".json", ".csv", ".html", ".pdf", ".png", ".jpg")  # what exports put beside slices
END_OF_FRAMES = b"\xfe\xff\xdd\xe0"  # of compressed voxels
TAIL = 2**16  # bytes in which they end
MOST_FIELDS = 2**23  # bytes of a deflated file's fields: those of some 16,000 frames
ITEM, MOST_ITEMS = b"\xfe\xff\x00\xe0", 2**17  # begins an item of a sequence; as many are in such fields
MOST_SEGMENTS = 1024  # of a SEG: a label map has 256 classes
UNDEFINED = 2**32 - 1  # length of a sequence that a mark ends
SIZ = b"\xff\x4f\xff\x51"  # begins a frame of JPEG 2000
SOF = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # JPEG's segments that state the size, and that of JPEG-LS
SEGMENTS, VOXELS = 0x00620002, 0x7FE00010  # tags of the sequence, and of PixelData

PIXELS = (
    *("SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "BitsAllocated"),
    *("BitsStored", "HighBit", "PixelRepresentation", "PlanarConfiguration"),
)
PLANE = ("PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient")
SLICE = (
    *PIXELS,
    *PLANE,
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
)
PATIENT = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientBirthName", "PatientMotherBirthName"),
    *("OtherPatientIDs", "OtherPatientNames", "MedicalRecordLocator", "AccessionNumber", "PatientAddress"),
    *("PatientTelephoneNumbers", "ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName", "StudyDate"),
)

# Fields of a frame, by the sequence of functional groups that holds them.
GROUPS = {
    "PixelMeasuresSequence": "PixelSpacing",
    "PlaneOrientationSequence": "ImageOrientationPatient",
    "PlanePositionSequence": "ImagePositionPatient",
    "SegmentIdentificationSequence": "ReferencedSegmentNumber",
}

_Stamps = tuple[tuple[Path, int, int], ...]  # files with size and time stamp

SAME_DIRECTION = 1e-3  # difference of cosines
EVEN = 0.1  # of the distance between slices: how far one may be from its place


@dataclass(frozen=True, kw_only=True)
class Series(Header):
    """Header of a volume of slices; `path` is what errors show, not always a file."""

    files: tuple[Path, ...]  # in the order of their positions
    scales: tuple[tuple[float, float], ...]  # slope and intercept of each
    plain: tuple["_Plain | None", ...]  # where voxels are that need no decoder
    uid: str
    frame_of_reference: str


@dataclass(frozen=True)
class _Plain:
    start: int  # first byte of the voxels
    stored: np.dtype[Any]
    unused: int  # bits of a number above those that hold it


@dataclass(frozen=True, kw_only=True)
class Segmentation(Header):
    """Header of a SEG on the grid of its image; `path` is what errors show."""

    file: Path
    slices: tuple[int, ...]  # the image's slice of each frame


@dataclass(frozen=True, kw_only=True)
class _File:
    path: Path
    fields: Mapping[str, Any]  # values by their keywords
    is_whole: bool
    plain: _Plain | None

    @property
    def kind(self) -> str:
        return str(self.fields.get("SOPClassUID", ""))

    @property
    def series(self) -> str:
        return str(self.fields.get("SeriesInstanceUID", ""))


def patient_fields(files: Sequence[Path]) -> dict[str, str]:
    """Returns the fields of the patient in the first file that is DICOM, to keep them out of names."""
    for path in files:
        with quiet() as pydicom:
            try:
                with _opened(path, path) as (stream, _):
                    fields = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=list(PATIENT))
                return {name: str(fields[name].value) for name in PATIENT if name in fields and fields[name].value}
            except _damaged():
                continue
    return {}


def names_patient(text: str, fields: Mapping[str, str]) -> bool:
    """True if a text holds a field of the patient, or a word of one.

    >>> names_patient("scan_doe_2", {"PatientName": "DOE^JOHN"}), names_patient("case_2", {"PatientName": "DOE^JOHN"})
    (True, False)
    """
    words = {word for value in fields.values() for word in re.split(r"[\W_]+", value.lower()) if len(word) > 1}
    return any(len(word) > 3 and word in text.lower() for word in words) or not words.isdisjoint(
        re.split(r"[\W_]+", text.lower())
    )


def label_files(files: Sequence[Path]) -> list[Path]:
    """Returns the segmentations among files, else the RTSTRUCT, which are refused when they are read."""
    kinds = dict[Path, str]()
    for path in files:
        with quiet() as pydicom:
            try:
                kinds[path] = str(pydicom.filereader.read_file_meta_info(path).get("MediaStorageSOPClassUID", ""))
            except _damaged():
                continue
    return [path for path in kinds if kinds[path] in (SEG, LABELMAP)] or [
        path for path in kinds if kinds[path] == RTSTRUCT
    ]


def is_dicom(path: Path) -> bool:
    """True if a file has DICOM's mark."""
    if not path.is_file():  # a pipe has no end
        return False
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def read_series(files: Sequence[Path], where: Path, uid: str | None = None, segmentation: Path | None = None) -> Series:
    """Returns the header of one series among files; of several, `uid`, or the one that a SEG is of, or the longest.

    Raises DataError for slices that are no evenly spaced stack, damaged files, colour, and several frames.
    """
    return _series(_stamps(files, where), where, uid, _stamps([segmentation] if segmentation else [], where))


@lru_cache(maxsize=256)
def _series(stamps: _Stamps, where: Path, uid: str | None, segmentations: _Stamps) -> Series:
    scanned = _scan(stamps, where)
    slices = [file for file in scanned if "Rows" in file.fields and file.kind not in (SEG, LABELMAP)]
    of_series: dict[str, list[_File]] = {}
    for file in slices:
        of_series.setdefault(file.series, []).append(file)
    if not slices:
        raise DataError(f"{where}: expected the slices of a series, got {_kinds(scanned)}: give their folder")
    segmentation = next((path for path, *_ in segmentations), None)
    chosen, reason = _choice(of_series, where, uid, segmentation)
    return _stacked(of_series[chosen], where, reason)


def _choice(
    of_series: Mapping[str, list[_File]], where: Path, uid: str | None, segmentation: Path | None
) -> tuple[str, str]:
    """Returns a series and why it is the one, empty if there is no other."""
    counts = ", ".join(f"{name} ({len(of_series[name])} slices)" for name in sorted(of_series)[:5])
    counts += f" and {len(of_series) - 5} more" if len(of_series) > 5 else ""
    if uid is not None:
        if uid not in of_series:
            raise DataError(f"{where}: expected series {uid}, as `series` says, got {counts}: choose one of them")
        return uid, ""
    if len(of_series) == 1:
        return next(iter(of_series)), ""
    referenced = [read_fields(segmentation, where).get("ReferencedSeriesSequence", [])] if segmentation else []
    named = {str(item.get("SeriesInstanceUID", "")) for items in referenced for item in items} & of_series.keys()
    longest = max(map(len, of_series.values()))
    candidates, why = (
        (named, "the segmentation is of it")
        if named
        else (
            {name for name, files in of_series.items() if len(files) == longest},
            "it has the most slices",
        )
    )
    if len(candidates) > 1:
        raise DataError(
            f"{where}: expected one series that is longer than the others, got {counts}: give `series` the "
            "SeriesInstanceUID of the one"
        )
    (chosen,) = candidates
    return chosen, f"of the series {counts}, {chosen} is read, as {why}: give `series` another"


def read_voxels(series: Series) -> npt.NDArray[np.float32]:
    """Returns all voxels `[H, W, D, 1]`, of each slice by its slope and intercept."""
    voxels = np.empty((*series.shape[::-1],), np.float32)  # [z, y, x]
    slices = zip(voxels, series.files, series.plain, series.scales, strict=True)
    for target, file, plain, (slope, intercept) in slices:
        if plain is None:
            stored = _pixels(file, series.path)
        else:
            stored = np.fromfile(file, plain.stored, target.size, offset=plain.start) << plain.unused >> plain.unused
        target[:] = stored.reshape(target.shape)
        if (slope, intercept) != (1.0, 0.0):
            target[:] = target.astype(np.float64) * slope + intercept
    return voxels.T[..., None]


def read_segmentation(path: Path, image: Series, where: Path) -> Segmentation:
    """Returns the header of a SEG, whose frames lie on slices of the image.

    Raises DataError for an RTSTRUCT or another file, probabilities, another frame of reference, or another grid.
    """
    fields, _ = _segmentation(path, where), segment_names(path, where)
    frame = str(fields.get("FrameOfReferenceUID", ""))
    if frame != image.frame_of_reference:
        raise DataError(
            f"{where}: expected the frame of reference of its series, {image.frame_of_reference or 'none'}, got "
            f"{frame or 'none'}: give the segmentation of this series"
        )
    size = _whole(fields, "Rows", where), _whole(fields, "Columns", where)
    if size != image.shape[1::-1]:
        raise DataError(
            f"{where}: expected frames of the image's {image.shape[1]} rows and {image.shape[0]} columns, got {size}: "
            "resample the segmentation onto its image"
        )
    turn = LPS_TO_RAS @ image.affine[:3, :3] / image.spacing
    to_voxel, slices = np.linalg.inv(image.affine), list[int]()
    for number, groups in enumerate(_frames(fields, where)):
        plane = _numbers(groups, "ImageOrientationPatient", 6, where)
        sides = _numbers(groups, "PixelSpacing", 2, where)
        ras = LPS_TO_RAS @ _numbers(groups, "ImagePositionPatient", 3, where)
        place = to_voxel[:3, :3] @ ras + to_voxel[:3, 3]
        last = np.array([image.shape[0] - 1, image.shape[1] - 1])  # where the far corner of the frame may lie by half
        wrong = np.abs(plane.reshape(2, 3).T - turn[:, :2]).max(axis=0) * last
        wrong += np.abs(sides[::-1] / image.spacing[:2] - 1) * last + np.abs(place[:2])
        k = round(float(place[2]))
        if not (wrong.max() <= 0.5 and abs(place[2] - k) <= 0.5 and 0 <= k < image.shape[2]):
            raise DataError(
                f"{where}: expected each frame on a slice of its series, got frame {number + 1} up to "
                f"{wrong.max():.3g} pixels aside or outside: resample the segmentation onto its image"
            )
        slices.append(k)
    return Segmentation(
        path=where,
        shape=image.shape,
        spacing=image.spacing,
        affine=image.affine,
        stored="uint8",
        file=path,
        slices=tuple(slices),
    )


def segment_names(path: Path, where: Path) -> dict[int, str]:
    """Returns the label of each segment of a SEG by its number, in their order."""
    fields = _segmentation(path, where)
    segments = {
        _whole(item, "SegmentNumber", where): str(item.get("SegmentLabel", "")).strip()
        for item in fields.get("SegmentSequence", [])
    }
    segments.pop(0, None)  # the background of a label map
    if not segments:
        raise DataError(f"{where}: expected segments, got none: store the segmentation anew")
    return {number: name or f"segment {number}" for number, name in sorted(segments.items())}


def masks(segmentation: Segmentation) -> Iterator[tuple[int, npt.NDArray[np.bool_]]]:
    """Yields each segment's number and its voxels, bool `[H, W, D]`."""
    where = segmentation.path
    for number, frames in _masks(segmentation.file, where):
        mask = np.zeros(segmentation.shape[::-1], bool)  # [z, y, x]
        for index, frame in frames:
            mask[segmentation.slices[index]] |= frame
        yield number, mask.T


def check_segmentation(path: Path, where: Path) -> None:
    """Raises DataError for a SEG whose voxels are damaged or truncated."""
    for _ in _masks(path, where):
        pass


def overlaps(path: Path, where: Path) -> frozenset[frozenset[str]]:
    """Returns the sets of segments that share a voxel, by label; reads voxels unless the header denies it."""
    return _overlaps(_stamps([path], where), where)


@lru_cache(maxsize=1024)
def _overlaps(stamps: _Stamps, where: Path) -> frozenset[frozenset[str]]:
    ((path, *_),) = stamps
    fields, labels = _segmentation(path, where), segment_names(path, where)
    if str(fields.get("SegmentsOverlap", "")) == "NO" or str(fields.SOPClassUID) == LABELMAP or len(labels) < 2:
        return frozenset()
    places = [tuple(_numbers(groups, "ImagePositionPatient", 3, where).round(2)) for groups in _frames(fields, where)]
    at: dict[tuple[float, ...], list[tuple[int, npt.NDArray[np.bool_]]]] = {}
    for number, frames in _masks(path, where):
        for index, frame in frames:
            at.setdefault(places[index], []).append((number, frame))
    sets = set[frozenset[str]]()
    for of_slice in at.values():
        together = np.stack([frame for _, frame in of_slice])
        shared = together[:, together.sum(axis=0) > 1]  # [frames, voxels]
        for held in np.unique(shared.T, axis=0):
            sets.add(frozenset(labels[of_slice[i][0]] for i in np.flatnonzero(held)))
    return frozenset(names for names in sets if len(names) > 1)


def _masks(path: Path, where: Path) -> Iterator[tuple[int, list[tuple[int, npt.NDArray[np.bool_]]]]]:
    """Yields each segment's number and its frames, with their index."""
    fields, labels = _segmentation(path, where), segment_names(path, where)
    groups = _frames(fields, where)
    count = len(groups)
    shape = (count, _whole(fields, "Rows", where), _whole(fields, "Columns", where))
    check_size(where, shape, "frames")
    pixels = _pixels(path, where).reshape(shape)
    if str(fields.SOPClassUID) == LABELMAP:
        for number in labels:
            yield number, [(index, frame == number) for index, frame in enumerate(pixels)]
        return
    numbers = [_whole(group, "ReferencedSegmentNumber", where) for group in groups]
    if strange := sorted(set(numbers) - labels.keys()):
        raise DataError(f"{where}: expected frames of segments {[*labels]}, got one of {strange[0]}: store it anew")
    for number in labels:
        yield number, [(index, pixels[index] != 0) for index in range(count) if numbers[index] == number]


def _segmentation(path: Path, where: Path) -> Any:
    """Returns all fields of a SEG but its voxels; refuses other files by name, and probabilities."""
    fields = read_fields(path, where)
    kind = str(fields.get("SOPClassUID", ""))
    if kind not in (SEG, LABELMAP):
        what = "RTSTRUCT, contours whose voxels every reader fills otherwise" if kind == RTSTRUCT else _kind(kind)
        raise DataError(f"{where}: expected a DICOM SEG, got {what}: convert it to a SEG or NIfTI")
    if kind == SEG and (stored := str(fields.get("SegmentationType", ""))) != "BINARY":
        raise DataError(f"{where}: expected a BINARY segmentation, got {stored or 'none'}: store yes or no a voxel")
    return fields


def _frames(fields: Any, where: Path) -> list[dict[str, Any]]:
    """Returns place and segment of each frame, from its own functional groups, else from the shared ones."""
    shared, own = (fields.get(f"{name}FunctionalGroupsSequence") or [] for name in ("Shared", "PerFrame"))
    count = _whole(fields, "NumberOfFrames", where)
    if len(own) != count:
        raise DataError(f"{where}: expected a place of each of {count} frames, got {len(own)}: store it anew")
    common = _placed(shared[0]) if shared else {}
    return [common | _placed(groups) for groups in own]


def _placed(groups: Any) -> dict[str, Any]:
    return {name: groups.get(sequence)[0].get(name) for sequence, name in GROUPS.items() if groups.get(sequence)}


def _stacked(files: Sequence[_File], where: Path, reason: str) -> Series:
    """Returns slices in the order of their positions along their normal, as one volume."""
    fields = [file.fields for file in files]
    for file in files:
        _check_slice(file, where)
    size = {(_whole(item, "Columns", where), _whole(item, "Rows", where)) for item in fields}
    sides, planes, positions = (
        np.array([_numbers(item, name, count, where) for item in fields])
        for name, count in zip(PLANE, (2, 6, 3), strict=True)
    )
    if len(files) < 2:
        raise DataError(f"{where}: expected a volume of two slices or more, got one: leave the case out")
    same = len(size) == 1 and np.ptp(sides, axis=0).max() <= 1e-3 * sides.min()
    if not same or np.ptp(planes, axis=0).max() > SAME_DIRECTION:
        raise DataError(
            f"{where}: expected slices of one size, spacing and direction, got several in one series: keep those of "
            "one volume"
        )
    row, column = (axis / (np.linalg.norm(axis) or 1.0) for axis in planes[0].reshape(2, 3))
    if abs(float(row @ column)) > SAME_DIRECTION or abs(np.linalg.norm(planes[0]) - 2**0.5) > 0.01:
        raise DataError(f"{where}: expected two directions of length 1 at a right angle, got {planes[0].tolist()}")
    normal = np.cross(row, column)
    order = np.argsort(positions @ normal, kind="stable")
    positions = positions[order]
    gap = _gap(positions, normal, float(sides.min()), where)
    affine = np.eye(4)
    affine[:3, :3] = LPS_TO_RAS @ np.stack([row * sides[0][1], column * sides[0][0], normal * gap], axis=1)
    affine[:3, 3] = LPS_TO_RAS @ positions[0]
    check_invertible(where, affine)
    spacing = spacing_of(affine)
    check_sides(where, np.array(spacing), f"{shown(spacing)} and millimetres", "PixelSpacing")
    scales = [_scale(fields[index], where) for index in order]
    bits = {int(item.get("BitsAllocated", 16)) for item in fields}
    sign = "" if any(item.get("PixelRepresentation") for item in fields) else "u"
    frames = {str(item.get("FrameOfReferenceUID", "")) for item in fields}
    if len(frames) > 1:
        raise DataError(f"{where}: expected one frame of reference, got {len(frames)}: keep the slices of one")
    return Series(
        path=where,
        shape=triple(checked_shape(where, (*next(iter(size)), len(files)), multichannel=False)),
        affine=affine + 0.0,
        spacing=spacing,
        stored=f"{sign}int{max(bits)}" if set(scales) == {(1.0, 0.0)} else "float32",
        guess=reason,
        files=tuple(files[index].path for index in order),
        scales=tuple(scales),
        plain=tuple(files[index].plain for index in order),
        uid=files[0].series,
        frame_of_reference=frames.pop(),
    )


def _gap(positions: npt.NDArray[np.float64], normal: npt.NDArray[np.float64], side: float, where: Path) -> float:
    """Returns the distance between slices in their order; refuses a stack that is no even one."""
    along = (positions - positions[0]) @ normal
    gaps = np.diff(along)
    gap = float(along[-1] / (len(along) - 1))
    if doubled := int((gaps <= 1e-3).sum()):
        raise DataError(
            f"{where}: expected one slice at each position, got {doubled} more in one series (copies, phases, echoes): "
            "keep those of one volume"
        )
    if np.abs(along - gap * np.arange(len(along))).max() > EVEN * gap:
        middle = float(np.median(gaps))
        whole = np.rint(gaps / middle)
        if (whole >= 1).all() and np.abs(gaps / middle - whole).max() <= EVEN:
            index = int(whole.argmax())
            raise DataError(
                f"{where}: expected a slice every {middle:g} mm, got {int(whole.sum()) - len(gaps)} missing, the first "
                f"behind slice {index + 1} of {len(along)}: fetch the series again"
            )
        raise DataError(
            f"{where}: expected evenly spaced slices, got gaps of {gaps.min():g} to {gaps.max():g} mm: resample the "
            "volume"
        )
    aside = np.linalg.norm(positions - positions[0] - along[:, None] * normal, axis=1)
    if aside.max() > side / 2:
        angle = np.degrees(np.arctan2(aside[-1], along[-1]))
        raise DataError(
            f"{where}: expected slices stacked along their normal, got a gantry tilt of {angle:.1f} degrees: resample "
            "the volume, such as by dcm2niix"
        )
    return gap


def _check_slice(file: _File, where: Path) -> None:
    fields = file.fields
    photometric = str(fields.get("PhotometricInterpretation", ""))
    if fields.get("SamplesPerPixel", 1) != 1 or not photometric.startswith("MONOCHROME"):
        raise DataError(f"{where}: expected grey values, got colour, {photometric or 'no grey scale'}: leave it out")
    if (frames := int(fields.get("NumberOfFrames") or 1)) != 1:
        raise DataError(
            f"{where}: expected one slice a file, got {frames} frames in one (an enhanced or cine object): split it "
            "into slices"
        )
    if not file.is_whole:
        raise DataError(f"{where}: expected whole slices, got a truncated file: fetch the series again")
    if lacking := [name for name in PLANE if not fields.get(name)]:
        raise DataError(
            f"{where}: expected slices with their place, got one without {lacking[0]} ({_kind(file.kind)}): "
            "give a series of a CT, MR or PET volume"
        )


def _scale(fields: Any, where: Path) -> tuple[float, float]:
    if fields.get("ModalityLUTSequence"):
        raise DataError(f"{where}: expected a slope and an intercept, got a table of values: convert the series")
    numbers = [
        _numbers(fields, name, 1, where)[0] if name in fields and fields.get(name) is not None else default
        for name, default in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0))
    ]
    if numbers[0] == 0:
        raise DataError(f"{where}: expected a RescaleSlope other than 0, got 0: fix the series")
    return float(numbers[0]), float(numbers[1])


def _numbers(fields: Any, name: str, count: int, where: Path) -> npt.NDArray[np.float64]:
    """Returns finite numbers of a field."""
    with quiet():
        try:
            values = np.atleast_1d(np.array(fields.get(name), np.float64))
        except (ValueError, TypeError, ArithmeticError):
            values = np.array([])
    if values.shape != (count,) or not np.isfinite(values).all():
        raise DataError(
            f"{where}: expected {count} number{'s' * (count > 1)} as {name}, got none or others: fix the file"
        )
    return values


def _whole(fields: Any, name: str, where: Path) -> int:
    return int(_numbers(fields, name, 1, where)[0])


def _stamps(files: Sequence[Path], where: Path) -> _Stamps:
    """Returns files with size and time stamp, by which what was read of them is kept."""
    try:
        return tuple((path, (stat := path.stat()).st_size, stat.st_mtime_ns) for path in files)
    except OSError:
        raise DataError(f"{where}: expected the files that were listed, got fewer: plan the job again") from None


@lru_cache(maxsize=256)
def _scan(stamps: _Stamps, where: Path) -> tuple[_File, ...]:
    """Reads the headers of all DICOM files; refuses a folder with damaged ones."""
    files, damaged = [], 0
    for path, size, _ in stamps:
        if path.name == "DICOMDIR" or path.suffix.lower() in NO_SLICES:
            continue
        with quiet() as pydicom:
            try:
                with _opened(path, where) as (stream, syntax):
                    header = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=list(SLICE))
                    fields = {field.keyword: field.value for field in header}
                    plain, is_whole = _plain(fields, syntax, stream), _is_whole(fields, syntax, stream, size)
                    files.append(_File(path=path, fields=fields, is_whole=is_whole, plain=plain))
            except PermissionError:
                raise DataError(f"{where}: expected files that may be read, got others: check permissions") from None
            except DataError:
                raise
            except _damaged():
                damaged += 1
    if damaged:
        raise DataError(
            f"{where}: expected DICOM files alone, got {damaged} of {len(files) + damaged} that are damaged or another "
            "kind: fetch them again, or remove them"
        )
    return tuple(files)


def _is_whole(fields: Mapping[str, Any], syntax: Any, stream: Any, size: int) -> bool:
    """True if a file is as long as its voxels, which begin where its stream is, or may hold them packed."""
    if "Rows" not in fields:
        return True
    bits = int(fields.get("BitsAllocated", 0)) * int(fields.get("SamplesPerPixel", 1))
    bits *= int(fields["Rows"]) * int(fields.get("Columns", 0)) * int(fields.get("NumberOfFrames") or 1)
    if syntax.is_deflated:
        return bits // 8 <= size * MOST_PACKED
    if syntax.is_encapsulated:
        stream.seek(max(stream.tell(), size - TAIL))
        return END_OF_FRAMES in stream.read() and bits // 8 <= size * MOST_PACKED
    return bool(size - stream.tell() >= _head(syntax) + bits // 8)


def _head(syntax: Any) -> int:
    """Returns the bytes of tag, type and length before the voxels."""
    return 8 if syntax.is_implicit_VR else 12


def _plain(fields: Mapping[str, Any], syntax: Any, stream: Any) -> _Plain | None:
    """Returns where the voxels are, which begin where the stream is, if they are whole numbers of 8 or 16 bits."""
    bits, used, high = (fields.get(name) for name in ("BitsAllocated", "BitsStored", "HighBit"))
    if syntax.is_encapsulated or syntax.is_deflated or bits not in (8, 16) or not used:
        return None
    if not 0 < used <= bits or high != used - 1:
        return None
    kind = f"{'<' if syntax.is_little_endian else '>'}{'i' if fields.get('PixelRepresentation') else 'u'}{bits // 8}"
    return _Plain(stream.tell() + _head(syntax), np.dtype(kind), bits - used)


def read_fields(path: Path, where: Path) -> Any:
    """Returns all fields of a file but its voxels; raises DataError for one that is damaged or no DICOM."""
    ((_, *stamp),) = _stamps([path], where)
    return _all_fields(path, tuple(stamp), where)


@lru_cache(maxsize=64)
def _all_fields(path: Path, stamp: tuple[int, ...], where: Path) -> Any:
    with quiet() as pydicom:
        try:
            with _opened(path, where) as (stream, _):
                _check_segments(stream, where)
                stream.seek(0)
                fields = pydicom.dcmread(stream, stop_before_pixels=True)
            fields.buffer = None  # else what was inflated is kept too
            for _ in fields.iterall():  # which decodes each value, so that none is damaged later
                pass
            return fields
        except DataError:
            raise
        except _damaged():
            raise DataError(
                f"{where}: expected a DICOM file, got a damaged one or another kind: fetch it again"
            ) from None


def _check_segments(stream: Any, where: Path) -> None:
    """Refuses many segments, or two of one number, before pydicom makes objects of them all, which takes a minute."""
    from pydicom.filereader import read_partial, read_sequence_item

    head = read_partial(stream, stop_when=lambda tag, *_: tag in (SEGMENTS, VOXELS))
    is_implicit, is_little = head.original_encoding
    order: Literal["little", "big"] = "little" if is_little else "big"
    tag, of_length = stream.read(4), stream.read(4 if is_implicit else 8)[-4:]
    if tag != b"".join(part.to_bytes(2, order) for part in divmod(SEGMENTS, 2**16)):
        return
    length, numbers = int.from_bytes(of_length, order), dict[Any, None]()
    end = stream.tell() + length
    while (length == UNDEFINED or stream.tell() < end) and len(numbers) <= MOST_SEGMENTS:
        if (item := read_sequence_item(stream, bool(is_implicit), bool(is_little), "iso8859")) is None:
            return
        if (number := item.get("SegmentNumber")) in numbers:
            raise DataError(
                f"{where}: expected segments of different numbers, got two of {number}: store the segmentation anew"
            )
        numbers[number] = None
    if len(numbers) > MOST_SEGMENTS:
        raise DataError(
            f"{where}: expected at most {MOST_SEGMENTS} segments, got more: leave out those of no class of the model"
        )


@contextmanager
def _opened(path: Path, where: Path, voxels: int = 0) -> Iterator[tuple[Any, Any]]:
    """Opens a DICOM file and tells its transfer syntax; a deflated one reads as if it were not.

    Of a deflated file MOST_FIELDS and `voxels` bytes are inflated at most; raises DataError if more are read, or if it
    ends too early.
    """
    from pydicom.dataset import FileMetaDataset
    from pydicom.filebase import DicomBytesIO
    from pydicom.filereader import read_dataset, read_preamble
    from pydicom.filewriter import write_file_meta_info
    from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

    with path.open("rb") as stream:
        read_preamble(stream, force=False)
        meta = read_dataset(stream, False, True, stop_when=lambda tag, *_: tag >> 16 != 2)
        syntax = meta.get("TransferSyntaxUID")
        if syntax != DeflatedExplicitVRLittleEndian:
            stream.seek(0)
            yield stream, syntax
            return
        unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
        content = unpacker.decompress(stream.read(), MOST_FIELDS + voxels)
    if (items := content.count(ITEM)) > MOST_ITEMS:  # each becomes an object of its own
        raise DataError(
            f"{where}: expected at most {MOST_ITEMS} items of sequences in a deflated file, got {items}: fetch it "
            "again, or store it uncompressed"
        )
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    inflated = DicomBytesIO()
    inflated.write(bytes(128) + b"DICM")
    write_file_meta_info(inflated, FileMetaDataset(meta), enforce_standard=False)
    inflated.write(content)
    end = inflated.tell()
    inflated.seek(0)
    yield inflated, syntax
    if not unpacker.eof and inflated.tell() >= end:
        raise DataError(
            f"{where}: expected at most {MOST_FIELDS // 2**20} MiB beside the voxels of a deflated file, got more or a "
            "damaged one: fetch it again, or store it uncompressed"
        )


def _pixels(path: Path, where: Path) -> npt.NDArray[Any]:
    """Returns the numbers as a file stores them, decoded."""
    with quiet() as pydicom:
        name = "damaged"
        try:
            with _opened(path, where) as (stream, syntax):
                name = str(syntax.name)
                fields = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=[*PIXELS])
            count = int(fields.Rows) * int(fields.Columns) * int(fields.get("NumberOfFrames") or 1)
            num_bytes = -(-count * int(fields.BitsAllocated) // 8)
            if syntax.is_deflated or syntax.is_encapsulated:
                check_room(where, count, num_bytes, path.stat().st_size * MOST_PACKED)
            with _opened(path, where, num_bytes) as (stream, _):
                fields = pydicom.dcmread(stream, specific_tags=[*PIXELS, "SOPClassUID", "PixelData"])
            if not syntax.is_encapsulated:
                check_room(where, count, num_bytes, len(fields.PixelData))
                return fields.pixel_array
            _check_frames(fields)
            return fields.pixel_array if int(fields.BitsAllocated) == 1 else _decoded(fields, pydicom)
        except DataError:
            raise
        except _damaged():
            raise DataError(
                f"{where}: expected voxels that pydicom or GDCM decodes, got a file that neither does ({name}): "
                "fetch it again, or store it uncompressed (dcmdjpeg, dcmdrle or gdcmconv --raw)"
            ) from None


def _check_frames(fields: Any) -> None:
    """Raises ValueError for a frame whose own compressed header states another size, for which it would be decoded."""
    from pydicom.encaps import generate_frames

    size = int(fields.Rows), int(fields.Columns), 1
    for frame in generate_frames(fields.PixelData, number_of_frames=int(fields.get("NumberOfFrames") or 1)):
        if (stated := _frame_size(frame)) not in (None, size):
            raise ValueError(f"expected a frame of {size}, got {stated}")


def _frame_size(frame: bytes) -> tuple[int, int, int] | None:
    """Returns rows, columns and numbers a pixel that a frame of JPEG, JPEG-LS or JPEG 2000 states; None for others."""
    if (start := frame.find(SIZ)) >= 0:
        right, bottom, left, top = struct.unpack(">4I", frame[start + 8 : start + 24])
        return bottom - top, right - left, int.from_bytes(frame[start + 40 : start + 42], "big")
    place = 2 if frame.startswith(b"\xff\xd8") else len(frame)
    while place + 10 <= len(frame):
        marker, length = frame[place + 1], int.from_bytes(frame[place + 2 : place + 4], "big")
        if marker in SOF:
            return struct.unpack(">HHB", frame[place + 5 : place + 10])
        place += 2 + length
    return None


def _decoded(fields: Any, pydicom: Any) -> npt.NDArray[Any]:
    """Returns compressed numbers by SimpleITK's GDCM, of a copy without slope, which GDCM heeds in some kinds alone."""
    import SimpleITK

    fields.SOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    fields.SOPInstanceUID = fields.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    fields.file_meta.MediaStorageSOPClassUID = fields.SOPClassUID
    with TemporaryDirectory(prefix="freqbench-") as folder, unwarned():
        fields.save_as(Path(folder) / "slice.dcm", enforce_file_format=True)
        image = SimpleITK.ReadImage(str(Path(folder) / "slice.dcm"), imageIO="GDCMImageIO")
    return SimpleITK.GetArrayFromImage(image)


def _kinds(files: Sequence[_File]) -> str:
    names = {_kind(file.kind) for file in files}
    shown = (f"{name} without voxels" if name.endswith("Image Storage") else name for name in sorted(names))
    return ", ".join(shown) or "no DICOM file"


def _kind(uid: str) -> str:
    """Returns the name of a kind of object."""
    if uid == RTSTRUCT:
        return "RTSTRUCT"
    with quiet() as pydicom:
        return str(pydicom.uid.UID(uid).name) or "an object without a kind"


@contextmanager
def quiet() -> Iterator[Any]:
    """Gives pydicom, whose warnings and log tell values of fields, without them."""
    try:
        import pydicom
    except ImportError:
        raise UserError(f"DICOM: expected the package pydicom: {installing('dicom')}") from None
    logger = logging.getLogger("pydicom")
    before, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield pydicom
    finally:
        logger.disabled = before


def _damaged() -> tuple[type[Exception], ...]:
    """Returns the errors that pydicom raises for a file that is another kind, or is damaged."""
    from pydicom.errors import BytesLengthException, InvalidDicomError

    of_values = (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RuntimeError,
        OverflowError,
        EOFError,
        OSError,
        zlib.error,
    )
    return InvalidDicomError, BytesLengthException, zlib.error, *of_values
