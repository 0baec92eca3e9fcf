"""The cosine transform, blocks, bands, rounding, errors by any step of an interval, against scipy and oracles."""

from pathlib import Path

import numpy as np
import pytest
import scipy.fft
import torch
from torch import Tensor

from freqbench.ops.blocks import Block, cut_block, merge, merge_slices, split, split_slices
from freqbench.ops.dct import BANDS, BlockDCT, band_magnitude, band_mask, frequency_consistency
from freqbench.ops.quantisation import alpha_schedule, hard_error, quantisation_error, reach, soft_round
from freqbench.ops.stretching import stretch_slices, stretch_slices_offset


@pytest.fixture(scope="module")
def oracles(arrays: Path) -> dict[str, np.ndarray]:
    return dict(np.load(arrays / "oracles.npz"))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def relative(ours: Tensor, theirs: np.ndarray) -> float:
    reference = torch.from_numpy(theirs).double()
    return float((ours.double() - reference).abs().max() / reference.abs().max())


@pytest.mark.parametrize(("shape", "block"), [((8, 6, 4), (4, 3, 2)), ((5, 7, 2), (5, 7, 2)), ((3, 4, 6), (1, 2, 3))])
def test_merge_undoes_split(shape: Block, block: Block) -> None:
    x = random(2, 1, *shape)
    blocks = split(x, block)
    assert blocks.shape[3:] == block
    assert torch.equal(merge(blocks, shape), x)
    slices = split_slices(x, (*block[:2], 1))
    assert slices.shape[2:] == (shape[2], blocks.shape[2] * block[2] // shape[2], *block[:2])
    assert torch.equal(merge_slices(slices, shape), x)


@pytest.mark.parametrize(("key", "shape", "side"), [("b16", (32, 32, 32), 16), ("noncubic_b8", (32, 16, 24), 8)])
def test_blocks_come_in_the_released_order(oracles: dict[str, np.ndarray], key: str, shape: Block, side: int) -> None:
    index = torch.arange(np.prod(shape)).reshape(1, 1, *shape)
    assert np.array_equal(split(index, (side,) * 3)[0, 0].numpy(), oracles[f"split3d_index_{key}"])
    if side == 16:
        assert np.array_equal(split_slices(index, (8, 8, 1))[0, 0].numpy(), oracles["split2d_index_b8"])


def test_block_is_cut_to_the_window() -> None:
    assert cut_block(8, (10, 4, 8)) == (8, 4, 8)
    assert cut_block((4, 16, 2), (10, 4, 8)) == (4, 4, 2)
    assert cut_block(8, (10, 4, 8), per_slice=True) == (8, 4, 1)
    assert cut_block((4, 16), (10, 4, 8), per_slice=True) == (4, 4, 1)


@pytest.mark.parametrize("block", [(4, 3, 4), (8, 3, 6), (2, 6, 1), (8, 6, 12)])
def test_transform_of_every_block_is_scipys_and_has_an_inverse(block: Block) -> None:
    x = random(2, 1, 8, 6, 12)
    transform = BlockDCT.of(x, block)
    spectrum = transform.spectrum(x)
    expected = scipy.fft.dctn(split(x, block).numpy(), axes=(-3, -2, -1), norm="ortho")
    assert np.allclose(split(spectrum, block).numpy(), expected, rtol=0, atol=1e-12)
    assert torch.allclose(transform.volume(spectrum), x, rtol=0, atol=1e-13)
    assert torch.allclose(spectrum.square().sum(), x.square().sum(), rtol=1e-13)


@pytest.mark.parametrize("side", [8, 16, 32])
def test_bands_are_the_released_ones(oracles: dict[str, np.ndarray], side: int) -> None:
    for band in BANDS:
        assert np.array_equal(band_mask(band, (side, side, side)).numpy(), oracles[f"mask3d_b{side}_{band}"])
        assert np.array_equal(band_mask(band, (side, side, 1))[..., 0].numpy(), oracles[f"mask2d_b{side}_{band}"])


@pytest.mark.parametrize("block", [(8, 8, 8), (7, 7, 7), (8, 4, 2), (1, 5, 1), (1, 1, 1)])
def test_every_coefficient_is_in_one_band(block: Block) -> None:
    total = torch.stack([band_mask(band, block) for band in BANDS]).sum(dim=0)
    assert torch.equal(total, torch.ones(block, dtype=torch.long))
    assert band_mask("low", block)[0, 0, 0]
    assert band_mask("all", block).all()


def test_magnitude_of_a_wave_stands_in_its_band() -> None:
    """One coefficient in three of eight blocks, made by scipy: 20, 472 and 20 coefficients share each."""
    spectrum = np.zeros((1, 8, 8, 8, 8))
    spectrum[:, 0, 0, 1, 2] = 2.0
    spectrum[:, 1, 4, 4, 4] = -3.0
    spectrum[:, 2, 7, 7, 7] = 5.0
    blocks = torch.from_numpy(scipy.fft.idctn(spectrum, axes=(-3, -2, -1), norm="ortho"))
    perturbation = merge(blocks[None], (16, 16, 16))
    expected = torch.tensor([[2 / (8 * 20), 3 / (8 * 472), 5 / (8 * 20)]], dtype=torch.float64)
    assert torch.allclose(band_magnitude(perturbation, 8), expected, rtol=1e-12)


def test_a_band_without_coefficients_has_no_magnitude() -> None:
    assert band_magnitude(torch.ones(1, 1, 1, 1, 2), 8).isnan().tolist() == [[False, True, False]]


@pytest.mark.parametrize("alpha", ["0.1", "0.05", "0.001", "1e-20"])
def test_soft_rounding_and_its_slope_are_the_released_ones(oracles: dict[str, np.ndarray], alpha: str) -> None:
    """Slopes on the scale of the largest: in float32 the tanh leaves nothing else of a vanishing one."""
    value, slope = soft_round(torch.from_numpy(oracles["phi_x"]), float(alpha))
    assert relative(value, oracles[f"phi_alpha_{alpha}"]) <= 1e-6
    assert relative(slope, oracles[f"phi_grad_alpha_{alpha}"]) <= 1e-6


@pytest.mark.parametrize("steps", [5, 10, 20])
def test_alpha_schedule_is_the_released_one(oracles: dict[str, np.ndarray], steps: int) -> None:
    assert alpha_schedule(steps) == oracles[f"alpha_schedule_steps{steps}"].tolist()


def test_gradient_of_quantisation() -> None:
    u = random(20) * 0.8 + torch.arange(20) - 9.9
    table = (random(20, seed=1) + 5).requires_grad_()
    spectrum = u * table.detach()
    assert torch.autograd.gradcheck(lambda t: quantisation_error(spectrum, t, 0.05), table)
    expected = soft_round(u, 0.05)[0] * table - spectrum
    assert torch.allclose(quantisation_error(spectrum, table, 0.05), expected, rtol=0, atol=1e-12)


def test_every_slice_is_stretched_by_its_offset() -> None:
    x = 255 * random(2, 1, 4, 3, 5)
    x[1, 0, :, :, 2] = 51.0
    x[0, 0, :, :, 1] = 51.0 + 1e-6 * random(4, 3)
    stretched = stretch_slices(x, 255.0)
    moved = torch.ones(2, 1, 5, dtype=torch.bool)
    moved[1, 0, 2] = moved[0, 0, 1] = False
    assert torch.allclose(stretched.amin(dim=(2, 3))[moved], torch.zeros(8, dtype=torch.float64))
    assert torch.allclose(stretched.amax(dim=(2, 3))[moved], torch.ones(8, dtype=torch.float64))
    assert torch.allclose(stretched[1, 0, :, :, 2], torch.full((4, 3), 0.2, dtype=torch.float64), rtol=0, atol=1e-12)
    assert torch.allclose(stretched[0, 0, :, :, 1], torch.full((4, 3), 0.2, dtype=torch.float64), rtol=0, atol=1e-6)
    assert torch.equal(stretch_slices_offset(torch.full((1, 1, 2, 2, 2), 3.0), 1e-6), torch.ones(1, 1, 2, 2, 2))


def test_gradient_of_stretching_with_a_constant_slice() -> None:
    x = random(1, 1, 3, 3, 2)
    x[..., 1] = 0.25
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(stretch_slices(x, 2.0)[..., 1].sum(), x)
    assert torch.allclose(gradient[..., 1], torch.full((3, 3), 0.5, dtype=torch.float64))
    assert torch.equal(gradient[..., 0], torch.zeros(1, 1, 3, 3, dtype=torch.float64))


def maps() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, 3, 8, 6, 4, generator=generator, dtype=torch.float64) for _ in range(2))


