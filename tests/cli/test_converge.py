"""`audit --converge`: its curves and files, and what it refuses."""

import csv
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import Bench, refused
from tiny_job import JOB, execute, expanded, rows, small

PGD = {"name": "pgd", "eps": "32/255", "steps": [1, 2], "loss": "ce"}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def job(*attacks: dict[str, Any], **content: Any) -> dict[str, Any]:
    return small(attacks=list(attacks), metrics=["dsc"], **content)


@pytest.mark.integration
def test_converge_shows_the_curves_and_writes_its_files(out: Path, bench: Bench) -> None:
    """Attacks without steps have no curve."""
    content = job(PGD, {"name": "gn", "std": "8/255"}, models=JOB["models"], targets="all")
    execute(content, out)
    code, text, _ = bench("audit", str(out), "--converge")
    assert code == 0
    assert "drop against passes, attacks on a" in text
    assert all((out / f"converge.{suffix}").stat().st_size for suffix in ("csv", "yaml", "png", "pdf"))
    curve = list(csv.DictReader((out / "converge.csv").read_text().splitlines()))
    points = [(row["model"], row["attack"], row["steps"], float(row["passes"])) for row in curve]
    assert points == [(model, "pgd", steps, 2.0 * int(steps)) for model in "ab" for steps in "12"]
    attacks = yaml.safe_load((out / "converge.yaml").read_text())["attacks"]
    recommended = expanded({**content, "attacks": attacks})[1].cells
    assert {cell.cell_id for cell in recommended} <= {key[0] for key in rows(out)}


@pytest.mark.integration
def test_a_search_has_a_curve_by_queries_and_each_step_size_one_by_steps(out: Path, bench: Bench) -> None:
    """One pass a query, and of `rays` one for the clean Dice."""
    rays = {"name": "rays", "eps": "32/255", "queries": [3, 12]}
    execute(job(rays, {**PGD, "step_size": ["eps/2", "eps/8"]}), out)
    assert bench("audit", str(out), "--converge")[0] == 0
    curves = list(csv.DictReader((out / "converge.csv").read_text().splitlines()))
    points = [(row["attack"], row["steps"], float(row["passes"])) for row in curves]
    pgd = [(f"pgd step_size=eps/{part}", steps, 2.0 * int(steps)) for part in "28" for steps in "12"]
    assert sorted(points) == [*pgd, ("rays", "12", 13), ("rays", "3", 4)]


def test_a_job_without_steps_or_queries_is_refused(small_store: Path, bench: Bench) -> None:
    expected = "expected one that follows a gradient in steps or searches by queries, got fgsm: add one"
    said = refused(bench, "audit", str(small_store), "--converge")
    assert said == f"error: {small_store}: attacks: {expected}\n"
