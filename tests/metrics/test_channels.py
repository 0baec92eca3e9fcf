"""Distances of volumes of several channels, against skimage and numpy channel by channel."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from freqbench.metrics import body_mask, energy_scores, image_scores, l2, linf, psnr, ssim

SHAPE = (12, 10, 9)


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    """The second channel is changed ten times as much; both are black in the first planes."""
    rng = np.random.default_rng(0)
    clean = rng.uniform(0.2, 0.8, (2, *SHAPE)).astype(np.float32)
    clean[:, :2] = 0
    change = np.array([0.01, 0.1]).reshape(2, 1, 1, 1) * rng.choice([-1, 1], (2, *SHAPE))
    return clean, (clean + change).astype(np.float32)


def test_similarity_is_the_mean_over_channels(pair: tuple[np.ndarray, np.ndarray]) -> None:
    found = [
        structural_similarity(x * 255, y * 255, channel_axis=2, data_range=255, full=True)
        for x, y in zip(*pair, strict=True)
    ]
    scores = image_scores(*pair).values
    assert scores["ssim"] == ssim(*pair) == pytest.approx((found[0][0] + found[1][0]) / 2)
    assert scores["ssim_body"] == pytest.approx(np.mean([similarity[2:].mean() for _, similarity in found]))
    assert abs(found[0][0] - found[1][0]) > 0.05


def test_norms_and_noise_are_over_all_channels(pair: tuple[np.ndarray, np.ndarray]) -> None:
    size = math.prod(SHAPE)
    scores = image_scores(*pair).values
    assert scores["linf"] == linf(*pair) == pytest.approx(0.1)
    assert scores["l2"] == l2(*pair) == pytest.approx(math.sqrt(size * (0.01**2 + 0.1**2)), rel=1e-5)
    assert scores["l2_body"] == pytest.approx(math.sqrt(size * 10 / 12 * (0.01**2 + 0.1**2)), rel=1e-5)
    assert scores["psnr"] == psnr(*pair) == pytest.approx(-10 * math.log10((0.01**2 + 0.1**2) / 2), rel=1e-5)


def test_a_channel_left_alone_leaves_finite_decibels(pair: tuple[np.ndarray, np.ndarray]) -> None:
    clean, adversarial = pair
    assert psnr(clean, np.stack([clean[0], adversarial[1]])) == pytest.approx(-10 * math.log10(0.1**2 / 2), rel=1e-5)
    assert psnr(clean, clean) == math.inf


def test_energy_is_the_mean_over_channels() -> None:
    """A shift by c has one coefficient, c sqrt(512), in the 20 of the low band."""
    clean = torch.full((2, 8, 8, 8), 0.5)
    shift = torch.tensor([0.25, 0.05]).reshape(2, 1, 1, 1)
    assert energy_scores(clean, clean + shift).values["energy_low"] == pytest.approx(0.15 * math.sqrt(512) / 20)


def test_body_is_where_any_channel_is_bright() -> None:
    volume = np.zeros((2, 9, 6, 6), np.float32)
    volume[0, 1:4, 1:5, 1:5] = 0.5
    volume[1, 4:8, 1:5, 1:5] = 0.5  # touches the other's
    volume[1, 5:7, 2:4, 2:4] = 0  # inside
    expected = np.zeros((9, 6, 6), bool)
    expected[1:8, 1:5, 1:5] = True
    np.testing.assert_array_equal(body_mask(volume), expected)
