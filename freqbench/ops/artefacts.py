"""Degrades volumes as scanners do: blur, coarse voxels, a bias field, faults of k-space (MR), few photons (CT).

Everything is computed from the finished image, not from raw data. The second spatial axis (W) is MR's phase-encoding
axis, whose lines are acquired one after the other; CT's slices are the planes of the first two.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from freqbench.ops.blocks import along_axes
from freqbench.ops.resampling import area_matrix, linear_matrix


def blurred(volume: Tensor, sigma: float) -> Tensor:
    """Blurs a `volume` `[B, C, H, W, D]` with a Gaussian of sigma voxels, up to 4 sigma; borders are repeated. Equals
    `scipy.ndimage.gaussian_filter(mode="nearest")`. MONAI's `GaussianSmooth` darkens borders, its parts do not."""
    from monai.networks.layers import gaussian_1d, separable_filtering

    kernel = gaussian_1d(torch.tensor(sigma, device=volume.device), approx="sampled", normalize=True)
    return separable_filtering(volume, [kernel] * 3, mode="replicate")


def unevenly_lit(volume: Tensor, size: float, seed: int) -> Tensor:
    r"""Multiplies a volume `[C, H, W, D]` by a smooth field, as MR coils do; all channels have the same field.

    .. math:: x' = x \exp \sum_{i + j + k \le 3} c_{ijk} P_i P_j P_k, \qquad c \sim U(-size, size)

    with Legendre's polynomials P over [-1, 1] on each axis: MONAI's `RandBiasField`, after Van Leemput et al., IEEE
    Transactions on Medical Imaging 18 (1999). A seed gives the same coefficients up to their size.
    """
    from monai.transforms import RandBiasField

    transform = RandBiasField(degree=3, coeff_range=(-size, size), prob=1.0, dtype=None)
    return transform.set_random_state(seed)(volume).as_tensor()


def coarser(volume: Tensor, factor: float) -> Tensor:
    """Shows a `volume` `[B, C, H, W, D]` with voxels `factor` (1 or more) times as large, on the same grid: means of
    round(n / factor) equal parts of each axis, linear between the parts' middles, constant beyond the outermost."""
    parts = [(side, max(1, round(side / factor))) for side in volume.shape[2:]]
    return along_axes(volume, [(linear_matrix(few, side) @ area_matrix(side, few)).to(volume) for side, few in parts])


def with_motion(volume: Tensor, turns: Tensor, shifts: Tensor, moments: Tensor) -> Tensor:
    r"""Returns a volume `[C, H, W, D]` whose patient moved in the plane of the first two axes while k-space was filled.

    Lines k are acquired from the lowest frequency to the highest. n moments, shares of the acquisition `[n]`, divide
    them into n + 1 segments, each with its own pose: a turn around the third axis in degrees `[n + 1]` and a shift
    along H and W in voxels `[n + 1, 2]`. The lines around k = 0 keep the volume's pose, as the labels do. With T_s the
    rigid motion of segment s:

    .. math:: x' = \Bigl| \mathcal F_W^{-1} \sum_s 1[k \in s] \, \mathcal F_W (T_s x) \Bigr|

    The scheme is that of Shaw et al., "MRI k-space motion artefact augmentation", MIDL 2019. Ours differs: moves are
    sudden and within a plane, as voxels of thick slices are no cubes, and segments mix along one axis.
    """
    width = volume.shape[2]
    line = torch.fft.fftshift(torch.arange(width, device=volume.device))
    order = torch.empty_like(line)
    order[line] = torch.arange(width, device=volume.device)  # rank in the acquisition of each line of the transform
    ends = (moments.sort().values * width).round().to(volume.device)
    segment = torch.bucketize(order.to(ends.dtype), ends, right=True)  # [W]
    rest = int(segment[0])
    lines = torch.fft.fft(volume, dim=2)
    for s in set(segment.tolist()) - {rest}:
        moved = torch.fft.fft(_turn(volume, turns[s], shifts[s]), dim=2)
        lines = torch.where((segment == s)[:, None], moved, lines)
    return torch.fft.ifft(lines, dim=2).abs()


