"""Each transformation against an independent implementation, and its gradients against what its docstring says."""

import numpy as np
import pytest
import torch
from draws import seeded
from scipy import fft, ndimage
from skimage.restoration import denoise_tv_chambolle
from torch import Tensor

from freqbench.models.defences.base import Defence
from freqbench.models.defences.transforms import DctQuantization, RandomResizePad
from freqbench.models.entry import defence_of

SHAPE = (9, 8, 7)
QUANTISING = [{"name": "bit_depth", "bits": 3}, {"name": "dct_quantization"}]
EXAMPLES = [
    *QUANTISING,
    {"name": "median_smoothing", "size": 3},
    {"name": "gaussian_smoothing", "sigma": 0.8},
    {"name": "total_variation"},
    {"name": "random_resize_pad"},
    {"name": "randomized_smoothing", "sigma": 0.1},
]


def windows(batch: int = 2, channels: int = 2) -> Tensor:
    return torch.rand(batch, channels, *SHAPE, dtype=torch.float64, generator=seeded(3))


def filtered(content: dict[str, object], images: Tensor) -> Tensor:
    return defence_of(content).transform(images)


@pytest.mark.parametrize("sigma", [0.4, 1.0, 2.5])
def test_gaussian_smoothing_is_scipys(sigma: float) -> None:
    images = windows()
    expected = ndimage.gaussian_filter(images.numpy(), (0, 0, sigma, sigma, sigma), mode="nearest")
    smoothed = filtered({"name": "gaussian_smoothing", "sigma": sigma}, images)
    np.testing.assert_allclose(smoothed.numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [3, 5])
def test_median_smoothing_is_scipys(size: int) -> None:
    images = windows()
    expected = ndimage.median_filter(images.numpy(), (1, 1, size, size, size), mode="nearest")
    assert np.array_equal(filtered({"name": "median_smoothing", "size": size}, images).numpy(), expected)


@pytest.mark.parametrize("bits", [1, 2, 5])
def test_bit_depth_takes_the_nearest_of_its_levels(bits: int) -> None:
    images = windows()
    levels = np.linspace(0, 1, 2**bits)
    nearest = levels[np.abs(images.numpy()[..., None] - levels).argmin(axis=-1)]
    np.testing.assert_allclose(filtered({"name": "bit_depth", "bits": bits}, images).numpy(), nearest, atol=1e-15)


def test_dct_quantization_rounds_scipys_coefficients() -> None:
    """Block by block, where blocks tile; coarse enough that a quarter of the coefficients is not just 0."""
    images = windows()[:, :, :8, :8, :6]
    expected = images.numpy().copy()
    i, j, k = np.indices((4, 4, 3))
    steps = 1 + 5.0 * (1 + i + j + k)
    for h, w, d in np.ndindex(2, 2, 2):
        place = np.s_[:, :, 4 * h : 4 * h + 4, 4 * w : 4 * w + 4, 3 * d : 3 * d + 3]
        coefficients = fft.dctn(255 * expected[place] - 128, axes=(2, 3, 4), norm="ortho")
        quantised = steps * np.round(coefficients / steps)
        expected[place] = (fft.idctn(quantised, axes=(2, 3, 4), norm="ortho") + 128) / 255
    smoothed = filtered({"name": "dct_quantization", "block": (4, 4, 3), "coarseness": 5}, images)
    np.testing.assert_allclose(smoothed.numpy(), expected.clip(0, 1), rtol=0, atol=1e-12)
    assert np.abs(expected - images.numpy()).max() > 0.05


def test_dct_quantization_reflects_untiled_windows() -> None:
    images = windows()
    tiled = np.pad(images.numpy(), ((0, 0), (0, 0), (0, 3), (0, 0), (0, 1)), mode="reflect")
    defence = DctQuantization(block=4)
    whole = defence.transform(torch.from_numpy(tiled))
    torch.testing.assert_close(defence.transform(images), whole[:, :, :9, :8, :7], rtol=0, atol=1e-14)


def objective(u: np.ndarray, x: np.ndarray, weight: float) -> float:
    """1/2 |u - x|^2 + weight TV(u), forward differences, isotropic."""
    slopes = [np.diff(u, axis=axis, append=np.take(u, [-1], axis=axis)) for axis in range(3)]
    return float(((u - x) ** 2).sum() / 2 + weight * np.sqrt(sum(slope**2 for slope in slopes)).sum())


