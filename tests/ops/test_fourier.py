"""Bands and amplitudes against numpy's transform and the definition written out."""

import itertools

import pytest
import torch

from freqbench.attacks.faa import amplitude_swap, fourier_bands

SHAPES = [(8, 6, 4), (5, 7, 3), (96, 16, 2), (1, 1, 1)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [1, 5, 32])
def test_bands_part_the_largest_relative_frequency_evenly(shape: tuple[int, int, int], count: int) -> None:
    """In whole numbers: frequency k of a side n is the share 2 k / n of the highest."""
    found = fourier_bands(shape, count)
    h, w, d = shape
    for i, j, k in itertools.product(range(h), range(w), range(d // 2 + 1)):
        steps = ((min(i, h - i), h), (min(j, w - j), w), (k, d))
        expected = min(max(2 * step * count // side for step, side in steps), count - 1)
        assert found[i, j, k] == expected


def test_what_the_volume_lacks_stays_away() -> None:
    """A constant volume has nothing but a mean."""
    reference = torch.rand(1, 1, 6, 5, 4, generator=torch.Generator().manual_seed(2))
    clean = torch.full_like(reference, 0.5, dtype=torch.float64)
    change, _ = amplitude_swap(clean, reference.double())
    swapped = clean + torch.fft.irfftn(change, s=(6, 5, 4), dim=(2, 3, 4))
    assert torch.allclose(swapped, reference.double().mean().expand_as(swapped))
