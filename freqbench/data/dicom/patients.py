"""Keeps a patient's fields out of the names of cases."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from freqbench.core.errors import DataError
from freqbench.data.dicom.files import read_file

PATIENT = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientBirthName", "PatientMotherBirthName"),
    *("OtherPatientIDs", "OtherPatientNames", "MedicalRecordLocator", "AccessionNumber", "PatientAddress"),
    *("PatientTelephoneNumbers", "ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName", "StudyDate"),
)


def patient_fields(files: Sequence[Path]) -> dict[str, str]:
    """Returns the fields of the patient in the first file that is DICOM, to keep them out of names."""
    for path in files:
        with suppress(DataError):
            fields = read_file(path, path, *PATIENT).fields
            return {name: str(fields[name].value) for name in PATIENT if name in fields and fields[name].value}
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
