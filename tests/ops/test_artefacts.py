"""Degraded volumes and projections against scipy, MONAI, skimage, closed forms and what k-space says."""

import math

import numpy as np
import pytest
import torch
from monai.transforms import KSpaceSpikeNoise
from ops.test_dct import random as uniform
from scipy import ndimage
from skimage.transform import iradon
from torch import Tensor

from freqbench.ops.artefacts import blurred, coarser, reconstructed_noise, with_ghosts, with_motion, with_spikes
from freqbench.ops.tomography import ParallelBeam

SHAPE = (12, 16, 6)


def volume(channels: int = 2) -> Tensor:
    return 0.4 + 0.2 * uniform(channels, *SHAPE)


def poses(*rows: tuple[float, float, float]) -> tuple[Tensor, Tensor]:
    """Turns and shifts of each segment."""
    drawn = torch.tensor(rows, dtype=torch.float64)
    return drawn[:, 0], drawn[:, 1:]


@pytest.mark.parametrize(("first", "second"), [((0.0, 1.0, 0.0), (0.0, 0.0, 0.0)), ((0.0, 0.0, 0.0), (0.0, 0.0, -2.0))])
def test_lines_are_of_moved_volumes(first: tuple[float, float, float], second: tuple[float, float, float]) -> None:
    """Whole voxels; lines -8..-5 come before a quarter, 4..7 after three, and those in the middle are never moved."""
    x = volume().numpy()
    ghosted = with_motion(volume(), *poses(first, (9.0, 9.0, 9.0), second), torch.tensor([0.75, 0.25])).numpy()
    lines = np.fft.fft(x, axis=2)
    number = np.fft.fftfreq(16, 1 / 16).round()
    for place, (_, down, right) in ((number < -4, first), (number >= 4, second)):
        moved = ndimage.shift(x, (0, -down, -right, 0), order=1, mode="nearest")
        lines[:, :, place] = np.fft.fft(moved, axis=2)[:, :, place]
    assert np.allclose(ghosted, np.abs(np.fft.ifft(lines, axis=2)), atol=1e-12)
    assert not np.allclose(ghosted, x, atol=1e-3)


@pytest.mark.parametrize("turn", [90.0, 30.0])
def test_turn_is_one_of_voxels_in_plane_though_sides_differ(turn: float) -> None:
    """All lines but those in the middle are of the turned volume, here of a blob far from the border."""
    rows, columns = np.mgrid[:24, :32]
    blob = np.exp(-((rows - 9) ** 2 + (columns - 19) ** 2) / 8)[None, :, :, None].repeat(2, 3)
    moments = torch.tensor([15 / 32, 17 / 32])
    moved = with_motion(torch.from_numpy(blob), *poses((turn, 0, 0), (0, 0, 0), (turn, 0, 0)), moments).numpy()
    turned = ndimage.rotate(blob, turn, axes=(1, 2), reshape=False, order=1, mode="nearest")
    lines = np.fft.fft(turned, axis=2)
    own = np.fft.fft(blob, axis=2)
    lines[:, :, [-1, 0]] = own[:, :, [-1, 0]]
    assert np.allclose(moved, np.abs(np.fft.ifft(lines, axis=2)), atol=5e-3)


