"""Makes DICOM of volumes and label maps: derived series, and segmentations (SEG) of them. Without consent nothing of
the patient, the place or the staff is copied, nor a UID."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from freqbench.core import __version__
from freqbench.core.errors import DataError, UserError, installing
from freqbench.core.files import storage
from freqbench.core.input_space import parse_intensity
from freqbench.core.types import CaseRef, NativeCase
from freqbench.data import dicom, image_files
from freqbench.data.base import Dataset
from freqbench.data.itk import LPS_TO_RAS
from freqbench.data.loaders.dicom import LABELS, DicomFolders
from freqbench.engine import saved_volumes
from freqbench.job.cells import Cell
from freqbench.results import volumes as layout

CLEAN = "clean"
MARK = b"FREQBENCH"  # in the head of each file
CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
PET = "1.2.840.10008.5.1.4.1.1.128"
MODALITIES = {CT: "CT", MR: "MR", PET: "PT"}
LEVELS = 2**16 - 2  # steps from the lowest to the highest intensity; one is left for the rounding of the step itself
RIGHT_ANGLE = 1e-3  # cosine of two axes
Volume = npt.NDArray[np.float32]

# Fields of a slice that say how it was made, and of nobody; some are empty without a scan.
SCAN = (
    *("PatientPosition", "SliceThickness", "BodyPartExamined", "WindowCenter", "WindowWidth", "KVP", "RescaleType"),
    *("ScanningSequence", "SequenceVariant", "ScanOptions", "MRAcquisitionType", "RepetitionTime", "EchoTime"),
    *("EchoTrainLength", "Units", "CountsSource", "SeriesType", "CorrectedImage", "DecayCorrection"),
    *("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod", "BurnedInAnnotation"),
)

# Fields that the kinds of objects require, of nobody and of no scan.
EMPTY = (
    *("PatientName", "PatientBirthDate", "PatientSex", "ReferringPhysicianName", "AccessionNumber", "StudyDate"),
    *("StudyTime", "StudyID", "AcquisitionNumber", "PatientPosition"),
)
UNSCANNED_CT = {"KVP": "", "RescaleType": "HU"}
UNSCANNED_MR = {
    "ScanningSequence": "RM",
    "SequenceVariant": "NONE",
    "ScanOptions": "",
    "MRAcquisitionType": "",
    "RepetitionTime": "",
    "EchoTime": "",
    "EchoTrainLength": "",
}
UNSCANNED = {CT: UNSCANNED_CT, MR: UNSCANNED_MR}

# Fields that identify a patient or lead to one, and are copied with consent alone.
OF_PATIENT = (
    *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientBirthTime", "PatientSex"),
    *("OtherPatientIDs", "OtherPatientIDsSequence", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName"),
    *("PatientAge", "PatientSize", "PatientWeight", "PatientAddress", "PatientTelephoneNumbers", "EthnicGroup"),
    *("MedicalRecordLocator", "PatientComments", "AdditionalPatientHistory", "MedicalAlerts", "Allergies"),
)
OF_STUDY = (
    *("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "StudyDescription", "AccessionNumber"),
    *("ReferringPhysicianName", "PhysiciansOfRecord", "NameOfPhysiciansReadingStudy", "RequestingPhysician"),
    *("PerformingPhysicianName", "OperatorsName", "AcquisitionDate", "AcquisitionTime", "ContentDate", "ContentTime"),
    *("InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName", "StationName", "ProtocolName"),
    *("FrameOfReferenceUID", "PositionReferenceIndicator"),
)
IDENTITY = (*OF_PATIENT, *OF_STUDY)


@dataclass(frozen=True, kw_only=True)
class Derivation:
    """Says of a series what it is made of, and how."""

    case: str  # the key of the case, which its UIDs are made of
    patient: str  # as freqbench calls the patient
    key: str  # of this series among those of the case
    clean: str | None  # key of the series that it is derived from, unless that is the case's own
    number: int
    title: str
    text: str
    kind: str  # CT or MR, if the case's own slices do not say it
    source: dicom.series.Series | None  # the case's slices, if it is DICOM
    keeps_identity: bool = False

    def uid(self, *parts: object) -> str:
        """Returns the UID of a part of the case, which is the same in each export."""
        from pydicom.uid import generate_uid

        return str(generate_uid(entropy_srcs=["freqbench", self.case, str(self.keeps_identity), *map(str, parts)]))


def made_kind(dataset: Dataset) -> str:
    """Returns the kind of object for cases of `dataset` that are no DICOM: CT if a window of negative intensities
    scales them."""
    scaling = parse_intensity(dataset.space.intensity)
    return CT if scaling.kind == "window" and scaling.low < 0 else MR


def require_packages() -> None:
    """Raises UserError if a package that writes DICOM is missing."""
    try:
        import highdicom  # noqa: F401
    except ImportError:
        raise UserError(f"DICOM: expected the package highdicom: {installing('dicom')}") from None


def slices(image: Volume, native: NativeCase, derivation: Derivation, whole: bool) -> tuple[list[Any], Volume, float]:
    """Returns the slices of a volume, what readers get of it, and the step between two intensities. Raises DataError
    for axes not at right angles.

    Args:
        image: intensities in the data's unit, `[H, W, D]`.
        native: the case in its file's grid, whose affine places the slices.
        derivation: what the series is made of.
        whole: whether steps are 1, for int16, else the range of the volume in LEVELS.
    """
    low = "0"
    step = "1"
    kind = np.dtype("<i2" if whole else "<u2")
    if not whole:
        lowest = float(image.min())
        low = f"{lowest:.9e}"
        step = f"{(float(image.max()) - lowest) / LEVELS or 1.0:.9e}"
    codes = np.rint((image.astype(np.float64) - float(low)) / float(step))
    stored = codes.clip(np.iinfo(kind).min, np.iinfo(kind).max).astype(kind)
    grid = _grid(native)
    made = []
    for k in range(image.shape[2]):
        fields = _head(derivation, k)
        _place(fields, grid, k)
        _copy(fields, derivation, k)
        fields.SamplesPerPixel = 1
        fields.PhotometricInterpretation = "MONOCHROME2"
        fields.Columns, fields.Rows = image.shape[:2]
        fields.BitsAllocated = fields.BitsStored = 16
        fields.HighBit = 15
        fields.PixelRepresentation = int(whole)
        fields.RescaleIntercept = low
        fields.RescaleSlope = step
        fields.PixelData = stored[:, :, k].T.tobytes()
        made.append(fields)
    return made, (stored * float(step) + float(low)).astype(np.float32), float(step)


def pack_file(fields: Any) -> bytes:
    """Returns the content of a file with these fields, a dataset of pydicom."""
    stream = BytesIO()
    fields.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _replace(folder: str, files: Mapping[str, bytes]) -> None:
    """Writes files into a folder, and removes those of a former export; raises UserError if others lie there."""
    former = storage.list_tree(folder, 2)
    for name in former:
        storage.require_own(storage.join(folder, name), MARK)
    for name, content in files.items():
        storage.write_atomic(storage.join(folder, name), content)
    for name in {*former} - files.keys():
        storage.remove(storage.join(folder, name))


def _head(derivation: Derivation, k: int) -> Any:
    """Returns the fields of slice `k` that say what it is: UIDs, derivation, and whom it is of."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    kind = str(_source_fields(derivation, k).get("SOPClassUID", derivation.kind))
    kind = kind if kind in MODALITIES else derivation.kind
    meta = FileMetaDataset()
    fields = Dataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = kind
    meta.MediaStorageSOPInstanceUID = derivation.uid(derivation.key, k)
    meta.ImplementationVersionName = MARK.decode()
    meta.ImplementationClassUID = "1.2.826.0.1.3680043.8.498.1"
    fields.file_meta = meta
    fields.SpecificCharacterSet = "ISO_IR 192"
    fields.SOPClassUID = kind
    fields.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    fields.StudyInstanceUID = derivation.uid("study")
    fields.SeriesInstanceUID = derivation.uid(derivation.key)
    fields.FrameOfReferenceUID = derivation.uid("frame")
    fields.PositionReferenceIndicator = ""
    fields.Modality = MODALITIES[kind]
    fields.SeriesNumber = derivation.number
    fields.InstanceNumber = k + 1
    fields.ImageType = ["DERIVED", "SECONDARY", "AXIAL" if kind == CT else "OTHER"]
    fields.SeriesDescription = derivation.title[:64]
    fields.DerivationDescription = derivation.text[:1024]
    fields.Manufacturer = "freqbench"
    fields.ManufacturerModelName = "freqbench"
    fields.SoftwareVersions = __version__
    fields.PatientID = derivation.patient
    for name, value in (dict.fromkeys(EMPTY, "") | UNSCANNED.get(kind, {})).items():
        setattr(fields, name, value)
    if derivation.source is not None and not derivation.keeps_identity:
        fields.PatientIdentityRemoved = "YES"
        fields.DeidentificationMethod = "new UIDs, fields left out, by freqbench"
    return fields


