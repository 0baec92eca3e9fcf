"""Passes of a network that the attacks of one case and the predictions make alone and in step, counted on a CPU.

The attacks of the packaged board on a crop of a real volume, which is one window, and on a phantom volume of several.
The clean volume is predicted alone.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from engine.cases import run_serially, units_of
from tiny_job import job, noted

from freqbench.core.names import packaged_jobs
from freqbench.job.cells import Unit
from freqbench.models import SegmentationModel

CROP = Path(__file__).parents[2] / "engine" / "hippocampus"
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "one window": (
        {
            "name": "decathlon",
            "root": str(CROP),
            "split": "validation",
            "crop_foreground": False,
            "intensity": "percentile",
        },
        "zoo://hippocampus/unet",
    ),
    "several windows": ({"name": "phantom", "split": "test", "cases": 1}, "zoo://phantom/unet"),
}
SHARE, SHARE_AT_END = 0.1, 0.3  # of the passes alone and of the predictions alone, at most


def board(dataset: dict[str, Any], checkpoint: str) -> list[Unit]:
    """Units of one case."""
    attacks = yaml.safe_load(packaged_jobs()["hippocampus/board"].read_text())["attacks"]
    models = [{"name": "unet", "checkpoint": checkpoint}]
    return units_of(job(datasets=[dataset], models=models, attacks=attacks, targets="source"))


def calls(patch: pytest.MonkeyPatch, units: Sequence[Unit], **spec: Any) -> tuple[list[int], list[int]]:
    """Samples of each pass, of attacks and of predictions."""
    with patch.context() as patch:
        sizes = [
            noted(patch, SegmentationModel, name, lambda _, images, *__: len(images)) for name in ("forward", "scores")
        ]
        outcomes = run_serially(units, **spec)
        assert not any(outcome.failed for outcome in outcomes)
        return sizes[0], sizes[1]


@pytest.mark.benchmark
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("case", CASES)
def test_attacks_of_a_case_share_nearly_all_passes(
    case: str, measured: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    units = board(*CASES[case])
    (alone, alone_at_end), (shared, shared_at_end) = (
        calls(monkeypatch, units, **spec) for spec in ({}, {"in_step": True, "window_batch": 32})
    )
    counts = {
        "units": len(units),
        "passes alone": len(alone),
        "passes in step": len(shared),
        "largest batch": max(shared),
        "predictions alone": len(alone_at_end),
        "predictions in step": len(shared_at_end),
    }
    measured.append({"what": f"passes of a case of hippocampus/board, {case}", **counts})
    assert (sum(alone), sum(alone_at_end)) == (sum(shared), sum(shared_at_end))
    assert len(shared) <= SHARE * len(alone)
    assert len(shared_at_end) <= SHARE_AT_END * len(alone_at_end)
