"""Tells patients by the names of cases, and keeps the fields of a patient out of names."""

import re
from collections.abc import Mapping, Sequence

from freqbench.core.terminal import amount

# A patient's name by the usual names of cases: BIDS, BraTS 2023 and later, and frames of a cine.
_PATIENTS = re.compile(r"(?P<bids>sub-[^_]+)_.+|(?P<brats>BraTS(?:-[A-Za-z]+)+-[0-9]+)-[0-9]+|(?P<cine>.+?)_frame.*")
_VISIT = re.compile(  # the end that tells a patient's images apart; one with a number follows a patient with one
    r"(?P<numbered>(?P<patient>.*[0-9].*)[._-](?:acq|day|frame|fu|month|ph|phase|run|scan|ses|session|t|time|timepoint|"
    r"tp|v|visit|week|year)[._-]?[0-9]+)|"
    r"(?P<named>.+?)[._-](?:arterial|baseline|delayed|(?:(?:sax?|lax?|[234]ch)[._-])?(?:ed|es)|exp|"
    r"follow[._-]?up[0-9]*|insp|portal|post[0-9]*|pre[0-9]*|venous)",
    re.IGNORECASE,
)
_LAST_PART = re.compile(r"(?P<rest>.*[0-9].*)[._-][^._-]+")


def usual_patient(case_id: str) -> str:
    """Returns the patient whom a case's name `case_id` tells by the usual spellings, else the whole name.

    >>> usual_patient("sub-01_ses-02_T1w"), usual_patient("BraTS-GLI-00099-001"), usual_patient("case_07_t1_post")
    ('sub-01', 'BraTS-GLI-00099', 'case_07')
    """
    if match := _PATIENTS.fullmatch(case_id):
        return str(match["bids"] or match["brats"] or match["cine"])
    while match := _VISIT.fullmatch(case_id):
        case_id = match["patient"] or match["named"]
    return case_id


def counted_patients(patients: Sequence[str]) -> str:
    """Returns in words how many cases and patients there are, given the patient of each case."""
    return f"{amount(len(patients), 'case')} of {amount(len(set(patients)), 'patient')}"


def alike(patients: Sequence[str]) -> tuple[str, ...]:
    """Returns the first patients whose names differ in their last part alone, if names of others do too; else none."""
    groups: dict[str, list[str]] = {}
    for patient in dict.fromkeys(patients):
        if match := _LAST_PART.fullmatch(patient):
            groups.setdefault(match["rest"], []).append(patient)
    return tuple(next((group for group in groups.values() if len(groups) > 1 < len(group)), ()))


def names_patient(text: str, fields: Mapping[str, str]) -> bool:
    """True if a text holds a word of one of the patient's `fields`, by their names in DICOM.

    >>> names_patient("scan_doe_2", {"PatientName": "DOE^JOHN"}), names_patient("case_2", {"PatientName": "DOE^JOHN"})
    (True, False)
    """
    text = text.lower()
    parts = re.split(r"[\W_]+", text)
    words = [word for word in re.split(r"[\W_]+", " ".join(fields.values()).lower()) if len(word) > 1]
    return any(word in (text if len(word) > 3 else parts) for word in words)