def test_total_variation_comes_to_the_minimum_that_skimage_finds() -> None:
    images = windows(1, 1)
    weight = 0.05
    x = images[0, 0].numpy()
    minimum = objective(denoise_tv_chambolle(x, weight=weight, eps=0, max_num_iter=3000), x, weight)
    values = [
        objective(filtered({"name": "total_variation", "weight": weight, "steps": n}, images)[0, 0].numpy(), x, weight)
        for n in (1, 5, 20, 100, 1000)
    ]
    assert values == sorted(values, reverse=True)
    assert values[0] < objective(x, x, weight)
    assert values[-1] == pytest.approx(minimum, rel=1e-5)


def test_channels_and_samples_are_filtered_by_themselves() -> None:
    images = windows()
    for content in EXAMPLES[:5]:
        alone = torch.stack([filtered(content, window[c : c + 1][None])[0, 0] for window in images for c in range(2)])
        torch.testing.assert_close(filtered(content, images).flatten(0, 1), alone, rtol=0, atol=1e-14)


def gradient(defence: Defence, images: Tensor, adaptive: bool) -> tuple[Tensor, Tensor]:
    """Gradient of a weighted sum of the network's input, and the weights."""
    x = images.clone().requires_grad_()
    seen, _ = defence.defend(x, range(len(images)), adaptive)
    weights = torch.randn(seen.shape, dtype=seen.dtype, generator=seeded(5))
    (slope,) = torch.autograd.grad((seen * weights).sum(), x)
    return slope, weights


@pytest.mark.parametrize("content", QUANTISING, ids=lambda content: content["name"])
def test_adaptive_attacker_gets_the_identitys_gradient(content: dict[str, object]) -> None:
    defence = defence_of(content)
    images = windows()
    slope, weights = gradient(defence, images, adaptive=True)
    assert torch.equal(slope, weights)
    seen, _ = defence.defend(images, [0, 0], adaptive=True)
    assert torch.equal(seen, defence.transform(images))
    assert not torch.equal(seen, images)


@pytest.mark.parametrize("content", QUANTISING, ids=lambda content: content["name"])
def test_a_naive_attacker_gets_no_gradient_through_a_rounding(content: dict[str, object]) -> None:
    slope, _ = gradient(defence_of(content), windows(), adaptive=False)
    assert not slope.any()


@pytest.mark.parametrize(
    "content",
    [
        {"name": "gaussian_smoothing", "sigma": 0.8},
        {"name": "median_smoothing", "size": 3},
        {"name": "total_variation", "weight": 0.1, "steps": 7},
    ],
    ids=lambda content: content["name"],
)
def test_gradients_through_smooth_ones_are_finite_differences(content: dict[str, object]) -> None:
    images = 0.25 + 0.5 * windows(1, 1)[:, :, :4, :4, :3]
    assert torch.autograd.gradcheck(defence_of(content).transform, images.requires_grad_())


def test_total_variation_of_a_flat_window_has_a_gradient() -> None:
    slope, _ = gradient(defence_of({"name": "total_variation"}), torch.zeros(1, 1, 4, 4, 4), adaptive=True)
    assert slope.isfinite().all()


def test_resized_window_stands_among_zeros() -> None:
    """A linear ramp keeps its values where it came from: what is seen there is where the network saw it."""
    h, w, d = (torch.linspace(0.2, 0.8, size, dtype=torch.float64) for size in (20, 16, 12))
    ramp = ((h[:, None, None] + w[:, None] + d) / 3)[None, None]
    seen, back = RandomResizePad(smallest=0.5).defend(ramp, [4], adaptive=True)
    sides = [int(seen.amax(dim=axes).count_nonzero()) for axes in ((0, 1, 3, 4), (0, 1, 2, 4), (0, 1, 2, 3))]
    assert all(size / 2 <= side < size for side, size in zip(sides, (20, 16, 12), strict=True))
    inner = (slice(None), slice(None), slice(2, -2), slice(2, -2), slice(2, -2))
    torch.testing.assert_close(back(seen)[inner], ramp[inner], rtol=0, atol=1e-12)


def test_ratios_and_places_of_resized_windows_fill_their_range() -> None:
    one = torch.ones(1, 1, 20, 20, 20)
    seen = torch.cat([RandomResizePad(smallest=0.5).defend(one, [seed], adaptive=True)[0] for seed in range(200)])
    sides = seen[:, 0, :, :, :].amax(dim=(2, 3)).sum(dim=1)
    first = seen[:, 0].amax(dim=(2, 3)).argmax(dim=1)
    assert (sides.min(), sides.max(), sides.mean()) == (10, 20, pytest.approx(15, abs=0.7))
    gaps = 20 - sides
    assert (first <= gaps).all()
    assert (first[gaps > 0] / gaps[gaps > 0]).mean() == pytest.approx(0.5, abs=0.07)
    assert {0.0, 1.0} <= set((first[gaps > 0] / gaps[gaps > 0]).tolist())
