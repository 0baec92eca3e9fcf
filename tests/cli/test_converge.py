"""`freqbench study converge`: what it writes, that it goes on where it was, and what it refuses."""

import csv
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import Bench, refused
from tiny_job import JOB, expanded, rows, small, write

PGD = {"name": "pgd", "eps": "32/255", "steps": [1, 2], "loss": "ce"}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def job(*attacks: dict[str, Any], **content: Any) -> dict[str, Any]:
    return small(attacks=list(attacks), metrics=["dsc"], **content)


@pytest.mark.integration
def test_converge_shows_curves_and_computes_nothing_twice(tmp_path: Path, out: Path, bench: Bench) -> None:
    """Attacks without steps have no curve."""
    content = job(PGD, {"name": "gn", "std": "8/255"}, models=JOB["models"], targets="all")
    command = ("study", "converge", write(tmp_path, content), "--out", str(out), "--engine", "serial")
    code, text, _ = bench(*command)
    assert code == 0
    assert "drop against passes, attacks on a" in text
    assert all((out / f"converge.{suffix}").stat().st_size for suffix in ("csv", "yaml", "png", "pdf"))
    curve = list(csv.DictReader((out / "converge.csv").read_text().splitlines()))
    points = [(row["model"], row["attack"], row["steps"], float(row["passes"])) for row in curve]
    assert points == [(model, "pgd", steps, 2.0 * int(steps)) for model in "ab" for steps in "12"]
    attacks = yaml.safe_load((out / "converge.yaml").read_text())["attacks"]
    recommended = expanded({**content, "attacks": attacks})[1].cells
    before = rows(out)
    assert {cell.cell_id for cell in recommended} <= {key[0] for key in before}
    again = bench(*command)
    assert again[0] == 0
    assert "records stored" not in again[1]
    assert rows(out) == before
    more = bench(*command, "--set", "attacks.0.steps=[1,2,3]")[1]
    assert f"{len(before)} of {len(before) + 4} records are in" in more


@pytest.mark.integration
def test_search_has_a_curve_by_queries(tmp_path: Path, out: Path, bench: Bench) -> None:
    """One pass a query, and of `rays` one for the clean Dice."""
    rays = {"name": "rays", "eps": "32/255", "queries": [3, 12]}
    path = write(tmp_path, job(rays, {**PGD, "step_size": ["eps/2", "eps/8"]}))
    assert bench("study", "converge", path, "--out", str(out), "--engine", "serial")[0] == 0
    curves = list(csv.DictReader((out / "converge.csv").read_text().splitlines()))
    points = [(row["attack"], row["steps"], float(row["passes"])) for row in curves]
    pgd = [(f"pgd step_size=eps/{part}", steps, 2.0 * int(steps)) for part in "28" for steps in "12"]
    assert sorted(points) == [*pgd, ("rays", "12", 13), ("rays", "3", 4)]


def test_a_job_without_steps_or_queries_is_refused(tmp_path: Path, out: Path, bench: Bench) -> None:
    path = write(tmp_path, job({"name": "fgsm", "eps": "8/255"}, {"name": "gn", "std": "8/255"}))
    expected = "expected one that follows a gradient in steps or searches by queries, got fgsm, gn: add one"
    assert refused(bench, "study", "converge", path, "--out", str(out)) == f"error: {path}: attacks: {expected}\n"
    assert not out.exists()
