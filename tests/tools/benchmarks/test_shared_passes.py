"""Passes of a network that the attacks of one case and the predictions make alone and in step, counted on a CPU.

The attacks of the packaged board on a crop of a real volume, which is one window. The clean volume is predicted alone.
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
MODEL = {"name": "unet", "checkpoint": "zoo://hippocampus/unet"}
SHARE = 0.1  # of the passes alone, at most


def board() -> list[Unit]:
    """Units of one case."""
    attacks = yaml.safe_load(packaged_jobs()["hippocampus/board"].read_text())["attacks"]
    crop = {"name": "decathlon", "root": str(CROP), "split": "validation", "crop_foreground": False}
    return units_of(
        job(datasets=[{**crop, "intensity": "percentile"}], models=[MODEL], attacks=attacks, targets="source")
    )


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
@pytest.mark.timeout(900)
def test_attacks_of_a_case_share_nearly_all_passes(
    measured: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    units = board()
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
    measured.append({"what": "passes of a case of hippocampus/board", **counts})
    assert (sum(alone), sum(alone_at_end)) == (sum(shared), sum(shared_at_end))
    assert len(shared) <= SHARE * len(alone)
    assert len(shared_at_end) <= 5
