"""Changes that add up: two of a kind, one after another, are a third, and the steps that would break it do."""

import math
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.fft import dctn, fftn, idctn, ifftn
from scipy.ndimage import fourier_shift
from torch import Tensor

from freqbench.ops.changes import CHANGES, dividing_block, draws_of, radial_bands

SHAPES = {"whole blocks": (2, 16, 8, 8), "odd sides": (1, 15, 7, 11)}


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pair(kind: str, shape: tuple[int, ...], size: float) -> tuple[Tensor, Tensor, Tensor]:
    """Two sets of parameters, and those of both changes, one after the other."""
    a, b = (size * drawn(2, *CHANGES[kind].layout(shape), seed=seed) for seed in (1, 2))
    if kind == "voxel_shift":
        a = (10 * a).round()
    both = a + b
    if kind == "gain_offset":
        both[:, :, 1] = a[:, :, 1] + b[:, :, 1] * (-a[:, :, 0]).exp()
    return a, b, both


every_kind = pytest.mark.parametrize("kind", CHANGES)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@every_kind
def test_two_changes_are_a_third(kind: str, shape: tuple[int, ...]) -> None:
    shape = (1, *shape[1:]) if kind == "gain_offset" else shape
    x = torch.rand(2, *shape)
    apply = CHANGES[kind].apply
    a, b, both = pair(kind, shape, 0.3)
    assert torch.allclose(apply(apply(x, a), b), apply(x, both), atol=1e-5)
    nothing = apply(x, torch.zeros_like(a))
    assert torch.allclose(apply(nothing, a), apply(x, a), atol=1e-6)
    if kind != "fourier_shift" or shape == SHAPES["odd sides"]:  # of an even side it takes the Nyquist frequency
        assert torch.allclose(nothing, x, atol=1e-6)
    assert not torch.allclose(apply(x, a), x, atol=1e-2)


@pytest.mark.parametrize("kind", [kind for kind in CHANGES if kind != "voxel_shift"])
def test_a_clamp_between_two_changes_breaks_the_sum(kind: str) -> None:
    """Volumes of `ball` stay unclamped until the network's own draw. Shifts by whole voxels make no new values."""
    x = torch.rand(2, 1, 8, 8, 8)
    apply = CHANGES[kind].apply
    a, b, both = pair(kind, (1, 8, 8, 8), 1.0)
    cut = apply(apply(x, a).clamp(0, 1), b).clamp(0, 1)
    assert (cut - apply(x, both).clamp(0, 1)).abs().max() > 0.01


@pytest.mark.parametrize("kind", ["voxels", "bias_field", "dct_bands", "fourier_shift"])
def test_rounding_between_changes_moves_voxels_no_farther(kind: str) -> None:
    """A scan stored as 16 bits is in the ball of radius R plus the rounding's, not of R: as for any quantised file."""
    x = torch.rand(2, 1, 8, 8, 8)
    apply = CHANGES[kind].apply
    a, b, both = pair(kind, (1, 8, 8, 8), 0.1)
    levels = 2**16 - 1
    rounded = apply((apply(x, a) * levels).round() / levels, b)
    assert (rounded - apply(x, both)).abs().max() < 8 / levels


def test_blocks_divide_the_volume_so_that_nothing_is_padded() -> None:
    assert dividing_block((80, 64, 32)) == (8, 8, 8)
    assert dividing_block((35, 11, 6)) == (7, 1, 6)


def test_the_mean_of_a_block_is_in_no_band() -> None:
    bands = radial_bands((8, 8, 8))
    assert (bands[0, 0, 0], bands.flatten()[1:].unique().tolist()) == (0, [1, 2, 3, 4])
    x = torch.rand(1, 1, 8, 8, 8)
    assert CHANGES["dct_bands"].apply(x, torch.ones(1, 1, 4)).mean() == pytest.approx(float(x.mean()), abs=1e-5)


def test_each_band_of_each_block_gets_its_own_factor() -> None:
    x = drawn(1, 1, 16, 8, 24, seed=0)
    logs = torch.tensor([0.5, -0.3, 0.2, -1.0])
    changed = CHANGES["dct_bands"].apply(x, logs[None, None])[0, 0]
    factors = torch.cat([torch.zeros(1), logs]).exp()[radial_bands((8, 8, 8))].numpy()
    for h, d in product((0, 8), (0, 8, 16)):
        block = np.s_[h : h + 8, :, d : d + 8]
        expected = idctn(dctn(x[0, 0][block].numpy(), norm="ortho") * factors, norm="ortho")
        np.testing.assert_allclose(changed[block].numpy(), expected, atol=1e-5)


