"""`audit --converge` and `audit --certify`: their curves, tables and files, and what they refuse."""

import csv
import json
import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import Bench, done, refused
from tiny_job import ARGS, JOB, ROI, execute, expanded, rows, small, write

from freqbench.core.errors import UserError
from freqbench.reporting.views import defences
from freqbench.results import Store

PGD = {"name": "pgd", "eps": "32/255", "steps": [1, 2], "loss": "ce"}
SMOOTHING = {"name": "smoothing", "kind": "bias_field", "sigma": 0.5, "samples": 15, "eot": 2}
BALL = {"name": "ball", "kind": "bias_field", "radius": [0.1, 0.2], "steps": 2, "random_start": False}
DRAWS = {"name": "ball", "kind": "bias_field", "radius": 0, "control": "random"}


@pytest.mark.integration
def test_converge_shows_the_curves_and_writes_its_files(tmp_path: Path, bench: Bench) -> None:
    """Attacks without steps have no curve."""
    content = small(attacks=[PGD, {"name": "gn", "std": "8/255"}], metrics=["dsc"], models=JOB["models"], targets="all")
    execute(content, tmp_path)
    text = done(bench, "audit", str(tmp_path), "--converge")
    assert "drop against passes, attacks on a" in text
    curve = list(csv.DictReader((tmp_path / "converge.csv").read_text().splitlines()))
    points = [(row["model"], row["attack"], row["steps"], float(row["passes"])) for row in curve]
    assert points == [(model, "pgd", steps, 2.0 * int(steps)) for model, steps in product("ab", "12")]
    attacks = yaml.safe_load((tmp_path / "converge.yaml").read_text())["attacks"]
    recommended = expanded({**content, "attacks": attacks})[1].cells
    cells = {cell for cell, *_ in rows(tmp_path)}
    assert {cell.cell_id for cell in recommended} <= cells


@pytest.mark.integration
def test_search_has_a_curve_by_queries_and_step_sizes_by_steps(tmp_path: Path, bench: Bench) -> None:
    """One pass a query, and of `rays` one for the clean Dice."""
    rays = {"name": "rays", "eps": "32/255", "queries": [3, 12]}
    execute(small(attacks=[rays, {**PGD, "step_size": ["eps/2", "eps/8"]}], metrics=["dsc"]), tmp_path)
    done(bench, "audit", str(tmp_path), "--converge")
    curves = list(csv.DictReader((tmp_path / "converge.csv").read_text().splitlines()))
    points = [(row["attack"], row["steps"], float(row["passes"])) for row in curves]
    pgd = [(f"pgd step_size=eps/{part}", steps, 2.0 * int(steps)) for part, steps in product("28", "12")]
    assert sorted(points) == [*pgd, ("rays", "12", 13), ("rays", "3", 4)]


def test_a_job_without_steps_or_queries_is_refused(small_store: Path, bench: Bench) -> None:
    expected = "expected one that follows a gradient in steps or searches by queries, got fgsm: add one"
    assert refused(bench, "audit", str(small_store), "--converge") == f"error: {small_store}: attacks: {expected}\n"


def content(**changes: Any) -> dict[str, Any]:
    model = {"name": "a", "arch": "unet", "checkpoint": "random", "args": ARGS, "roi": ROI, "defence": SMOOTHING}
    usual = {"models": [model], "attacks": [DRAWS, BALL], "targets": "source", "metrics": ["dsc"]}
    usual["seeds"] = [0, 1, 2, 3]
    return small(**{**usual, **changes})


@pytest.mark.integration
def test_certify_shows_both_ends_of_a_bracket_and_writes_them(tmp_path: Path, bench: Bench) -> None:
    execute(content(), tmp_path)
    text = done(bench, "audit", str(tmp_path), "--certify")
    assert "at least" in text
    brackets = list(csv.DictReader((tmp_path / "bounds.csv").read_text().splitlines()))
    assert {row["radius"] for row in brackets} == {"0.1", "0.2"}
    assert all(float(row["certified"]) <= float(row["clean"]) for row in brackets if row["score"] == "dsc_foreground")
    assert {row["draws"] for row in brackets} == {"60"}
    rows = Store(str(tmp_path)).records().to_pylist()
    drawn = [json.loads(row["draws"])["dsc_foreground"] for row in rows]
    assert all(row["dsc_foreground"] == pytest.approx(each[7], abs=1e-6) for row, each in zip(rows, drawn, strict=True))
    assert sorted(row["seed"] for row in rows if row["budget"] == 0) == [0, 1, 2, 3]
    assert len({str(draws) for draws, row in zip(drawn, rows, strict=True) if row["budget"] == 0}) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"attacks": [{"name": "pgd", "eps": "8/255"}]},
            "attacks: expected ball, the one attack with a certificate, got pgd",
        ),
        (
            {"attacks": [{"name": "deformation", "max_mm": 2}]},
            "attacks: expected ball, the one attack with a certificate, got deformation: two displacements",
        ),
        ({"attacks": [BALL | {"kind": "voxels"}]}, "ball on a: expected .*kind: voxels.* got smoothing bias"),
        (
            {"attacks": [BALL]},
            "ball on a: expected draws of the clean volume, got none: add .*radius: 0, control: random",
        ),
        ({"attacks": [DRAWS, BALL | {"radius": 1.5}]}, "radius 1.5, sigma 0.5: needs at least [0-9,]+ draws .* got 60"),
        (  # the draws of a seed are the same ones in both rows of the clean volume
            {"attacks": [DRAWS, DRAWS | {"steps": 3}, BALL | {"radius": 1.5}]},
            "radius 1.5, sigma 0.5: needs at least [0-9,]+ draws .* got 60",
        ),
        ({"attacks": [BALL | {"kind": "rotation"}]}, "kind: unknown kind 'rotation'"),
    ],
)
def test_a_job_without_a_certificate_is_refused_in_a_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        defences.require_certified(expanded(content(**changes))[1])


def test_plan_counts_draws_and_predictions_by_radius_and_seed(tmp_path: Path, bench: Bench) -> None:
    assert re.search(r"6 +1 +\d+ +96 ", bench("plan", write(tmp_path, content()))[1])


def test_plan_says_before_a_run_that_nothing_will_be_certified(tmp_path: Path, bench: Bench) -> None:
    said = done(bench, "plan", write(tmp_path, content(attacks=[BALL])))
    assert "note: no certificate: ball on a: expected draws of the clean volume, got none" in said
