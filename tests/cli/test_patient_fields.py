"""Fields of patients in a folder of DICOM, of which no command tells one."""

import gzip
from itertools import chain
from pathlib import Path

import pyarrow.parquet
import pydicom
import pytest
import yaml
from command_line import Bench, refused
from data.dicom_files import LABELS, PATIENT, put_seg, put_series
from data.downloads import LPS, volume
from tiny_job import JOB, small

from freqbench.audit.verify import verify
from freqbench.results import Store

pytestmark = pytest.mark.integration

WORDS = {*"^".join(PATIENT.values()).lower().split("^")}  # too long to be there by chance
NAME = f"{PATIENT['PatientID']}_Zweistein_{PATIENT['PatientBirthDate']}"  # of the folder and the segmentation


def texts(path: Path) -> list[str]:
    """Name and content of a file, unpacked; of a table all values and what stands beside them."""
    content = path.read_bytes()
    if path.suffix == ".parquet":
        table = pyarrow.parquet.read_table(path)
        return [str(path), repr(table.to_pylist()), repr(table.schema.metadata)]
    return [str(path), (gzip.decompress(content) if path.suffix == ".gz" else content).decode("latin-1")]


def test_no_field_of_a_patient_leaves_a_folder(tmp_path: Path, bench: Bench) -> None:
    """Rows, logs, pages, names of files, exports, jobs and errors of two scans, one of whose folder is called so."""
    image, label = volume()
    for name, voxels in ((NAME, 8 * image.round()), ("second", 8 * image.round() + 1)):
        series = put_series(tmp_path / "clinic/images" / name, voxels, LPS)
        masks = {each: label == k for k, each in enumerate(LABELS, 1)}
        put_seg(tmp_path / "clinic/labels" / f"{name}.dcm", series, masks)
    job = tmp_path / "made/job.yaml"
    out = tmp_path / "made/out"
    job.parent.mkdir()
    clinic = str(tmp_path / "clinic")
    told = [repr(bench("doctor", "--data", clinic))]
    told.append(repr(bench("init", str(job), "--data", clinic, "--checkpoint", "random", "--arch", "unet")))
    told.append(job.read_text())
    (entry,) = yaml.safe_load(job.read_text())["datasets"]
    assert entry == {"name": "clinic", "root": clinic, "loader": "dicom", "split": "test", "cases": 2}
    window = {"intensity": {"window": [0, 1200]}}
    content = small(datasets=[{**entry, **window}], score_on="file", save_adversarial="nifti", models=JOB["models"])
    job.write_text(yaml.safe_dump(content))
    for command in (
        ("plan", str(job), "--out", str(out)),
        ("run", str(job), "--out", str(out), "--engine", "serial", "--log", "tensorboard"),
        ("cluster", "status", str(out)),
        ("report", str(out), "--format", "csv", "--to", str(out.with_name("rows.csv"))),
        ("report", str(out), "--format", "html", "--volumes", "--to", str(out.with_name("page"))),
        ("export", str(out)),
        ("export", str(out), "--format", "dicom"),
        ("audit", str(out), "--rows", "1"),
    ):
        code, *said = bench(*command)
        assert code == 0, (command, said)
        told += said
    told += [check.text for check in verify(Store(str(out)))]
    for spoil in (
        lambda path: path.write_bytes(path.read_bytes()[:-9]),
        lambda path: path.write_bytes(b"junk"),
        lambda path: path.unlink(),
    ):
        spoil(series[3])
        told.append(refused(bench, "plan", str(job), "--out", str(out)))
        told.append(repr(bench("doctor", "--data", clinic)))
    paths = [path for path in (tmp_path / "made").rglob("*") if path.is_file()]
    files = [*chain(*map(texts, paths))]
    assert any("case-" in text for text in files if text.startswith("<!doctype html"))
    for text in (*told, *files):
        assert not [word for word in WORDS if word in text.lower()], text[:200]
    for path in (out / "dicom").rglob("*.dcm"):
        assert pydicom.dcmread(path).PatientName == ""