def _source_fields(derivation: Derivation, k: int) -> Any:
    """Returns the fields of the case's own slice, empty if it is no DICOM."""
    source = derivation.source
    return {} if source is None else dicom.files.read_file(source.files[k], source.path).fields


def _copy(fields: Any, derivation: Derivation, k: int) -> None:
    """Copies fields of the case's own slice: those of the scan, and with consent those of the patient."""
    from pydicom.dataset import Dataset
    from pydicom.sr.codedict import codes

    own = _source_fields(derivation, k)
    for name in (*SCAN, *dicom.files.PLANE, *(IDENTITY if derivation.keeps_identity else ())):
        if name in own:
            fields[name] = own[name]
    if derivation.keeps_identity:
        uid = own.SOPInstanceUID
    elif derivation.clean is not None:
        uid = derivation.uid(derivation.clean, k)
    else:
        return
    item = Dataset()
    purpose = Dataset()
    code = codes.DCM.SourceImageForImageProcessingOperation
    purpose.CodeValue = code.value
    purpose.CodingSchemeDesignator = "DCM"
    purpose.CodeMeaning = code.meaning
    item.ReferencedSOPClassUID = own.get("SOPClassUID", fields.SOPClassUID)
    item.ReferencedSOPInstanceUID = uid
    item.PurposeOfReferenceCodeSequence = [purpose]
    item.SpatialLocationsPreserved = "YES"
    fields.SourceImageSequence = [item]


