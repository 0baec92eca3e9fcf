"""What a filter keeps, against scipy's transform."""

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn

from freqbench.ops.filters import keep_cube

VOLUME = torch.randn(2, 1, 6, 5, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
AXES = (2, 3, 4)


@pytest.mark.parametrize("norm", [None, "ortho"])
@pytest.mark.parametrize(
    ("kind", "limits", "kept"), [("low", (3,), (0, 3)), ("high", (2,), (2, 8)), ("band", (1, 4), (1, 4))]
)
def test_keeps_the_cube_whatever_the_norm(
    kind: str, limits: tuple[int, ...], kept: tuple[int, int], norm: str | None
) -> None:
    """The released inference script has the un-normalised transform."""
    spectrum = dctn(VOLUME.numpy(), axes=AXES, norm=norm)
    mask = np.zeros(spectrum.shape)
    mask[..., kept[0] : kept[1], kept[0] : kept[1], kept[0] : kept[1]] = 1
    expected = idctn(spectrum * mask, axes=AXES, norm=norm)
    assert np.allclose(keep_cube(VOLUME, kind, *limits).numpy(), expected, atol=1e-12)


def test_low_beyond_every_axis_keeps_all() -> None:
    assert torch.allclose(keep_cube(VOLUME, "low", 8), VOLUME, atol=1e-12)


def test_high_beyond_an_axis_keeps_nothing() -> None:
    assert not keep_cube(VOLUME, "high", 5).any()


def test_filtering_twice_is_filtering_once() -> None:
    once = keep_cube(VOLUME, "band", 1, 4)
    assert torch.allclose(keep_cube(once, "band", 1, 4), once, atol=1e-12)


def test_dtype_stays() -> None:
    assert keep_cube(VOLUME.float(), "low", 3).dtype == torch.float32