MOVES = torch.tensor([[0.3, -1.7, 2.0], [2.5, 0.5, -0.25]])


def test_a_fourier_shift_is_scipys() -> None:
    x = drawn(2, 1, 7, 9, 5, seed=0)
    moved = CHANGES["fourier_shift"].apply(x, MOVES)
    for one, by, ours in zip(x[:, 0].double().numpy(), MOVES.tolist(), moved[:, 0], strict=True):
        assert torch.allclose(ours.double(), torch.from_numpy(ifftn(fourier_shift(fftn(one), by)).real), atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 6, 4), (7, 6, 2), (98, 1, 94)])
def test_shift_by_whole_voxels_is_roll_without_nyquist_frequency(shape: tuple[int, ...]) -> None:
    x = drawn(1, 1, *shape, seed=0)
    moved = CHANGES["fourier_shift"].apply(x, torch.tensor([[2.0, -3.0, 1.0]]))
    spectrum = torch.fft.fftn(x, dim=(2, 3, 4))
    for axis in (axis for axis in (2, 3, 4) if x.shape[axis] % 2 == 0):  # whose wave has two voxels
        spectrum.index_fill_(axis, torch.tensor(x.shape[axis] // 2), 0)
    expected = torch.fft.ifftn(spectrum, dim=(2, 3, 4)).real.roll((2, -3, 1), dims=(2, 3, 4))
    assert torch.allclose(moved, expected, atol=1e-5)
    assert not torch.allclose(moved, x.roll((2, -3, 1), dims=(2, 3, 4)), atol=0.01)


def test_two_shifts_are_no_third_with_the_nyquist_frequency() -> None:
    """A real volume keeps cos(pi c) of it: half a voxel twice leaves nothing of what one voxel turns round."""
    wave = torch.tensor([1.0, -1.0] * 4)

    def moved(x: Tensor, by: float) -> Tensor:
        return torch.fft.ifft(torch.fft.fft(x) * torch.exp(-2j * math.pi * by * torch.fft.fftfreq(8))).real

    assert (moved(moved(wave, 0.5), 0.5) - moved(wave, 1.0)).abs().max() > 0.9
    assert CHANGES["fourier_shift"].apply(wave.reshape(1, 1, 8, 1, 1), torch.zeros(1, 3)).abs().max() < 1e-6


def test_padding_with_zeros_breaks_sum_unless_margin_is_empty() -> None:
    """Shifts are circular: voxels that leave one side come back on the other. In an empty margin the two are one."""

    def padded(x: Tensor, by: int) -> Tensor:
        return F.pad(x, (0, 0, 0, 0, by, -by))

    x = torch.rand(1, 1, 8, 8, 8) + 0.1
    by = torch.tensor([[2.0, 0, 0]])
    roll = CHANGES["voxel_shift"].apply
    assert torch.equal(roll(roll(x, by), -by), x)
    assert not torch.equal(padded(padded(x, 2), -2), x)
    x[:, :, [0, 1, -2, -1]] = 0
    assert torch.equal(padded(x, 2), roll(x, by))
    assert torch.equal(padded(padded(x, 2), -2), x)


def test_shifts_with_a_fractional_first_are_no_third() -> None:
    """The ball of `voxel_shift` therefore has whole shifts alone."""
    x = torch.rand(1, 1, 8, 8, 8)
    roll = CHANGES["voxel_shift"].apply
    part = torch.tensor([[0.4, 0.0, 0.0]])
    assert not torch.equal(roll(roll(x, part), part), roll(x, 2 * part))
    for ends in (0.5, -0.5, 1.5, 2.5):  # also where a number lies between two
        assert torch.equal(
            roll(roll(x, part.new_tensor([[1.0, 0, 0]])), part.new_tensor([[ends, 0, 0]])),
            roll(x, part.new_tensor([[1 + ends, 0, 0]])),
        )


@every_kind
def test_a_draw_is_one_change_with_normal_parameters_and_a_clamp(kind: str) -> None:
    x = torch.rand(1, 1, 8, 8, 8)
    noise = 0.5 * drawn(*CHANGES[kind].layout(x.shape[1:]), seed=7)
    assert torch.equal(draws_of(x, kind, 0.5)(7), CHANGES[kind].apply(x, noise[None]).clamp(0, 1))