def _grid(native: NativeCase) -> npt.NDArray[np.float64]:
    """Returns voxel to world millimetres (LPS+); raises DataError for axes that are not at right angles."""
    grid = LPS_TO_RAS @ native.affine[:3]
    axes = grid[:, :3] / native.spacing
    if (worst := float(np.abs(axes.T @ axes - np.eye(3)).max())) > RIGHT_ANGLE:
        got = f"got a cosine of {worst:.3g}: export it as nifti"
        raise DataError(f"{native.source}: expected axes at right angles, as slices of DICOM are stacked, {got}")
    return grid


def _place(fields: Any, grid: npt.NDArray[np.float64], k: int) -> None:
    from pydicom.valuerep import format_number_as_ds

    sides = np.linalg.norm(grid[:, :3], axis=0)
    values = {
        "PixelSpacing": sides[1::-1],
        "ImageOrientationPatient": (grid[:, :2] / sides[:2]).T.ravel(),
        "ImagePositionPatient": grid[:, 2] * k + grid[:, 3],
        "SliceThickness": sides[2:],
    }
    for name, numbers in values.items():
        setattr(fields, name, [format_number_as_ds(float(number) + 0.0) for number in numbers])


def segmentation(
    voxels: npt.NDArray[Any], series: Sequence[Any], names: Sequence[str], target: str, uids: Sequence[str]
) -> Any:
    """Returns the SEG of a prediction.

    Args:
        voxels: label map `[H, W, D]`, or masks `[K, H, W, D]` that may overlap.
        series: the slices that it is of, as `slices` made them.
        names: those of the classes from 1 on.
        target: the predicting network.
        uids: of the object and of its series.
    """
    import highdicom
    from pydicom.sr.codedict import codes

    family = codes.DCM.ArtificialIntelligence
    algorithm = highdicom.AlgorithmIdentificationSequence(name=target[:64], family=family, version=__version__)
    describe = partial(
        highdicom.seg.SegmentDescription,
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=codes.SCT.AnatomicalStructure,
    )
    segments = [describe(segment_number=k, segment_label=name[:64]) for k, name in enumerate(names, 1)]
    kind = np.uint8 if len(names) < 256 else np.uint16
    pixels = np.ascontiguousarray(voxels.T, kind)
    uid, series_uid = uids
    made = highdicom.seg.Segmentation(
        source_images=list(series),
        pixel_array=pixels,
        segmentation_type="BINARY",
        omit_empty_frames=bool(voxels.any()),
        segment_descriptions=segments,
        series_instance_uid=series_uid,
        series_number=int(series[0].SeriesNumber),
        sop_instance_uid=uid,
        instance_number=1,
        manufacturer="freqbench",
        manufacturer_model_name="freqbench",
        software_versions=__version__,
        device_serial_number="0",
        series_description=f"freqbench prediction of {target}"[:64],
    )
    made.file_meta.ImplementationVersionName = MARK.decode()
    return made


