"""Verdicts at their boundaries: half a printed unit, the seeds' spread and that of the authors' reruns."""

import math

import pytest

from freqbench.reporting.papers.parity import judge


@pytest.mark.parametrize(
    ("ours", "printed", "metric", "spread", "verdict"),
    [
        (63.25, "62.7", "dsc", math.nan, "parity"),  # 0.05 + 0.5
        (63.26, "62.7", "dsc", math.nan, "differs"),
        (62.15, "62.7", "dsc", math.nan, "parity"),
        (62.14, "62.7", "dsc", math.nan, "differs"),
        (63.175, "62.67", "dsc", math.nan, "parity"),  # 0.005 + 0.5
        (63.18, "62.67", "dsc", math.nan, "differs"),
        (63.55, "62.7", "dsc", 0.3, "parity"),
        (63.56, "62.7", "dsc", 0.3, "differs"),
        (12.4975, "7.897", "hd95", math.nan, "parity"),  # 0.0005 + 4.6
        (12.498, "7.897", "hd95", math.nan, "differs"),
        (96.205, "95.50", "lpips_similarity", math.nan, "parity"),
        (96.21, "95.50", "lpips_similarity", math.nan, "differs"),
        (68.685, "68.68", "ssim", math.nan, "parity"),  # of SSIM no rerun is known
        (68.69, "68.68", "ssim", math.nan, "differs"),
        (68.79, "68.68", "ssim", 0.11, "parity"),
    ],
)
def test_boundaries(ours: float, printed: str, metric: str, spread: float, verdict: str) -> None:
    assert judge(ours, printed, metric, spread).verdict == verdict


def test_obstacles_come_before_the_numbers() -> None:
    found = judge(62.7, "62.7", "dsc", math.nan, ["guessed: steps", "9 cases, not 12"])
    assert (found.verdict, found.reasons) == ("not comparable", ("guessed: steps", "9 cases, not 12"))
    assert found.tolerance == pytest.approx(0.55)


def test_a_missing_number_has_no_verdict() -> None:
    assert judge(math.nan, "62.7", "dsc", math.nan, ["guessed: steps"]).verdict == ""
    assert judge(62.7, "", "dsc", math.nan).reasons == ("no published number",)
