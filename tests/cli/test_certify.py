"""`freqbench study certify`: rows with both ends of a bracket, the files beside them, and what it refuses."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from command_line import Bench, refused
from tiny_job import ARGS, ROI, small, write

from freqbench.results import Store

SMOOTHING = {"name": "smoothing", "kind": "bias_field", "sigma": 0.5, "samples": 15, "eot": 2}
BALL = {"name": "ball", "kind": "bias_field", "radius": [0.1, 0.2], "steps": 2, "random_start": False}
DRAWS = {"name": "ball", "kind": "bias_field", "radius": 0, "control": "random"}


def content(**changes: Any) -> dict[str, Any]:
    model = {"name": "a", "arch": "unet", "checkpoint": "random", "args": ARGS, "roi": ROI, "defence": SMOOTHING}
    usual = {"models": [model], "attacks": [DRAWS, BALL], "targets": "source", "metrics": ["dsc"]}
    usual["seeds"] = [0, 1, 2, 3]
    return small(**{**usual, **changes})


@pytest.mark.integration
def test_certify_writes_both_ends_and_continues(tmp_path: Path, bench: Bench) -> None:
    path, out = write(tmp_path, content()), tmp_path / "out"
    code, text, _ = bench("study", "certify", path, "--out", str(out), "--engine", "serial")
    assert code == 0
    assert "at least" in text
    assert re.search(r"6 +1 +\d+ +96 ", text)  # four sets of 15 draws and a prediction, and one at each radius
    assert all((out / f"bounds.{suffix}").stat().st_size for suffix in ("csv", "png", "pdf"))
    brackets = list(csv.DictReader((out / "bounds.csv").read_text().splitlines()))
    assert {row["radius"] for row in brackets} == {"0.1", "0.2"}
    assert all(float(row["certified"]) <= float(row["clean"]) for row in brackets if row["score"] == "dsc_foreground")
    assert {row["draws"] for row in brackets} == {"60"}
    rows = Store(str(out)).records().to_pylist()
    drawn = [json.loads(row["draws"])["dsc_foreground"] for row in rows]
    assert all(
        row["dsc_foreground"] == pytest.approx(draws[7], abs=1e-6) for row, draws in zip(rows, drawn, strict=True)
    )
    assert sorted(row["seed"] for row in rows if row["budget"] == 0) == [0, 1, 2, 3]
    assert len({str(draws) for draws, row in zip(drawn, rows, strict=True) if row["budget"] == 0}) == 4
    assert "0 records in" in bench("study", "certify", path, "--out", str(out), "--engine", "serial")[1]


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
def test_job_without_certificate_refused(tmp_path: Path, bench: Bench, changes: dict[str, Any], message: str) -> None:
    out = tmp_path / "out"
    assert re.search(
        message, refused(bench, "study", "certify", write(tmp_path, content(**changes)), "--out", str(out))
    )
    assert not out.exists()
