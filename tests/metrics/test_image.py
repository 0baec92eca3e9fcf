"""Image distances against skimage's stored values and closed forms, and the body mask against shapes one can count."""

import json
import math
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from freqbench.core.errors import UserError
from freqbench.metrics import body_mask, image_scores, psnr, ssim


@pytest.mark.parametrize("pair", ["int0", "int1", "int2"])
def test_ssim_and_psnr_are_skimages_stored_ones(arrays: Path, pair: str) -> None:
    folder = arrays / "models"
    stored = json.loads((folder / "metrics_values.json").read_text())["intensity"][pair]
    with np.load(folder / "metrics.npz") as volumes:
        clean, adversarial = ((volumes[f"{pair}__{side}"] / 255).astype(np.float32) for side in ("real", "fake"))
    assert ssim(clean, adversarial) == pytest.approx(stored["skimage_ssim_x255_channel_axis2_dr255"], abs=1e-7)
    assert psnr(clean, adversarial) == pytest.approx(stored["skimage_psnr_dr255_x255"], rel=1e-9)
    scores = image_scores(torch.as_tensor(clean)[None, None], torch.as_tensor(adversarial)[None, None]).values
    assert scores["ssim"] == ssim(clean, adversarial)
    assert scores["psnr"] == psnr(clean, adversarial)
    assert scores["l2"] ** 2 / clean.size == pytest.approx(stored["mse_0_1"], rel=1e-6)


def test_identical_volumes_have_the_ideal_scores_without_a_warning() -> None:
    volume = np.random.default_rng(0).random((9, 8, 3), np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = image_scores(volume, volume)
    assert scores.reasons == {}
    assert dict(scores.values) == {
        "ssim": 1.0,
        "ssim_body": 1.0,
        "psnr": math.inf,
        "linf": 0.0,
        "l2": 0.0,
        "l2_body": 0.0,
    }


def test_body_is_the_largest_component_with_its_holes() -> None:
    volume = np.zeros((20, 20, 20), np.float32)
    volume[3:13, 3:13, 3:13] = 0.5
    volume[6:9, 6:9, 6:9] = 0  # gas inside: belongs to the body
    volume[13, 13, 13] = 0.5  # touches with a corner only
    volume[0:2, 3:13, 3:13] = 0.9  # a couch apart
    expected = np.zeros(volume.shape, bool)
    expected[3:13, 3:13, 3:13] = True
    np.testing.assert_array_equal(body_mask(volume), expected)


def test_a_dent_open_to_the_air_is_not_body() -> None:
    volume = np.zeros((12, 12, 12), np.float32)
    volume[2:10, 2:10, 2:10] = 1
    volume[2:6, 5, 5] = 0
    assert body_mask(volume).sum() == 8**3 - 4


def test_body_scores_see_the_body_only() -> None:
    """Noise in the air changes whole-volume figures and not the body's."""
    clean = np.zeros((40, 40, 4), np.float32)
    clean[10:20, 10:20] = np.random.default_rng(2).uniform(0.4, 0.6, (10, 10, 4))
    in_air = clean.copy()
    in_air[28:] += 0.1
    scores = image_scores(clean, in_air).values
    assert scores["ssim_body"] == pytest.approx(1.0, abs=1e-6)
    assert scores["l2_body"] == 0.0
    assert scores["ssim"] < 0.9
    assert scores["l2"] == pytest.approx(0.1 * math.sqrt(12 * 40 * 4), rel=1e-6)


def test_no_body_is_nan_with_a_reason() -> None:
    scores = image_scores(np.zeros((8, 8, 2), np.float32), np.full((8, 8, 2), 0.1, np.float32))
    assert math.isnan(scores.values["ssim_body"])
    assert math.isnan(scores.values["l2_body"])
    assert scores.reasons == dict.fromkeys(
        ("ssim_body", "l2_body"), "no body: the clean volume has no intensity above 0"
    )


def test_slices_smaller_than_the_window_are_nan_with_a_reason() -> None:
    thin = np.full((6, 30, 30), 0.5, np.float32)
    scores = image_scores(thin, thin)
    assert math.isnan(scores.values["ssim"])
    assert set(scores.reasons) == {"ssim", "ssim_body"}
    assert scores.values["l2_body"] == 0.0
    with pytest.raises(UserError, match="at least 7 x 7 voxels, got 6 x 30"):
        ssim(thin, thin)


def test_volumes_of_two_shapes_are_refused() -> None:
    with pytest.raises(UserError, match="two volumes of one shape"):
        image_scores(np.zeros((8, 8, 8)), np.zeros((8, 8, 9)))


def test_scores_do_not_hang_on_the_threads_of_blas() -> None:
    """Workers of a cluster have one, a process of its own has all; a row computed again is to be equal to the bit."""
    code = """
import numpy as np
from freqbench.metrics import image_scores
print(image_scores(*np.random.default_rng(0).random((2, 48, 48, 48), np.float32)))
"""
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "3")
    }
    assert len(said) == 1
