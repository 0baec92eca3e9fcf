"""`freqbench certify`: rows with both ends of a bracket, the files beside them, and what it refuses before it runs."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from called import Bench, refused
from tiny import ARGS, ROI, small, write

from freqbench.results import Store

SMOOTHING = {"name": "smoothing", "kind": "bias_field", "sigma": 0.5, "samples": 60, "attacked_samples": 15, "eot": 2}
BALL = {"name": "ball", "kind": "bias_field", "radius": [0.1, 0.2], "steps": 2}


def content(**changes: Any) -> dict[str, Any]:
    model = {"name": "a", "arch": "unet", "checkpoint": "random", "args": ARGS, "roi": ROI, "defence": SMOOTHING}
    usual = {"models": [model], "attacks": [BALL], "targets": "source", "metrics": ["dsc"]}
    return small(**{**usual, **changes})


def test_it_writes_rows_with_both_ends_and_goes_on_where_it_was(tmp_path: Path, bench: Bench) -> None:
    path, out = write(tmp_path, content()), tmp_path / "out"
    code, text, _ = bench("certify", path, "--out", str(out), "--engine", "serial")
    assert code == 0
    assert "at least" in text
    assert "93 draws" in text  # 61 of the clean volume, and 16 at each radius
    assert all((out / f"bounds.{suffix}").stat().st_size for suffix in ("csv", "png", "pdf"))
    brackets = list(csv.DictReader((out / "bounds.csv").read_text().splitlines()))
    assert {row["radius"] for row in brackets} == {"0.1", "0.2"}
    assert all(float(row["certified"]) <= float(row["clean"]) for row in brackets if row["score"] == "dsc_foreground")
    for row in Store(str(out)).records().to_pylist():
        clean, attacked = (json.loads(row[name])["dsc_foreground"] for name in ("draws_clean", "draws"))
        assert (len(clean), len(attacked)) == (60, 15)
        assert row["dsc_foreground_clean"] == pytest.approx(clean[29], abs=1e-6)
        assert row["dsc_foreground"] == pytest.approx(attacked[7], abs=1e-6)
    assert "0 records in" in bench("certify", path, "--out", str(out), "--engine", "serial")[1]


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
        (
            {"attacks": [BALL | {"kind": "voxels"}]},
            "ball on a: expected .*kind: voxels.* got smoothing bias",
        ),
        ({"attacks": [BALL | {"radius": 1.5}]}, "radius 1.5, sigma 0.5: needs at least [0-9,]+ draws .* got 60"),
        ({"attacks": [BALL | {"kind": "rotation"}]}, "kind: unknown kind 'rotation'"),
    ],
)
def test_a_job_without_a_certificate_is_refused_in_a_line(
    tmp_path: Path, bench: Bench, changes: dict[str, Any], message: str
) -> None:
    out = tmp_path / "out"
    assert re.search(message, refused(bench, "certify", write(tmp_path, content(**changes)), "--out", str(out)))
    assert not out.exists()
