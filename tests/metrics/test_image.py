"""Distances of volumes against skimage's stored values and closed forms: body, channels, frequency bands, seams."""

import json
import math
import warnings
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from freqbench.core.errors import UserError
from freqbench.metrics import METRICS, body_mask, energy_scores, image_scores, l2, linf, psnr, seam_scores, ssim
from freqbench.models import attack_windows

SHAPE = (12, 10, 9)


def test_a_column_is_filled_by_one_metric() -> None:
    columns = [*chain.from_iterable(metric.columns for metric in METRICS.values())]
    assert len(columns) == len(set(columns))


@pytest.mark.parametrize("pair", ["int0", "int1", "int2"])
def test_ssim_and_psnr_are_skimages_stored_ones(arrays: Path, pair: str) -> None:
    folder = arrays / "models"
    stored = json.loads((folder / "metrics_values.json").read_text())["intensity"][pair]
    with np.load(folder / "metrics.npz") as volumes:
        clean, adversarial = ((volumes[f"{pair}__{side}"] / 255).astype(np.float32) for side in ("real", "fake"))
    assert ssim(clean, adversarial) == pytest.approx(stored["skimage_ssim_x255_channel_axis2_dr255"], abs=1e-7)
    assert psnr(clean, adversarial) == pytest.approx(stored["skimage_psnr_dr255_x255"], rel=1e-9)
    scores = image_scores(torch.as_tensor(clean)[None, None], torch.as_tensor(adversarial)[None, None]).values
    assert (scores["ssim"], scores["psnr"]) == (ssim(clean, adversarial), psnr(clean, adversarial))
    assert scores["l2"] ** 2 / clean.size == pytest.approx(stored["mse_0_1"], rel=1e-6)


