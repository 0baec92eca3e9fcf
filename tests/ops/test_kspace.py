"""Motion, ghosts and spikes against what k-space says of them."""

import math

import numpy as np
import pytest
import torch
from monai.transforms import KSpaceSpikeNoise
from scipy import ndimage
from torch import Tensor

from freqbench.ops.kspace import with_ghosts, with_motion, with_spikes

SHAPE = (12, 16, 6)


def volume(channels: int = 2) -> Tensor:
    drawn = torch.rand(channels, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return 0.4 + 0.2 * drawn


def poses(*rows: tuple[float, float, float]) -> tuple[Tensor, Tensor]:
    """Turns and shifts of each segment."""
    drawn = torch.tensor(rows, dtype=torch.float64)
    return drawn[:, 0], drawn[:, 1:]


def test_a_patient_who_does_not_move_is_seen_as_ever() -> None:
    still = with_motion(volume(), *poses(*[(0.0, 0.0, 0.0)] * 3), torch.tensor([0.2, 0.7]))
    assert torch.allclose(still, volume(), atol=1e-12)


def test_the_pose_around_the_middle_of_k_space_is_the_volume_s_own() -> None:
    """Whatever that segment's drawn pose: labels belong to it."""
    moments = torch.tensor([0.9, 0.1])  # in any order
    still, moved = (0.0, 0.0, 0.0), (20.0, 3.0, -4.0)
    assert torch.allclose(with_motion(volume(), *poses(still, moved, still), moments), volume(), atol=1e-12)


@pytest.mark.parametrize(("first", "second"), [((0.0, 1.0, 0.0), (0.0, 0.0, 0.0)), ((0.0, 0.0, 0.0), (0.0, 0.0, -2.0))])
def test_lines_before_and_after_are_those_of_moved_volumes(
    first: tuple[float, float, float], second: tuple[float, float, float]
) -> None:
    """Shifts by whole voxels, the border repeated; lines -8..-5 are acquired before a quarter, 4..7 after three."""
    x = volume().numpy()
    found = with_motion(volume(), *poses(first, (9.0, 9.0, 9.0), second), torch.tensor([0.25, 0.75])).numpy()
    lines = np.fft.fft(x, axis=2)
    number = np.fft.fftfreq(16, 1 / 16).round()
    for place, (_, down, right) in ((number < -4, first), (number >= 4, second)):
        moved = ndimage.shift(x, (0, -down, -right, 0), order=1, mode="nearest")
        lines[:, :, place] = np.fft.fft(moved, axis=2)[:, :, place]
    assert np.allclose(found, np.abs(np.fft.ifft(lines, axis=2)), atol=1e-12)
    assert not np.allclose(found, x, atol=1e-3)


@pytest.mark.parametrize("turn", [90.0, 30.0])
def test_a_turn_is_one_of_voxels_in_the_plane_though_sides_differ(turn: float) -> None:
    """All lines but those in the middle are of the turned volume, here of a blob far from the border."""
    rows, columns = np.mgrid[:24, :32]
    blob = np.exp(-((rows - 9) ** 2 + (columns - 19) ** 2) / 8)[None, :, :, None].repeat(2, 3)
    moments = torch.tensor([15 / 32, 17 / 32])
    found = with_motion(torch.from_numpy(blob), *poses((turn, 0, 0), (0, 0, 0), (turn, 0, 0)), moments).numpy()
    turned = ndimage.rotate(blob, turn, axes=(1, 2), reshape=False, order=1, mode="nearest")
    lines, own = np.fft.fft(turned, axis=2), np.fft.fft(blob, axis=2)
    lines[:, :, [-1, 0]] = own[:, :, [-1, 0]]
    assert np.allclose(found, np.abs(np.fft.ifft(lines, axis=2)), atol=5e-3)


@pytest.mark.parametrize("period", [2, 4, 8])
def test_ghosts_are_copies_a_part_of_the_axis_away(period: int) -> None:
    """The formula of the docstring, where the period divides the axis."""
    x, loss = volume()[None].numpy(), 0.6
    copies = sum((-1) ** j * np.roll(x, j * 16 // period, axis=3) for j in range(period))
    found = with_ghosts(torch.from_numpy(x), loss, period)
    assert np.allclose(found, np.abs(x - loss / period * copies), atol=1e-12)
    assert float(found.mean()) == pytest.approx(float(x.mean()))


def test_ghosts_change_every_fourth_line_alone() -> None:
    x = volume()[None]
    before, after = (np.abs(np.fft.fft(each.numpy(), axis=3)) for each in (x, with_ghosts(x, 0.5)))
    weak = np.isin(np.arange(16), [2, 6, 10, 14])
    assert np.allclose(after[:, :, :, weak], 0.5 * before[:, :, :, weak])
    assert np.allclose(after[:, :, :, ~weak], before[:, :, :, ~weak])


def test_a_spike_is_that_of_monai_where_it_lies_on_the_grid() -> None:
    """MONAI sets one coefficient and takes the real part; its phase is that of the volume."""
    x, place = volume(1), (2, 3, 1)
    spectrum = torch.fft.fftn(x[0])[place]
    loc = tuple(side // 2 + k for side, k in zip(SHAPE, place, strict=True))
    expected = KSpaceSpikeNoise(loc, k_intensity=math.log(0.1 * math.prod(SHAPE) + float(spectrum.abs())))(x)
    frequency = torch.tensor([[k / side for side, k in zip(SHAPE, place, strict=True)]], dtype=torch.float64)
    phase = torch.tensor([float(spectrum.angle()) / (2 * math.pi)], dtype=torch.float64)
    assert np.allclose(with_spikes(x, 0.1, frequency, phase), expected.numpy(), atol=1e-8)


def test_spikes_add_up() -> None:
    frequencies, phases = torch.tensor([[0.1, 0.2, 0.0], [0.0, -0.3, 0.1]]), torch.tensor([0.1, 0.6])
    both = with_spikes(volume(), 0.1, frequencies, phases) - volume()
    each = [with_spikes(volume(), 0.1, frequencies[i : i + 1], phases[i : i + 1]) - volume() for i in range(2)]
    assert torch.allclose(both, each[0] + each[1])
    assert float(both.abs().max()) == pytest.approx(0.2, abs=0.02)
