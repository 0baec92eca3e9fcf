"""A job whose classes lie in modules beside its file, as the how-to of own classes shows it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_job import rows

ROOT = Path(__file__).parents[2]
YAML = re.compile(r"```yaml\n(name: toy\n.*?)```", re.DOTALL)


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """The job of the how-to, with copies of the toy package's modules beside it under another name."""
    (tmp_path / "mine" / "beside").mkdir(parents=True)
    for path in (ROOT / "tests" / "toy_package" / "toy").glob("*.py"):
        (tmp_path / "mine" / "beside" / path.name).write_text(path.read_text().replace("toy.", "beside."))
    (text,) = YAML.findall((ROOT / "docs" / "how-to" / "own-classes.md").read_text())
    path = tmp_path / "mine" / "job.yaml"
    path.write_text(text.replace("toy.", "beside.").replace("side: 24", "side: 16, cases: 1"))
    return path


def freqbench(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, whose Python does not look into the tests' folders."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-m", "freqbench", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_plan_reads_the_how_to_s_job_from_another_folder(job: Path, tmp_path: Path) -> None:
    made = freqbench("plan", "mine/job.yaml", "--json", folder=tmp_path)
    assert made.returncode == 0, made.stderr
    assert [row["attack"] for row in json.loads(made.stdout)["grid"]] == ["walk"]


def test_modules_beside_a_job_are_not_imported_without_trust(job: Path, tmp_path: Path) -> None:
    job.write_text(job.read_text().replace("trust_code: true\n", ""))
    (tmp_path / "mine" / "beside" / "data.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\n")
    assert "needs --trust-code" in freqbench("plan", "mine/job.yaml", folder=tmp_path).stderr
    assert not (tmp_path / "sprung").exists()


def test_a_module_beside_a_job_hides_none_that_is_installed(job: Path, tmp_path: Path) -> None:
    (tmp_path / "mine" / "monai.py").write_text("raise SystemExit(3)\n")
    assert freqbench("plan", "mine/job.yaml", folder=tmp_path).returncode == 0


@pytest.mark.integration
def test_ray_s_workers_import_what_lies_beside_a_job(job: Path, tmp_path: Path) -> None:
    made = freqbench("run", "mine/job.yaml", "--out", "out", "--engine", "ray", "--no-page", folder=tmp_path)
    assert made.returncode == 0, made.stderr + made.stdout
    assert {row["status"] for row in rows(tmp_path / "out").values()} == {"'ok'"}