def test_identical_volumes_have_ideal_scores_without_warning() -> None:
    volume = np.random.default_rng(0).random((9, 8, 3), np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = image_scores(volume, volume)
    assert scores.reasons == {}
    ideal = {"ssim": 1.0, "ssim_body": 1.0, "psnr": math.inf, "linf": 0.0, "l2": 0.0, "l2_body": 0.0}
    assert dict(scores.values) == ideal


def test_norms_add_up_as_numpy_does_to_the_bit() -> None:
    """BLAS would depend on its threads: a worker has one, another process all, and a row computed again is equal."""
    clean, adversarial = np.random.default_rng(0).random((2, 48, 48, 48), np.float32)
    difference = adversarial.astype(np.float64) - clean
    assert l2(clean, adversarial) == math.sqrt((difference * difference).sum())


def test_body_is_the_largest_component_with_its_holes() -> None:
    volume = np.zeros((2, 20, 20, 20), np.float32)
    volume[0, 3:9, 3:13, 3:13] = 0.5
    volume[1, 9:13, 3:13, 3:13] = 0.5  # touches what is bright in the other
    volume[:, 6:9, 6:9, 6:9] = 0  # gas inside: belongs to the body
    volume[:, 3:5, 5, 5] = 0  # a dent that is open to the air does not
    volume[0, 13, 13, 13] = 0.5  # touches with a corner only
    volume[0, 0:2, 3:13, 3:13] = 0.9  # a couch apart
    expected = np.zeros((20, 20, 20), bool)
    expected[3:13, 3:13, 3:13] = True
    expected[3:5, 5, 5] = False
    np.testing.assert_array_equal(body_mask(volume), expected)


def test_body_scores_see_the_body_only() -> None:
    clean = np.zeros((40, 40, 4), np.float32)
    clean[10:20, 10:20] = np.random.default_rng(2).uniform(0.4, 0.6, (10, 10, 4))
    in_air = clean.copy()
    in_air[28:] += 0.1
    scores = image_scores(clean, in_air).values
    assert (scores["ssim_body"], scores["l2_body"]) == (pytest.approx(1.0, abs=1e-6), 0.0)
    assert scores["ssim"] < 0.9
    assert scores["l2"] == pytest.approx(0.1 * math.sqrt(12 * 40 * 4), rel=1e-6)


def test_an_undefined_score_is_nan_with_a_reason() -> None:
    scores = image_scores(np.zeros((8, 8, 2), np.float32), np.full((8, 8, 2), 0.1, np.float32))
    assert math.isnan(scores.values["ssim_body"])
    assert math.isnan(scores.values["l2_body"])
    no_body = "no body: the clean volume has no intensity above 0"
    assert scores.reasons == dict.fromkeys(("ssim_body", "l2_body"), no_body)
    thin = np.full((6, 30, 30), 0.5, np.float32)
    scores = image_scores(thin, thin)
    assert math.isnan(scores.values["ssim"])
    assert set(scores.reasons) == {"ssim", "ssim_body"}
    assert scores.values["l2_body"] == 0.0
    with pytest.raises(UserError, match="at least 7 x 7 voxels, got 6 x 30"):
        ssim(thin, thin)
    scores = energy_scores(torch.zeros(1, 1, 1), torch.ones(1, 1, 1))
    assert (scores.values["energy_low"], set(scores.reasons)) == (1, {"energy_middle", "energy_high"})


@pytest.mark.parametrize("scores", [image_scores, energy_scores])
def test_volumes_of_two_shapes_are_refused(scores: type) -> None:
    with pytest.raises(UserError, match="two volumes of one shape"):
        scores(np.zeros((8, 8, 8)), np.zeros((8, 8, 9)))


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    """The second channel is changed ten times as much; both are black in the first planes."""
    rng = np.random.default_rng(0)
    clean = rng.uniform(0.2, 0.8, (2, *SHAPE)).astype(np.float32)
    clean[:, :2] = 0
    change = np.array([0.01, 0.1]).reshape(2, 1, 1, 1) * rng.choice([-1, 1], (2, *SHAPE))
    return clean, (clean + change).astype(np.float32)


def test_similarity_is_the_mean_over_channels(pair: tuple[np.ndarray, np.ndarray]) -> None:
    (first, first_map), (second, second_map) = (
        structural_similarity(x * 255, y * 255, channel_axis=2, data_range=255, full=True)
        for x, y in zip(*pair, strict=True)
    )
    scores = image_scores(*pair).values
    assert scores["ssim"] == ssim(*pair) == pytest.approx((first + second) / 2)
    assert scores["ssim_body"] == pytest.approx((first_map[2:].mean() + second_map[2:].mean()) / 2)
    assert abs(first - second) > 0.05


def test_norms_and_noise_are_over_all_channels(pair: tuple[np.ndarray, np.ndarray]) -> None:
    size = math.prod(SHAPE)
    scores = image_scores(*pair).values
    assert scores["linf"] == linf(*pair) == pytest.approx(0.1)
    assert scores["l2"] == l2(*pair) == pytest.approx(math.sqrt(size * (0.01**2 + 0.1**2)), rel=1e-5)
    assert scores["l2_body"] == pytest.approx(math.sqrt(size * 10 / 12 * (0.01**2 + 0.1**2)), rel=1e-5)
    assert scores["psnr"] == psnr(*pair) == pytest.approx(-10 * math.log10((0.01**2 + 0.1**2) / 2), rel=1e-5)
    of_one_channel = np.stack([pair[0][0], pair[1][1]])
    assert psnr(pair[0], of_one_channel) == pytest.approx(-10 * math.log10(0.1**2 / 2), rel=1e-5)


def test_shift_is_low_and_checkerboard_high() -> None:
    clean = torch.full((2, 16, 8, 24), 0.5)
    shift = energy_scores(clean, clean + torch.tensor([0.25, 0.05]).reshape(2, 1, 1, 1)).values
    assert shift["energy_low"] == pytest.approx(0.15 * math.sqrt(512) / 20)
    assert shift["energy_middle"] == pytest.approx(0, abs=1e-9)
    signs = 1 - 2 * (torch.stack(torch.meshgrid(*map(torch.arange, (16, 8, 24)), indexing="ij")).sum(0) % 2)
    board = energy_scores(clean, clean + 0.25 * signs).values
    assert board["energy_high"] > 10 * board["energy_middle"] > 10 * board["energy_low"]


# Seams: none in a ramp or in noise, known ones where windows are shifted against each other
GRID = (12, 8, 6)
RAMP = 0.001 * sum(torch.meshgrid(*(torch.arange(size, dtype=torch.float64) for size in GRID), indexing="ij"))


def seam(change: Tensor, roi: tuple[int, int, int] = (4, 4, 6)) -> float:
    windows = attack_windows(tuple(change.shape[-3:]), roi)
    return seam_scores(torch.zeros_like(change), change, windows).values["seam_energy"]


def test_ramps_and_noise_have_no_seam() -> None:
    assert seam(RAMP) == pytest.approx(1)
    noise = torch.randn((64, 64, 64))
    assert seam(noise, (16, 16, 16)) == pytest.approx(1, rel=0.02)
    steep = RAMP + 0.009 * torch.arange(12.0, dtype=torch.float64)[:, None, None]
    assert seam(steep, (12, 4, 6)) == pytest.approx(1)


def test_windows_shifted_against_each_other_show_seams() -> None:
    """Steps of 0.01 along the first axis on a slope of 0.001: of the faces of its 2 borders (48 each) 0.011, within
    0.001; the one border along the second axis (72 faces) has no step: (96 * 11 + 72) / (96 + 72)."""
    steps = 0.01 * torch.div(torch.arange(12), 4, rounding_mode="floor")[:, None, None]
    assert seam(RAMP + steps) == pytest.approx((96 * 11 + 72) / (96 + 72))


def test_border_is_where_the_later_window_overwrites() -> None:
    """The last of windows 0..3, 4..7 and 6..9 owns voxel 6; of two channels one has steps of 0.01: 0.006 and 0.001."""
    ramp = 0.001 * torch.arange(10.0, dtype=torch.float64)[:, None, None].expand(10, 4, 4)
    change = ramp.clone()
    for number, window in enumerate(attack_windows((10, 4, 4), (4, 4, 4))):
        change[window] = ramp[window] + 0.02 * number
    assert seam(change, (4, 4, 4)) == pytest.approx(21)
    slope = 0.001 * torch.arange(8.0, dtype=torch.float64)[:, None, None].expand(8, 4, 4)
    step = slope + 0.01 * (torch.arange(8) >= 4)[:, None, None]
    assert seam(torch.stack([slope, step]), (4, 4, 4)) == pytest.approx(6)


@pytest.mark.parametrize(
    ("roi", "reason"), [(GRID, "the volume is a single window"), ((4, 4, 6), "the change does not vary within windows")]
)
def test_a_seam_that_is_not_defined_has_its_reason(roi: tuple[int, int, int], reason: str) -> None:
    change = RAMP if roi == GRID else torch.zeros(GRID)
    for window in attack_windows(GRID, (4, 4, 6)) if roi != GRID else ():
        change[window] = 0.1 * (window[0].start + window[1].start)
    scores = seam_scores(torch.zeros_like(change), change, attack_windows(GRID, roi))
    assert math.isnan(scores.values["seam_energy"])
    assert scores.reasons == {"seam_energy": reason}
