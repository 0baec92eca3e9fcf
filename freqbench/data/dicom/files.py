"""Finds and reads DICOM files, after checks of what they make a reader allocate; no error has a name of a patient's."""

import logging
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from freqbench.core.errors import DataError, UserError, installing
from freqbench.core.files import downloads
from freqbench.data.headers import MOST_PACKED, check_room
from freqbench.data.itk import silence_warnings

SEG, LABELMAP, RTSTRUCT = (f"1.2.840.10008.5.1.4.1.1.{kind}" for kind in ("66.4", "66.7", "481.3"))
NO_SLICES = (".txt", ".md", ".xml", ".json", ".csv", ".html", ".pdf", ".png", ".jpg")  # what exports put beside slices
# syntaxes
DEFLATED = b"1.2.840.10008.1.2.1.99"
EXPLICIT = b"1.2.840.10008.1.2.1\0\0\0"
END_OF_FRAMES = b"\xfe\xff\xdd\xe0"  # of compressed voxels
TAIL = 2**16  # bytes in which they end
NO_DICOM = "expected a DICOM file, got a damaged one or another kind: fetch it again"
MOST_FIELDS = 2**23  # bytes of a deflated file's fields: those of some 16,000 frames
PATIENT = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientBirthName", "PatientMotherBirthName"),
    *("OtherPatientIDs", "OtherPatientNames", "MedicalRecordLocator", "AccessionNumber", "PatientAddress"),
    *("PatientTelephoneNumbers", "ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName", "StudyDate"),
)
PIXELS = (
    *("SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "BitsAllocated"),
    *("BitsStored", "HighBit", "PixelRepresentation", "PlanarConfiguration"),
)
PLANE = {"PixelSpacing": 2, "ImageOrientationPatient": 6, "ImagePositionPatient": 3}  # with their counts of numbers
GROUPS = (  # sequences of functional groups that hold the fields of a frame
    *("PixelMeasuresSequence", "PlaneOrientationSequence", "PlanePositionSequence", "SegmentIdentificationSequence"),
    "PixelValueTransformationSequence",
)
Stamps = tuple[tuple[Path, downloads.Stamp], ...]


class DamagedError(DataError):
    """Raised for a file that pydicom does not read, as it is damaged or another kind."""


@dataclass(frozen=True, kw_only=True)
class File:
    """Fields of a file up to its voxels."""

    path: Path
    fields: Any  # pydicom's Dataset
    kind: str  # UID of the kind of object
    syntax: Any  # of transfer
    num_voxels: int
    num_bytes: int  # of the voxels, as the fields state
    room: int  # for them, at most
    frame: int = 0


def is_dicom(path: Path) -> bool:
    """True if the file at `path` has DICOM's mark."""
    if not path.is_file():  # a pipe has no end
        return False
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def label_files(files: Sequence[Path]) -> list[Path]:
    """Returns the segmentations among files, else the RTSTRUCT files; reading these raises DataError."""
    kinds: dict[Path, str] = {}
    for path in files:
        with suppress(DataError), reading(path) as pydicom:
            kinds[path] = str(pydicom.filereader.read_file_meta_info(path).get("MediaStorageSOPClassUID", ""))
    segmentations = [path for path, kind in kinds.items() if kind in (SEG, LABELMAP)]
    return segmentations or [path for path, kind in kinds.items() if kind == RTSTRUCT]


def kind_name(uid: str) -> str:
    """Returns the name of a kind of object; what damage made of a UID may hold fields of the patient."""
    with quiet() as pydicom:
        kind = pydicom.uid.UID(uid)
        return "RTSTRUCT" if kind == RTSTRUCT else str(kind.name) if kind.is_valid else "an object without a kind"


def stamp_files(files: Sequence[Path], where: Path) -> Stamps:
    """Returns files with their stamps: the key of what is cached of them. `where` begins an error."""
    try:
        return tuple((path, downloads.stamp(path)) for path in files)
    except OSError:
        raise DataError(f"{where}: expected the files that were listed, got fewer: plan the job again") from None


def read_file(path: Path, where: Path, *tags: str) -> File:
    """Returns the fields of the file at `path`, or those of some `tags` (keywords of DICOM); raises DataError, which
    shows `where`, for one that is damaged or no DICOM."""
    with reading(where) as pydicom, open_file(path, where) as (stream, syntax):
        fields = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=list(tags) or None)
        fields.buffer = None  # else what was inflated is kept too
        for _ in fields.iterall():  # which decodes each value, so that none is damaged later
            pass
        # behind their head
        size = path.stat().st_size
        start = stream.tell() + (8 if syntax.is_implicit_VR else 12)
        room = size * MOST_PACKED if syntax.is_deflated or syntax.is_encapsulated else size - start
        if syntax.is_encapsulated:
            stream.seek(max(start, size - TAIL))
            room *= END_OF_FRAMES in stream.read()
        count = int(fields.get("Rows", 0)) * int(fields.get("Columns", 0)) * int(fields.get("NumberOfFrames") or 1)
        bits = count * int(fields.get("BitsAllocated", 0)) * int(fields.get("SamplesPerPixel", 1))
        return File(
            path=path,
            fields=fields,
            kind=str(fields.get("SOPClassUID", "")),
            syntax=syntax,
            num_voxels=count,
            num_bytes=-(-bits // 8),
            room=room,
        )


def read_frames(fields: Any, where: Path) -> list[dict[str, Any]]:
    """Returns place, scale and segment of each frame of a file's `fields`, from its own functional groups, else from
    the shared ones; DataError, which shows `where`, for frames without them."""
    shared, own = (fields.get(f"{name}FunctionalGroupsSequence") or [] for name in ("Shared", "PerFrame"))
    count = read_whole(fields, "NumberOfFrames", where)
    if len(own) != count:
        raise DataError(f"{where}: expected a place of each of {count} frames, got {len(own)}: store it anew")
    with reading(where):
        common = _group_fields(shared[0]) if shared else {}
        return [common | _group_fields(groups) for groups in own]


def _group_fields(groups: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name in GROUPS:
        for item in groups.get(name) or ():
            fields |= {field.keyword: field.value for field in item}
    return fields


def patient_fields(files: Sequence[Path]) -> dict[str, str]:
    """Returns the fields of the patient in the first of `files` that is DICOM, to keep them out of names."""
    for path in files:
        with suppress(DataError):
            fields = read_file(path, path, *PATIENT).fields
            return {name: str(fields[name].value) for name in PATIENT if name in fields and fields[name].value}
    return {}


def read_numbers(fields: Any, name: str, count: int, where: Path) -> npt.NDArray[np.float64]:
    """Returns `count` finite numbers of the field `name`; DataError, which shows `where`, for others or none in
    `fields`."""
    with reading(where, f"expected {count} number{'s' * (count > 1)} as {name}, got none or others: fix the file"):
        values = np.array(fields.get(name), np.float64).reshape(count)
        if not np.isfinite(values).all():
            raise ValueError(name)
    return values


def read_whole(fields: Any, name: str, where: Path) -> int:
    """Returns the number of the field `name` without its fraction; see `read_numbers` of `fields` and `where`."""
    return int(read_numbers(fields, name, 1, where)[0])


def read_plane(fields: Any, where: Path) -> npt.NDArray[np.float64]:
    """Returns the 11 numbers of PLANE, where a slice with these `fields` lies, in their order; see `read_numbers` of
    `where`."""
    return np.concatenate([read_numbers(fields, name, count, where) for name, count in PLANE.items()])


def read_pixels(path: Path, where: Path) -> npt.NDArray[Any]:
    """Returns the numbers as the file at `path` stores them, decoded; DataError shows `where`."""
    file = read_file(path, where, *PIXELS)
    check_room(where, file.num_voxels, file.num_bytes, file.room)
    advice = "fetch it again, or store it uncompressed (dcmdjpeg, dcmdrle or gdcmconv --raw)"
    fault = f"expected voxels that pydicom or GDCM decodes, got a file that neither does ({file.syntax.name}): {advice}"
    with reading(where, fault) as pydicom, open_file(path, where, file.num_bytes) as (stream, syntax):
        if not syntax.is_encapsulated:
            return pydicom.pixels.pixel_array(stream)
        if (fields := pydicom.dcmread(stream, specific_tags=[*PIXELS, "PixelData"])).BitsAllocated == 1:
            return fields.pixel_array
        import SimpleITK

        # By its GDCM without the slope, which GDCM heeds in some kinds alone.
        fields.SOPClassUID = fields.file_meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
        with TemporaryDirectory(prefix="freqbench-") as folder, silence_warnings():
            fields.save_as(slice_of := f"{folder}/slice.dcm")
            return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(slice_of, imageIO="GDCMImageIO"))


@contextmanager
def open_file(path: Path, where: Path, voxels: int = 0) -> Iterator[tuple[Any, Any]]:
    """Opens the DICOM file at `path` with its syntax, a deflated one inflated, MOST_FIELDS and `voxels` bytes at most;
    DataError shows `where`."""
    from pydicom.filereader import read_dataset, read_preamble

    with path.open("rb") as stream:
        read_preamble(stream, force=False)
        meta = read_dataset(stream, False, True, stop_when=lambda tag, *_: tag >> 16 != 2)
        syntax = meta.get("TransferSyntaxUID")
        start = stream.tell()
        stream.seek(0)
        if syntax != DEFLATED.decode():
            yield stream, syntax
            return
        head = stream.read(start).replace(DEFLATED, EXPLICIT)
        unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
        content = unpacker.decompress(stream.read(), MOST_FIELDS + voxels)
    inflated = BytesIO(head + content)
    yield inflated, syntax
    if not unpacker.eof and (voxels or inflated.tell() >= len(head + content)):
        raise DataError(
            f"{where}: expected at most {MOST_FIELDS // 2**20} MiB beside the voxels of a deflated file, got more or a "
            "damaged one: fetch it again, or store it uncompressed"
        )


@contextmanager
def reading(where: Path, complaint: str = NO_DICOM) -> Iterator[Any]:
    """Gives pydicom as `quiet` does; raises DamagedError for whatever it raises of a damaged file: `where`, then the
    `complaint`."""
    with quiet() as pydicom:
        try:
            yield pydicom
        except (UserError, MemoryError):
            raise
        except PermissionError:
            raise DataError(f"{where}: expected files that may be read, got others: check permissions") from None
        except Exception:  # noqa: BLE001 (damaged bytes can make it raise anything, in words that hold fields)
            raise DamagedError(f"{where}: {complaint}") from None


@contextmanager
def quiet() -> Iterator[Any]:
    """Gives pydicom, whose warnings and log tell values of fields, without them."""
    try:
        import pydicom
    except ImportError:
        raise UserError(f"DICOM: expected the package pydicom: {installing('dicom')}") from None
    logger = logging.getLogger("pydicom")
    before = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings(action="ignore"):
            yield pydicom
    finally:
        logger.disabled = before
