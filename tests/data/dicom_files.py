"""Small DICOM files, written by pydicom and highdicom, of a patient whose fields must not be told."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from .downloads import Array

PATIENT = {
    "PatientName": "Zweistein^Albertine",
    "PatientID": "MRN4711",
    "PatientBirthDate": "19131108",
    "OtherPatientIDs": "SSN0815",
    "PatientBirthName": "Quarkbein^Urlabrunn",
    "AccessionNumber": "ACC99231",
    "PatientAddress": "Schneckengasse",
    "PatientTelephoneNumbers": "0815471142",
    "PatientMotherBirthName": "Mumpitz^Ottilie",
    "MedicalRecordLocator": "LOC7733",
    "PatientComments": "kommtnieallein",
    "AdditionalPatientHistory": "vorgeschichtlich",
    "EthnicGroup": "marsianisch",
    "InstitutionName": "Siebenschlaf-Klinik",
    "InstitutionAddress": "Kurallee",
    "InstitutionalDepartmentName": "Durchleuchterei",
    "StationName": "ROEHRE9",
    "ReferringPhysicianName": "Doktorowa^Walpurga",
    "PerformingPhysicianName": "Ueberweiser^Knutolf",
    "NameOfPhysiciansReadingStudy": "Vorleser^Bodowin",
    "OperatorsName": "Knipser^Heidelinde",
    "RequestingPhysician": "Wunschmann^Pittiplatsch",
    "StudyDescription": "Wehwehchen",
    "SeriesDescription": "Bauchgrimmen",
    "ProtocolName": "Pustekuchen",
    "StudyID": "STU5150",
    "StudyDate": "19870213",
    "StudyTime": "142536.731946",
    "AcquisitionDate": "19870214",
    "DeviceSerialNumber": "SER31337",
}
LABELS = ("liver", "tumour")


def put_series(
    folder: Path,
    voxels: Array,
    affine: Array | None = None,
    scale: tuple[float, float] = (1.0, 0.0),
    uid: str | None = None,
    frame: str | None = None,
    changes: Mapping[int, Mapping[str, Any]] | None = None,
) -> list[Path]:
    """Writes `[H, W, D]` a file a slice, in another order; `changes` of fields by slice, None removes, -1 is all."""
    folder.mkdir(parents=True, exist_ok=True)
    grid = np.diag([-1.0, -1.0, 1.0, 1.0]) @ (np.eye(4) if affine is None else affine)
    sides = np.linalg.norm(grid[:3, :3], axis=0)
    uid = uid or generate_uid()
    frame = frame or generate_uid()
    study = generate_uid()
    stored = np.rint((voxels - scale[1]) / scale[0]).astype(np.int16)
    paths = []
    for k in range(voxels.shape[2]):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        path = folder / f"{PATIENT['PatientID']}_{(k * 7) % 11:02d}_{k}.dcm"
        fields = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
        fields.SOPClassUID = CTImageStorage
        fields.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
        fields.SeriesInstanceUID = uid
        fields.FrameOfReferenceUID = frame
        fields.StudyInstanceUID = study
        fields.Modality = "CT"
        fields.InstanceNumber = 1 + (k * 5) % 11
        fields.SeriesNumber = 1
        fields.PatientSex = "O"
        for name, value in PATIENT.items():
            setattr(fields, name, value)
        fields.Columns, fields.Rows = voxels.shape[:2]
        fields.SamplesPerPixel = 1
        fields.PhotometricInterpretation = "MONOCHROME2"
        fields.BitsAllocated = fields.BitsStored = 16
        fields.HighBit = 15
        fields.PixelRepresentation = 1
        fields.PixelSpacing = [sides[1], sides[0]]
        fields.SliceThickness = sides[2]
        fields.SliceLocation = k
        fields.ImageOrientationPatient = [*(grid[:3, 0] / sides[0]), *(grid[:3, 1] / sides[1])]
        fields.ImagePositionPatient = [*(grid @ [0, 0, k, 1])[:3]]
        fields.RescaleSlope, fields.RescaleIntercept = scale
        fields.PixelData = np.ascontiguousarray(stored[:, :, k].T).tobytes()
        for index in (-1, k):
            for name, value in (changes or {}).get(index, {}).items():
                if value is None:
                    delattr(fields, name)
                else:
                    setattr(fields, name, value)
        fields.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def put_seg(
    path: Path, series: Sequence[Path], masks: Mapping[str, Array], kind: str = "BINARY", **fields: Any
) -> None:
    """Writes masks `[H, W, D]`, bool, of segments by their labels as highdicom does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    segments = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=label,
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Liver,
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number, label in enumerate(masks, 1)
    ]
    voxels = np.stack([mask.T for mask in masks.values()], axis=-1)
    seg = highdicom.seg.Segmentation(
        source_images=[pydicom.dcmread(file) for file in series],
        pixel_array=voxels.astype(np.uint8),
        segmentation_type=kind,
        segment_descriptions=segments,
        series_instance_uid=generate_uid(),
        series_number=2,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="x",
        manufacturer_model_name="x",
        software_versions="1",
        device_serial_number="1",
    )
    for name, value in fields.items():
        setattr(seg, name, value)
    seg.save_as(path)