def spectrum(x: Tensor) -> np.ndarray:
    return np.asarray(scipy.fft.dctn(x.numpy(), axes=(2, 3, 4), norm="ortho"))


def test_released_and_paper_norms_are_by_hand() -> None:
    clean, adversarial = maps()
    apart = np.abs(spectrum(clean) - spectrum(adversarial)).sum()
    wanted = {"released": apart / np.abs(spectrum(clean)).sum(), "paper": apart / 2}
    values = {form: float(frequency_consistency(clean, adversarial, form, None)) for form in wanted}
    assert values == pytest.approx(wanted, rel=1e-12)


def test_untiled_volume_is_continued_by_reflection() -> None:
    clean, adversarial = maps()
    padded = [np.pad(x.numpy(), [(0, 0), (0, 0), (0, 0), (0, 2), (0, 0)], mode="reflect") for x in (clean, adversarial)]
    tiles = (padded[0] - padded[1]).reshape(*padded[0].shape[:2], -1, 4, 2, 4, padded[0].shape[4])
    wanted = np.abs(scipy.fft.dctn(tiles, axes=(3, 5, 6), norm="ortho")).sum() / 2
    assert float(frequency_consistency(clean, adversarial, "paper", 4)) == pytest.approx(wanted, rel=1e-12)


