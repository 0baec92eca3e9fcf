"""Patients by the names of cases: intervals are over patients, so time points of one must not pass for two."""

import signal
from pathlib import Path

import pytest

from freqbench.core.errors import DataError
from freqbench.data.loaders.phantom import Phantom
from freqbench.data.patients import usual_patient

from . import downloads
from .conftest import Folder, made, refused


@pytest.mark.parametrize(
    ("names", "patient"),
    [
        (("sub-A7_ses-02", "sub-A7_ses-10_run-2_T1w", "sub-A7_acq-mprage_T1w"), "sub-A7"),
        (("BraTS-GLI-01666-000", "BraTS-GLI-01666-101"), "BraTS-GLI-01666"),
        (("BraTS-MEN-RT-0042-1", "BraTS-MEN-RT-0042-2"), "BraTS-MEN-RT-0042"),
        (("patient101_frame01", "patient101_frame14", "patient101_ED"), "patient101"),
        (("p3_t0", "p3_t1", "p3_T2", "p3-tp4", "p3.timepoint_5"), "p3"),
        (("case_12_pre", "case_12_post", "case_12_follow-up", "case_12_followup2", "case_12-baseline"), "case_12"),
        (("0007_V01", "0007_v2", "0007-visit-3", "0007_scan2", "0007_phase_3", "0007_ses-1_run-2"), "0007"),
        (("liver9_arterial", "liver9_portal", "liver9_venous"), "liver9"),
        (("smith_pre", "smith_post"), "smith"),
        (("A0S9V9_SA_ED", "A0S9V9_SA_ES", "A0S9V9_LA_ED", "A0S9V9_2CH_ES"), "A0S9V9"),
    ],
)
def test_images_of_one_patient_share_its_name(names: tuple[str, ...], patient: str) -> None:
    assert {usual_patient(name) for name in names} == {patient}


@pytest.mark.parametrize(
    "name",
    [
        *("BraTS20_Training_001", "BraTS2021_00495", "amos_0501", "case_00000", "s0001", "img0001", "hippocampus_001"),
        *("phantom_0003", "volume-10", "ct_phase_01", "scan_001", "LIDC-IDRI-0001", "liver_t2"),
    ],
)
def test_a_name_without_a_visit_is_a_patient_of_its_own(name: str) -> None:
    assert usual_patient(name) == name


@pytest.mark.parametrize(
    "pattern", [r"^(\d+)", r"(?:ID)?(?P<patient>\d+)[LR]", r"\d+", r"(x)?(?P<patient>\d{2})", r"^\d(?=\d)\d"]
)
def test_pattern_names_the_patient_by_group_or_match(folder: Folder, pattern: str) -> None:
    for name in ("71L", "71R"):
        folder.write(name, *downloads.volume(sum(name.encode())))
    folder.list(validation=[{"image": f"imagesTr/{n}.nii.gz", "label": f"labelsTr/{n}.nii.gz"} for n in ("71L", "71R")])
    assert [ref.patient_id for ref in folder.dataset(patient=pattern).refs()] == ["71", "71"]


def test_pattern_precedes_the_list_and_the_list_the_name(folder: Folder) -> None:
    line = {"image": "imagesTr/b.nii.gz", "label": "labelsTr/b.nii.gz", "patient": "anna"}
    folder.list(validation=[line, {"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}])
    assert [ref.patient_id for ref in folder.dataset().refs()] == ["anna", "a"]
    assert [ref.patient_id for ref in folder.dataset(patient="^.").refs()] == ["b", "a"]


@pytest.mark.parametrize("pattern", ["x$", "(x)?b?", "(?P<patient>x)?."])
def test_a_name_without_a_patient_is_refused(folder: Folder, pattern: str) -> None:
    refused("which finds none in a: change it", lambda: folder.dataset(patient=pattern).refs(), DataError)


@pytest.mark.parametrize(
    "pattern", ["^((a+)+)+$", "(a|a)*$", "(.*)*\\1\\1!", ".*.*.*.*.*.*.*!", "(?=(a|aa)+$)b|!", "((a|){1000}){1000}!"]
)
def test_a_pattern_that_takes_years_is_refused_at_once(pattern: str) -> None:
    dataset = Phantom(name="x", patient=pattern)
    refused("on a name of 61 letters: write it with fewer repeats", lambda: dataset.patient_of("a" * 60 + "b"))


def test_a_pattern_leaves_the_timer_of_the_process_as_it_was() -> None:
    before = signal.getsignal(signal.SIGPROF)
    assert Phantom(name="x", patient="^.").patient_of("ab") == "a"
    assert signal.getsignal(signal.SIGPROF) is before
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)


@pytest.mark.parametrize("line", [{"image": f"i/{'1.' * 50_000}.nii"}, {"image": "i/a.nii", "patient": "1." * 50_000}])
def test_a_list_with_an_endless_name_is_refused_at_once(folder: Folder, line: dict[str, str]) -> None:
    """The usual patterns take seconds for a thousand letters, and their square for more."""
    folder.list(validation=[{"label": "labelsTr/a.nii", **line}])
    refused("of at most 128 letters, got", lambda: folder.dataset().refs())


def test_every_loader_of_files_asks_the_pattern(tmp_path: Path) -> None:
    downloads.nnunet(tmp_path / "raw", ["9L", "9R"], channels=1)
    downloads.totalsegmentator(tmp_path / "total", {"s0011": "test", "s0012": "test"})
    downloads.put(tmp_path / "scans/s0011.nii.gz", downloads.volume()[0])
    for loader, folder, keys in (
        ("nnunet_raw", "raw", {"split": "training"}),
        ("totalsegmentator", "total", {"classes": ("liver",)}),
        ("images", "scans", {"reference": "prediction"}),
    ):
        dataset = made(loader, root=tmp_path / folder, patient=r"\d\d?", **keys)
        assert {ref.patient_id for ref in dataset.refs()} <= {"9", "00"}
    assert [ref.patient_id for ref in Phantom(name="x", patient="phantom_2", cases=2).refs()] == ["phantom_2"] * 2


@pytest.mark.parametrize(
    ("names", "is_said"),
    [
        (("k9_left", "k9_right", "k10_left"), True),
        (("UPENN-00001_11", "UPENN-00001_21", "UPENN-00002_11"), True),
        (("BraTS20_Training_001", "BraTS20_Training_002"), False),
        (("case_1", "case_2", "case_3"), False),
        (("case_1_t0", "case_1_t1", "case_2_t0"), False),
    ],
)
def test_names_that_look_as_if_they_shared_a_patient_are_said(names: tuple[str, ...], is_said: bool) -> None:
    patients = [usual_patient(name) for name in names]
    assert ("give the key `patient` a pattern" in " ".join(Phantom(name="x").remarks(patients))) == is_said
    assert list(Phantom(name="x", patient="^[^_]+").remarks(patients)) == []
