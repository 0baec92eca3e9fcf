"""Seams against closed forms: none in a ramp or in noise, known ones where windows are shifted against each other."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from freqbench.metrics import seam_scores
from freqbench.models import attack_windows

SHAPE = (12, 8, 6)
RAMP = 0.001 * sum(torch.meshgrid(*(torch.arange(size, dtype=torch.float64) for size in SHAPE), indexing="ij"))


def seam(change: Tensor, roi: tuple[int, int, int] = (4, 4, 6)) -> float:
    windows = attack_windows(tuple(change.shape[-3:]), roi)
    return seam_scores(torch.zeros_like(change), change, windows).values["seam_energy"]


def test_a_ramp_and_noise_have_no_seam() -> None:
    assert seam(RAMP) == pytest.approx(1)
    noise = torch.randn((64, 64, 64), generator=torch.Generator().manual_seed(0))
    assert seam(noise, (16, 16, 16)) == pytest.approx(1, rel=0.02)


def test_a_smoother_axis_without_borders_is_no_seam() -> None:
    """Ten times as steep along the first axis, where there is no border."""
    steep = RAMP + 0.009 * torch.arange(12.0, dtype=torch.float64)[:, None, None]
    assert seam(steep, (12, 4, 6)) == pytest.approx(1)


def test_windows_that_are_shifted_against_each_other() -> None:
    """Steps of 0.01 along the first axis on a slope of 0.001: of the faces of its 2 borders (48 each) 0.011, within
    0.001; the one border along the second axis (72 faces) has no step: (96 * 11 + 72) / (96 + 72)."""
    steps = 0.01 * torch.div(torch.arange(12), 4, rounding_mode="floor")[:, None, None]
    assert seam(RAMP + steps) == pytest.approx((96 * 11 + 72) / (96 + 72))


def test_the_borders_are_where_the_later_window_overwrites() -> None:
    """Of windows 0..3, 4..7 and 6..9 the last owns voxel 6: a volume written as an attack writes it."""
    ramp = 0.001 * torch.arange(10.0, dtype=torch.float64)[:, None, None].expand(10, 4, 4)
    change = ramp.clone()
    for number, window in enumerate(attack_windows((10, 4, 4), (4, 4, 4))):
        change[window] = ramp[window] + 0.02 * number
    assert seam(change, (4, 4, 4)) == pytest.approx(21)


def test_channels_count_together() -> None:
    """One channel has steps of 0.01 on a slope of 0.001, the other the slope alone: means 0.006 and 0.001."""
    slope = 0.001 * torch.arange(8.0, dtype=torch.float64)[:, None, None].expand(8, 4, 4)
    step = slope + 0.01 * (torch.arange(8) >= 4)[:, None, None]
    assert seam(torch.stack([slope, step]), (4, 4, 4)) == pytest.approx(6)


def test_what_is_not_defined_has_its_reason() -> None:
    flat = torch.zeros(SHAPE)
    for h, w, _ in product(range(3), range(2), range(1)):
        flat[4 * h : 4 * h + 4, 4 * w : 4 * w + 4] = 0.1 * (h + w)
    cases = {
        "the volume is a single window": (RAMP, (12, 8, 6)),
        "the change does not vary within windows": (flat, (4, 4, 6)),
    }
    for reason, (change, roi) in cases.items():
        scores = seam_scores(torch.zeros_like(change), change, attack_windows(SHAPE, roi))
        assert math.isnan(scores.values["seam_energy"])
        assert scores.reasons == {"seam_energy": reason}
