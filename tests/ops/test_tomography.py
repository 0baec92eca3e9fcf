"""Noise and streaks of CT slices against what back projection makes of them."""

import math

import numpy as np
import pytest
import torch
from skimage.transform import iradon

from freqbench.ops.tomography import ANGLES, metal_streaks, num_bins, reconstructed_noise


def normals(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_noise_has_unit_variance_and_no_mean_in_any_slice() -> None:
    noise = reconstructed_noise(normals(48, 64, 40))
    assert float(noise.var()) == pytest.approx(1, abs=0.02)
    assert float(noise.mean(dim=(0, 1)).abs().max()) < 1e-12


def test_noise_is_that_of_skimage_s_back_projection_of_noise() -> None:
    """The power of each ring of frequencies, of slices in the circle that it reconstructs."""
    side, slices = 64, 24
    rng, angles = np.random.default_rng(0), np.linspace(0, 180, 90, endpoint=False)
    theirs = np.stack(
        [iradon(rng.standard_normal((side, 90)), angles, filter_name="hann", circle=True) for _ in range(slices)], 2
    )
    ours = reconstructed_noise(normals(side, side, slices)).numpy()
    radius = np.hypot(np.fft.fftfreq(32)[:, None], np.fft.fftfreq(32))
    rings, fade = np.digitize(radius, np.linspace(0, 0.5, 9)), np.outer(np.hanning(32), np.hanning(32))[:, :, None]
    powers = []
    for volume in (theirs, ours):
        power = np.square(np.abs(np.fft.fft2(volume[16:48, 16:48] * fade, axes=(0, 1)))).mean(2)
        found = np.array([power[rings == ring].mean() for ring in range(1, 7)])
        powers.append(found / found.sum())
    assert np.abs(powers[0] - powers[1]).max() < 0.04
    assert powers[1].argmax() in (1, 2), "neither white nor smooth: the ramp takes the lowest, Hann's window high ones"


def test_slices_are_independent() -> None:
    noise = reconstructed_noise(normals(32, 32, 40))
    neighbours = np.corrcoef(noise[:, :, :-1].flatten(), noise[:, :, 1:].flatten())[0, 1]
    assert abs(neighbours) < 0.02
    assert np.corrcoef(noise[:-1].flatten(), noise[1:].flatten())[0, 1] < 0.7


def test_a_slice_of_one_voxel_has_no_noise() -> None:
    assert float(reconstructed_noise(normals(1, 1, 3)).abs().max()) == 0


def streaks(height: int, width: int, centres: list[list[float]], radius: float, noise: float) -> np.ndarray:
    rays = noise * normals(ANGLES, num_bins(height, width))
    return metal_streaks(height, width, torch.tensor(centres), radius, rays).numpy()


def test_streaks_are_skimage_s_reconstruction_of_the_error() -> None:
    """Without noise; two rods, each ray's hidden part the square of its way through them."""
    side, radius, centres = 65, 3.0, [[22.0, 20.0], [40.0, 45.0]]
    ours = streaks(side, side, centres, radius, noise=0)
    angles = np.arange(ANGLES) * 180 / ANGLES
    places, turns = np.arange(side) - side // 2, np.deg2rad(angles)
    path = np.zeros((side, ANGLES))
    for row, column in centres:
        # skimage turns the other way around: its rows count against the angle.
        middle = (column - 32) * np.cos(turns) - (row - 32) * np.sin(turns)
        path += np.sqrt(np.maximum(radius**2 - (places[:, None] - middle) ** 2, 0)) / radius
    theirs = iradon(-(path**2), angles, filter_name="hann", circle=True)
    rows, columns = np.mgrid[:side, :side]
    distances = [np.hypot(rows - row, columns - column) for row, column in centres]
    outside = (np.minimum(*distances) > 2 * radius) & (np.hypot(rows - 32, columns - 32) < 30)
    assert np.corrcoef(ours[outside], theirs[outside])[0, 1] > 0.98


def test_a_dark_band_joins_two_rods() -> None:
    found = streaks(48, 48, [[24.0, 12.0], [24.0, 36.0]], 2.0, noise=0)
    assert found[24, 20:29].max() < -1
    assert abs(found[12, 20:29]).max() < 1


@pytest.mark.parametrize(("height", "width"), [(40, 30), (24, 48)])
def test_outside_the_rods_the_root_mean_square_is_one_and_within_them_nothing_changes(height: int, width: int) -> None:
    centre, radius = [height / 3, width / 2], 3.0
    found = streaks(height, width, [centre], radius, noise=1)
    rows, columns = np.mgrid[:height, :width]
    inside = np.hypot(rows - centre[0], columns - centre[1]) <= radius
    assert not found[inside].any()
    assert math.sqrt((found[~inside] ** 2).mean()) == pytest.approx(1)