@dataclass(frozen=True, kw_only=True)
class CaseSeries:
    """Writes the series of a case, and predictions of them on its file's grid."""

    dataset: Dataset
    ref: CaseRef
    native: NativeCase
    root: str  # of the saved volumes
    keeps_identity: bool

    def write(self, folder: str, cells: list[Cell], number: int, image: Tensor, whole: bool) -> tuple[Tensor, float]:
        """Writes a volume as a series a channel, and predictions to `labels` beside the folder, where `loader: dicom`
        finds them. Returns what readers get, and its largest step.

        Args:
            folder: path of the series; `channel_<c>` below it where there are several.
            cells: those whose predictions are written; the first one made the volume.
            number: place of the volume among those of the case; 0: the clean one.
            image: intensities in the data's unit, `[C, H, W, D]`.
            whole: as in `slices`.
        """
        files: dict[str, bytes] = {}
        first: list[Any] = []
        stored: list[Tensor] = []
        steps: list[float] = []
        labels: dict[str, bytes] = {}
        above, _, case = folder.rpartition("/")
        with dicom.files.quiet():
            for channel, voxels in enumerate(image.numpy()):
                derivation = self._derivation(cells[0], number, channel, len(image))
                series, read, step = slices(voxels, self.native, derivation, whole)
                place = f"channel_{channel}/" if len(image) > 1 else ""
                files |= {f"{place}{k:04d}.dcm": pack_file(fields) for k, fields in enumerate(series, 1)}
                stored.append(torch.from_numpy(read))
                steps.append(step)
                first = first or series
            kind = layout.ON_ADVERSARIAL if number else layout.ON_CLEAN
            for target, path in self._predictions(cells, kind).items():
                uids = tuple(derivation.uid(derivation.key, part, target) for part in ("object", "series"))
                made = segmentation(self._masks(path), first, self.dataset.class_names[1:], target, uids)
                labels[f"prediction-{target}.dcm"] = pack_file(made)
        _replace(folder, files)
        _replace(storage.join(above, LABELS, case), labels)
        return torch.stack(stored), max(steps)

    def _masks(self, path: str) -> npt.NDArray[Any]:
        """Returns a saved label map on the grid of the case's file, by the nearest voxels; of regions their masks."""
        from scipy.ndimage import affine_transform

        header = image_files.read_header(image_files.fetch(path))
        way = np.linalg.inv(header.affine) @ self.native.affine
        shape = self.native.image.shape[1:]
        held = image_files.read_integers(header)
        at = (way[:3, :3], way[:3, 3])
        label: Volume = affine_transform(held, *at, shape, order=0, mode="grid-constant")
        if not (regions := self.dataset.classes.of_labels):
            return label
        masks: list[npt.NDArray[np.bool_]] = []
        for number in range(1, len(self.dataset.classes)):
            values = [value for value, inside in enumerate(regions) if number in inside]
            masks.append(np.isin(label, values))
        return np.stack(masks)

    def _predictions(self, cells: Sequence[Cell], kind: str) -> dict[str, str]:
        """Returns the paths of saved label maps by their target."""
        paths: dict[str, str] = {}
        for cell in cells:
            folder = saved_volumes.folder(self.root, cell, self.ref)
            found = layout.predictions(storage.list_files(folder, layout.SUFFIX))
            paths |= {target: storage.join(folder, names[kind]) for target, names in found.items() if kind in names}
        return paths

    def _derivation(self, cell: Cell, number: int, channel: int, channels: int) -> Derivation:
        attack = cell.attack
        own = self.dataset.slices(self.ref) if isinstance(self.dataset, DicomFolders) else None
        budget = f" {attack.budget_name}={getattr(attack, attack.budget_name):g}" if attack.budget_name else ""
        made = f"{attack.name}{budget} on {cell.source.name}"
        clean = Derivation(
            case=self.dataset.case_key(self.ref),
            patient=self.ref.patient_id,
            key=f"{CLEAN}-{channel}",
            clean=None,
            number=number * channels + channel + 1,
            title="freqbench clean",
            text="The clean volume that adversarial ones were made of",
            kind=made_kind(self.dataset),
            source=own,
            keeps_identity=self.keeps_identity,
        )
        if number == 0:
            return clean
        return replace(
            clean,
            key=f"{cell.cell_id}-{channel}",
            clean=clean.key,
            title=f"freqbench {made}",
            text=f"Adversarial volume, not for diagnosis: {made}, {cell.params}",
        )
