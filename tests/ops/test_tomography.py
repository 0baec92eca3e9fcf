"""Projections against what they must be in closed form, and filtered back projection against skimage's."""

import numpy as np
import pytest
import torch
from skimage.transform import iradon
from torch import Tensor

from freqbench.ops.tomography import ParallelBeam


def disc(side: int, radius: float) -> Tensor:
    """A slice `[1, 1, side, side, 1]`, 1 where a voxel's middle lies within the radius."""
    h, w = (torch.arange(side, dtype=torch.float64) - (side - 1) / 2 for _ in range(2))
    return (h[:, None].square() + w.square() <= radius**2).double()[None, None, :, :, None]


def test_a_disc_projects_to_its_chords_and_comes_back() -> None:
    image = disc(64, 20)
    beam = ParallelBeam.of(image, 90)
    readings, place = beam.project(image), torch.arange(beam.bins) - beam.bins // 2
    chords, inner = 2 * (20**2 - place.square()).clamp(min=0).double().sqrt(), place.abs() <= 14
    assert float((readings[0, 0, :, inner, 0] - chords[inner]).abs().mean()) < 1
    assert readings.sum(dim=3).flatten().tolist() == pytest.approx([float(image.sum())] * 90)
    back = beam.reconstruct(readings)
    assert float((back - image)[disc(64, 16) > 0].abs().mean()) < 0.02
    assert float((back * (1 - disc(64, 24))).abs().mean()) < 0.02


def test_back_projection_is_skimage_s() -> None:
    """Smooth readings agree in the circle that skimage reconstructs; it turns the other way around another middle."""
    side, angles = 41, 30
    beam = ParallelBeam.of(torch.zeros(1, 1, side, side, 2, dtype=torch.float64), angles)
    place = np.arange(beam.bins) - beam.bins // 2
    bumps = np.exp(-((place - 6) ** 2) / 40)[:, None] * (1 + 0.3 * np.sin(np.arange(angles)))
    theirs = iradon(bumps, np.arange(angles) * 180 / angles, output_size=side, filter_name="ramp", circle=False)
    ours = beam.reconstruct(torch.from_numpy(bumps.T.copy())[None, None, :, :, None].expand(-1, -1, -1, -1, 2))
    assert torch.equal(ours[..., 0], ours[..., 1])
    inside = disc(side, 18)[0, 0, :, :, 0].numpy() > 0
    assert np.abs(np.flipud(ours[0, 0, :, :, 0].numpy()) - theirs)[inside].max() < 0.02 * np.abs(theirs).max()


def test_a_gradient_is_that_of_the_transpose() -> None:
    """Reconstruction is linear: the slope along a direction is the reconstruction of the direction."""
    generator = torch.Generator().manual_seed(0)
    image, weights = (torch.rand(2, 2, 7, 5, 3, dtype=torch.float64, generator=generator) for _ in range(2))
    beam = ParallelBeam.of(image, 8)
    readings = beam.project(image)
    point = readings.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((beam.reconstruct(point) * weights).sum(), point)
    assert float((gradient * readings).sum()) == pytest.approx(float((beam.reconstruct(readings) * weights).sum()))
    assert torch.equal(beam.gather.to_dense().T, beam.spread.to_dense())