def test_gradients_flow_through_both_maps() -> None:
    small = tuple(x[:1, :1, :2, :2, :2].requires_grad_() for x in maps())
    assert torch.autograd.gradcheck(lambda a, b: frequency_consistency(a, b, "released", None), small)


GRID = 200_001
BOUNDS = [(5.0, 20.0), (1.0, 30.0), (15.0, 20.0), (20.0, 20.0)]


def coefficients(q_max: float) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    near = (2 * torch.rand(60, dtype=torch.float64, generator=generator) - 1) * 2 * q_max
    far = torch.randn(60, dtype=torch.float64, generator=generator) * 200
    return torch.cat([near, far, torch.zeros(1, dtype=torch.float64)])


def errors_of_all_steps(c: Tensor, q_min: float, q_max: float) -> Tensor:
    q = torch.linspace(q_min, q_max, GRID, dtype=torch.float64)
    return (c / q).round() * q - c


every_bound = pytest.mark.parametrize(("q_min", "q_max"), BOUNDS)


@every_bound
def test_bounds_are_the_extremes_over_all_steps(q_min: float, q_max: float) -> None:
    spectrum = coefficients(q_max)
    low, high = reach(spectrum, q_min, q_max).bounds
    extremes = torch.stack([torch.stack(errors_of_all_steps(c, q_min, q_max).aminmax()) for c in spectrum])
    torch.testing.assert_close(torch.stack([low, high], dim=1), extremes, rtol=0, atol=1e-2)


@every_bound
def test_the_chosen_step_comes_nearest_to_a_wanted_error(q_min: float, q_max: float) -> None:
    spectrum = coefficients(q_max)
    wanted = (2 * torch.rand(spectrum.shape, dtype=torch.float64) - 1) * 0.8 * q_max
    reachable = reach(spectrum, q_min, q_max)
    error = reachable.nearest(wanted)
    table = reachable.table(error)
    pairs = zip(spectrum, wanted, strict=True)
    nearest = torch.stack([(errors_of_all_steps(c, q_min, q_max) - w).abs().min() for c, w in pairs])
    torch.testing.assert_close((error - wanted).abs(), nearest, rtol=0, atol=1e-2)
    assert table.min() >= q_min
    assert table.max() <= q_max


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_table_makes_the_errors_in_either_precision(dtype: torch.dtype) -> None:
    spectrum = 30 * torch.randn(200_000, dtype=dtype)
    reachable = reach(spectrum, 5, 20)
    for end in reachable.bounds:
        torch.testing.assert_close(reachable.nearest(end), end, rtol=0, atol=0)
        torch.testing.assert_close(hard_error(spectrum, reachable.table(end)), end, rtol=1e-5, atol=1e-4)


def test_the_finest_steps_leave_a_coefficient_where_it_is() -> None:
    """Half a million steps of 0.001: each has a step, and moves by no more than that and the distance from ties."""
    spectrum = 500 * torch.randn(10_000)
    reachable = reach(spectrum, 1e-3, 1e-3)
    little = 1e-3 + 2e-5 * spectrum.abs()
    made = hard_error(spectrum, reachable.table(reachable.nearest(torch.zeros(10_000))))
    assert all((error.abs() <= little).all() for error in (*reachable.bounds, made))