@pytest.mark.parametrize("period", [2, 4, 8])
def test_ghosts_are_copies_a_part_of_the_axis_away(period: int) -> None:
    x = volume()[None].numpy()
    loss = 0.6
    copies = sum((-1) ** j * np.roll(x, j * 16 // period, axis=3) for j in range(period))
    ghosted = with_ghosts(torch.from_numpy(x), loss, period)
    assert np.allclose(ghosted, np.abs(x - loss / period * copies), atol=1e-12)
    assert ghosted.mean() == pytest.approx(float(x.mean()))


def test_a_spike_is_that_of_monai_where_it_lies_on_the_grid() -> None:
    """MONAI sets one coefficient and takes the real part; its phase is that of the volume."""
    x = volume(1)
    place = (2, 3, 1)
    spectrum = torch.fft.fftn(x[0])[place]
    loc = tuple(side // 2 + k for side, k in zip(SHAPE, place, strict=True))
    expected = KSpaceSpikeNoise(loc, k_intensity=math.log(0.1 * math.prod(SHAPE) + float(spectrum.abs())))(x)
    frequency = torch.tensor([[k / side for side, k in zip(SHAPE, place, strict=True)]], dtype=torch.float64)
    phase = torch.tensor([float(spectrum.angle()) / (2 * math.pi)], dtype=torch.float64)
    assert np.allclose(with_spikes(x, 0.1, frequency, phase), expected.numpy(), atol=1e-8)


@pytest.mark.parametrize("sigma", [0.4, 0.9, 1.6, 2.4])
def test_blur_is_scipy_s_gaussian_filter(sigma: float) -> None:
    x = uniform(2, 2, *SHAPE)
    expected = ndimage.gaussian_filter(x.numpy(), (0, 0, *[sigma] * 3), mode="nearest", truncate=4)
    assert np.allclose(blurred(x, sigma), expected, atol=1e-6)


@pytest.mark.parametrize("factor", [2, 4])
def test_coarser_voxels_are_means_of_blocks_read_linearly(factor: int) -> None:
    x = uniform(8, 16, 4).numpy()
    blocks = x.reshape(8 // factor, factor, 16 // factor, factor, 4 // factor, factor).mean((1, 3, 5))
    for axis, side in enumerate((8, 16, 4)):
        middles = (np.arange(side // factor) + 0.5) * factor - 0.5
        blocks = np.apply_along_axis(lambda row, m=middles, n=side: np.interp(np.arange(n), m, row), axis, blocks)
    assert np.allclose(coarser(torch.from_numpy(x)[None, None], factor)[0, 0], blocks)


def normals(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_noise_has_unit_variance_and_no_mean_in_any_slice() -> None:
    noise = reconstructed_noise(normals(48, 64, 40))
    assert noise.var() == pytest.approx(1, abs=0.02)
    assert noise.mean(dim=(0, 1)).abs().max() < 1e-12


def test_noise_is_that_of_skimage_s_back_projection_of_noise() -> None:
    """The power of each ring of frequencies, of slices in the circle that it reconstructs."""
    side = 64
    slices = 24
    rng = np.random.default_rng(0)
    angles = np.linspace(0, 180, 90, endpoint=False)
    noise = (rng.standard_normal((side, 90)) for _ in range(slices))
    theirs = np.stack([iradon(each, angles, filter_name="hann", circle=True) for each in noise], 2)
    ours = reconstructed_noise(normals(side, side, slices)).numpy()
    radius = np.hypot(np.fft.fftfreq(32)[:, None], np.fft.fftfreq(32))
    rings = np.digitize(radius, np.linspace(0, 0.5, 9))
    fade = np.outer(np.hanning(32), np.hanning(32))[:, :, None]
    powers = []
    for volume in (theirs, ours):
        power = np.square(np.abs(np.fft.fft2(volume[16:48, 16:48] * fade, axes=(0, 1)))).mean(2)
        spectrum = np.array([power[rings == ring].mean() for ring in range(1, 7)])
        powers.append(spectrum / spectrum.sum())
    assert np.abs(powers[0] - powers[1]).max() < 0.04
    assert powers[1].argmax() in (1, 2), "neither white nor smooth: the ramp takes the lowest, Hann's window high ones"


def test_axis_of_one_voxel_stays_and_slice_of_one_has_no_noise() -> None:
    x = uniform(1, 1, 6, 5, 1)
    assert coarser(x, 3.0).shape == x.shape
    assert torch.isfinite(blurred(x, 1.6)).all()
    assert reconstructed_noise(normals(1, 1, 3)).abs().max() == 0


def disc(side: int, radius: float) -> Tensor:
    """A slice `[1, 1, side, side, 1]`, 1 where a voxel's middle lies within the radius."""
    h, w = (torch.arange(side, dtype=torch.float64) - (side - 1) / 2 for _ in range(2))
    return (h[:, None].square() + w.square() <= radius**2).double()[None, None, :, :, None]


def test_a_disc_projects_to_its_chords_and_comes_back() -> None:
    image = disc(64, 20)
    beam = ParallelBeam.of(image, 90)
    readings = beam.project(image)
    place = torch.arange(beam.bins) - beam.bins // 2
    chords = 2 * (20**2 - place.square()).clamp(min=0).double().sqrt()
    inner = place.abs() <= 14
    assert (readings[0, 0, :, inner, 0] - chords[inner]).abs().mean() < 1
    assert readings.sum(dim=3).flatten().tolist() == pytest.approx([float(image.sum())] * 90)
    back = beam.reconstruct(readings)
    assert (back - image)[disc(64, 16) > 0].abs().mean() < 0.02
    assert (back * (1 - disc(64, 24))).abs().mean() < 0.02


def test_back_projection_is_skimage_s() -> None:
    """Smooth readings agree in the circle that skimage reconstructs; it turns the other way around another middle."""
    side = 41
    angles = 30
    beam = ParallelBeam.of(torch.zeros(1, 1, side, side, 2, dtype=torch.float64), angles)
    place = np.arange(beam.bins) - beam.bins // 2
    bumps = np.exp(-((place - 6) ** 2) / 40)[:, None] * (1 + 0.3 * np.sin(np.arange(angles)))
    theirs = iradon(bumps, np.arange(angles) * 180 / angles, output_size=side, filter_name="ramp", circle=False)
    ours = beam.reconstruct(torch.from_numpy(bumps.T.copy())[None, None, :, :, None].expand(-1, -1, -1, -1, 2))
    assert torch.equal(ours[..., 0], ours[..., 1])
    inside = disc(side, 18)[0, 0, :, :, 0].numpy() > 0
    assert np.abs(np.flipud(ours[0, 0, :, :, 0].numpy()) - theirs)[inside].max() < 0.02 * np.abs(theirs).max()