def _turn(volume: Tensor, turn: Tensor, shift: Tensor) -> Tensor:
    """Turns and shifts a volume in every slice, bilinearly; new voxels repeat the border."""
    height, width = volume.shape[1:3]
    angle = math.radians(float(turn))
    cos = math.cos(angle)
    sin = math.sin(angle)
    down = 2 * float(shift[0]) / height
    right = 2 * float(shift[1]) / width
    theta = volume.new_tensor([[cos, -sin * height / width, right], [sin * width / height, cos, down]])
    slices = volume.movedim(3, 1).flatten(0, 1)[None]  # [1, C D, H, W]
    grid = F.affine_grid(theta[None], list(slices.shape), align_corners=False)
    moved = F.grid_sample(slices, grid, padding_mode="border", align_corners=False)
    return moved.reshape(volume.shape[0], volume.shape[3], height, width).movedim(1, 3)


def with_ghosts(volume: Tensor, loss: float, period: int = 4) -> Tensor:
    r"""Weakens every `period`-th k-space line of a `volume` `[B, C, H, W, D]`, which adds shifted copies along W.

    Line k is scaled by 1 - loss (in [0, 1]) if k = period / 2 modulo period. For W a multiple of an even period this is

    .. math:: x'(w) = \Bigl| x(w) - \frac{loss}{period} \sum_{j < period} (-1)^j x(w - j W / period) \Bigr|

    The line k = 0 stays, and with it the mean, up to the sign that the magnitude drops.
    """
    width = volume.shape[3]
    lines = torch.fft.rfft(volume, dim=3)
    weak = torch.arange(lines.shape[3], device=volume.device) % period == period // 2
    return torch.fft.irfft(lines * (1 - loss * weak.to(volume))[:, None], n=width, dim=3).abs()


def with_spikes(volume: Tensor, size: float, frequencies: Tensor, phases: Tensor) -> Tensor:
    r"""Adds outliers to the k-space of a volume `[C, H, W, D]`; each is a plane wave, which stripes the whole volume.

    .. math:: x'(r) = x(r) + size \sum_j \cos(2 \pi \langle f_j, r \rangle + \varphi_j)

    Frequencies f_j are in cycles per voxel along H, W and D, `[n, 3]`, phases in turns, `[n]`.
    """
    axes = [torch.arange(side, dtype=volume.dtype, device=volume.device) for side in volume.shape[1:]]
    striped = volume
    for (a, b, c), phase in zip(frequencies.to(volume), phases.to(volume), strict=True):
        turns = (a * axes[0] + phase)[:, None, None] + (b * axes[1])[:, None] + c * axes[2]
        striped = striped + size * torch.cos(2 * math.pi * turns)
    return striped


def reconstructed_noise(normals: Tensor) -> Tensor:
    r"""Gives white noise, the `normals` `[..., H, W, D]`, the spectrum that back projection gives to detector noise, at
    unit variance.

    A filter |f| A(f) on projections, here with Hann's window A, gives a slice the power spectrum

    .. math:: N(f) \propto |f| \, A(f)^2

    (Riederer, Pelc and Chesler, Physics in Medicine and Biology 23, 1978). Slices are independent, their mean is 0.
    """
    axes = [torch.fft.fftfreq(count, dtype=normals.dtype, device=normals.device) for count in normals.shape[-3:-1]]
    radius = torch.hypot(axes[0][:, None], axes[1])
    hann = 0.5 + 0.5 * torch.cos(2 * math.pi * radius.clamp(max=0.5))
    gain = radius.sqrt() * hann
    gain = gain / gain.square().mean().sqrt().clamp(min=torch.finfo(gain.dtype).tiny)
    plane = (-3, -2)
    return torch.fft.ifft2(torch.fft.fft2(normals, dim=plane) * gain[:, :, None], dim=plane).real
