"""SSIM as a loss against pytorch-msssim and the authors' oracles."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import pytorch_msssim
import torch
from golden.network import Find, load
from scipy import ndimage
from torch import Tensor

from freqbench.ops.blocks import Block, split
from freqbench.ops.ssim import body_ssim, gaussian_window, ssim_loss, within_ssim


@pytest.fixture(scope="module")
def oracles(arrays: Path) -> dict[str, np.ndarray]:
    return dict(np.load(arrays / "oracles.npz"))


def volumes(*shape: int, seed: int = 0, noise: float = 0.2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=generator, dtype=torch.float64)
    return x, (x + noise * torch.randn(shape, generator=generator, dtype=torch.float64)).clamp(0, 1)


def msssim(x: Tensor, y: Tensor) -> Tensor:
    """pytorch-msssim on `[N, C, H, W, D]`: SSIM of every sample."""
    value: Tensor = pytorch_msssim.ssim(x, y, data_range=1, size_average=False, win_size=3, nonnegative_ssim=True)
    return value


def with_gradient(function: object, y: Tensor) -> tuple[Tensor, Tensor]:
    y = y.detach().requires_grad_()
    value = function(y)
    return value.detach(), torch.autograd.grad(value.sum(), y)[0]


@pytest.mark.filterwarnings("ignore:Skipping Gaussian Smoothing")
@pytest.mark.parametrize("shape", [(1, 8, 6, 9), (1, 40, 5, 36), (1, 3, 3, 3), (1, 6, 5, 2), (2, 8, 6, 9)])
def test_whole_volume_is_msssim_with_its_gradient(shape: tuple[int, ...]) -> None:
    """36 and 40 take shifted sums, the others matrices; an axis of 2 is not smoothed; the last has two channels."""
    x, y = volumes(2, *shape)
    for a, b in zip(with_gradient(ssim_loss(x), y), with_gradient(lambda t: 1 - msssim(x, t), y), strict=True):
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-6 * float(b.abs().max()))


@pytest.mark.parametrize("block", [(4, 4, 4), (8, 4, 6), (3, 6, 12)])
def test_blockwise_is_msssim_of_every_block_with_its_gradient(block: Block) -> None:
    """Two channels, and noise for blocks of negative SSIM, which count 0 and have no gradient."""
    x, y = volumes(2, 2, 24, 12, 12, noise=2.0)
    blocks = [split(t, block).flatten(0, 2)[:, None] for t in (x, y)]
    assert block == (8, 4, 6) or msssim(*blocks).min() == 0

    def theirs(t: Tensor) -> Tensor:
        return 1 - msssim(blocks[0], split(t, block).flatten(0, 2)[:, None]).reshape(2, -1).mean(dim=1)

    for a, b in zip(with_gradient(ssim_loss(x, block), y), with_gradient(theirs, y), strict=True):
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-6 * float(b.abs().max()))


def test_a_remainder_is_a_block_of_its_own() -> None:
    x, y = volumes(1, 1, 11, 4, 4)
    parts: Sequence[slice] = (slice(0, 4), slice(4, 8), slice(8, 11))
    expected = torch.stack([msssim(x[:, :, part], y[:, :, part]) for part in parts]).mean()
    assert torch.allclose(1 - ssim_loss(x, (4, 4, 4))(y), expected, rtol=1e-6)


@pytest.mark.parametrize("side", [8, 16, 32, None])
def test_ssim_values_are_the_released_ones(golden: Find, oracles: dict[str, np.ndarray], side: int | None) -> None:
    reference = load(golden, "vafa3d_q20_s5_b32_ssim")
    loss = ssim_loss(reference.images, side and (side,) * 3)(torch.from_numpy(reference.arrays["adversarial"]))
    expected = float(oracles[f"ssim_loss_block{side}" if side else "ssim_loss_whole"])
    assert loss == pytest.approx(expected, rel=1e-5)  # 1e-6 of the SSIM, of which the loss is what is missing
    assert 1 - float(loss) == pytest.approx(1 - expected, rel=1e-6)


def smoothed(x: np.ndarray) -> np.ndarray:
    """The Gaussian window of three taps along every axis by scipy, where all of it lies inside."""
    for axis in range(3):
        x = ndimage.correlate1d(x, gaussian_window().numpy(), axis=axis)
    return x[1:-1, 1:-1, 1:-1]


def ssim_map(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Wang et al., IEEE TIP 2004, equation 13, range 1."""
    mean_x = smoothed(x)
    mean_y = smoothed(y)
    variance_x = smoothed(x * x) - mean_x**2
    variance_y = smoothed(y * y) - mean_y**2
    covariance = smoothed(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + 1e-4) / (mean_x**2 + mean_y**2 + 1e-4)
    return luminance * (2 * covariance + 9e-4) / (variance_x + variance_y + 9e-4)


def test_ssim_of_volume_that_is_all_body_is_pytorch_msssims_mean() -> None:
    x, y = volumes(2, 2, 8, 7, 6)
    x = x.clamp(min=0.01)
    assert torch.allclose(body_ssim(x)(y), pytorch_msssim.ssim(x, y, data_range=1, size_average=False, win_size=3))


def test_air_around_the_body_does_not_count_and_air_inside_does() -> None:
    """Samples with bodies of their own: a box with a hole and with a couch below it, and air alone."""
    x, y = volumes(2, 1, 10, 9, 8)
    above = np.zeros((2, 10, 9, 8), bool)
    above[0, 2:7, 2:7, 2:6] = True
    above[0, 4, 4, 4] = False
    above[0, 9] = True
    x = (x + 0.01) * torch.from_numpy(above)[:, None]
    inside = np.zeros((10, 9, 8), bool)
    inside[2:7, 2:7, 2:6] = True
    maps = [ssim_map(a[0].numpy(), b[0].numpy()) for a, b in zip(x, y, strict=True)]
    expected = [maps[0][inside[1:-1, 1:-1, 1:-1]].mean(), maps[1].mean()]
    np.testing.assert_allclose(body_ssim(x)(y).numpy(), expected, rtol=1e-9)


def test_float32_volumes_are_compared_in_float64() -> None:
    x, y = (each.float() for each in volumes(1, 1, 8, 7, 6, noise=1e-3))
    assert body_ssim(x)(y).dtype == torch.float64
    assert torch.equal(body_ssim(x)(y), body_ssim(x.double())(y.double()))


def test_gradient_is_that_of_the_point_on_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Central differences agree, of a linear function of the point, whose place on its line is found to 1e-15."""
    monkeypatch.setattr("freqbench.ops.ssim.HALVINGS", 50)
    generator = torch.Generator().manual_seed(2)
    clean, away, weights = (torch.rand((2, 1, 5, 4, 4), generator=generator, dtype=torch.float64) for _ in range(3))
    clean = 0.1 + 0.8 * clean
    bounded = within_ssim("test", clean, 0.95, torch.zeros(()), lambda x: x, lambda x: clean + x)

    def value(x: Tensor) -> Tensor:
        return (weights * bounded(x)).sum()

    x = away.clone()
    x[1] *= 0.01  # within the bound: moved by nothing
    point = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(point), point)
    assert torch.equal(gradient[1], weights[1])
    for place in ((0, 0, 0, 0, 0), (0, 0, 2, 1, 3), (0, 0, 4, 3, 3)):
        step = torch.zeros_like(x)
        step[place] = 1e-5
        assert float(gradient[place]) == pytest.approx(float(value(x + step) - value(x - step)) / 2e-5, rel=1e-5)
