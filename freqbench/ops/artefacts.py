"""Degrades volumes as scanners do: blur, coarse voxels, a bias field, faults of k-space (MR), few photons (CT).

Everything is made of the finished image, not of raw data. The second spatial axis (W) stands for MR's phase-encoding
one, whose lines are acquired one after the other; CT's slices are the planes of the first two.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from freqbench.ops.blocks import along_axes
from freqbench.ops.resampling import area_matrix, linear_matrix


def blurred(volume: Tensor, sigma: float) -> Tensor:
    """Volumes `[B, C, H, W, D]` under a Gaussian of sigma voxels, up to 4 sigma; borders are repeated.

    That is `scipy.ndimage.gaussian_filter(mode="nearest")`; MONAI's `GaussianSmooth` darkens borders, its parts do not.
    """
    from monai.networks.layers import gaussian_1d, separable_filtering

    kernel = gaussian_1d(torch.tensor(sigma, device=volume.device), approx="sampled", normalize=True)
    smooth: Tensor = separable_filtering(volume, [kernel] * 3, mode="replicate")
    return smooth


def unevenly_lit(volume: Tensor, size: float, seed: int) -> Tensor:
    r"""A volume `[C, H, W, D]` times a smooth field, as MR coils leave it; the same field on all channels.

    .. math:: x' = x \exp \sum_{i + j + k \le 3} c_{ijk} P_i P_j P_k, \qquad c \sim U(-size, size)

    with Legendre's polynomials P over [-1, 1] on each axis: MONAI's `RandBiasField`, after Van Leemput et al., IEEE
    Transactions on Medical Imaging 18 (1999). Coefficients of one seed are the same but for their size.
    """
    from monai.transforms import RandBiasField

    transform = RandBiasField(degree=3, coeff_range=(-size, size), prob=1.0, dtype=None)
    lit: Tensor = transform.set_random_state(seed)(volume).as_tensor()
    return lit


def coarser(volume: Tensor, factor: float) -> Tensor:
    """Volumes `[B, C, H, W, D]` as voxels so many times as large (1 or more) would have them, on the grid they had.

    Each axis is cut into round(n / factor) equal parts whose means are taken; between the parts' middles the way back
    is linear, beyond the outermost flat.
    """
    parts = [(side, max(1, round(side / factor))) for side in volume.shape[2:]]
    return along_axes(volume, [(linear_matrix(few, side) @ area_matrix(side, few)).to(volume) for side, few in parts])


def with_motion(volume: Tensor, turns: Tensor, shifts: Tensor, moments: Tensor) -> Tensor:
    r"""A volume `[C, H, W, D]` whose patient moved in the plane of the first two axes while k-space was filled.

    Lines k are acquired from the lowest frequency to the highest. n moments, shares of the acquisition `[n]`, part them
    into n + 1 segments, each with a pose of its own: a turn around the third axis in degrees `[n + 1]` and a shift
    along H and W in voxels `[n + 1, 2]`; that of the lines around k = 0 is the volume's, which its labels belong to.
    With T_s the rigid motion of segment s:

    .. math:: x' = \Bigl| \mathcal F_W^{-1} \sum_s 1[k \in s] \, \mathcal F_W (T_s x) \Bigr|

    The scheme is that of Shaw et al., "MRI k-space motion artefact augmentation", MIDL 2019. Ours: sudden moves within
    a plane, as voxels of thick slices are no cubes; segments mix along one axis.
    """
    width = volume.shape[2]
    line = torch.fft.fftshift(torch.arange(width, device=volume.device))
    order = torch.empty_like(line)
    order[line] = torch.arange(width, device=volume.device)  # when the line at each place of the transform was acquired
    ends = (moments.sort().values * width).round().to(volume.device)
    segment = torch.bucketize(order.to(ends.dtype), ends, right=True)  # [W]
    rest = int(segment[0])
    lines = torch.fft.fft(volume, dim=2)
    for s in set(segment.tolist()) - {rest}:
        moved = torch.fft.fft(_moved(volume, turns[s], shifts[s]), dim=2)
        lines = torch.where((segment == s)[:, None], moved, lines)
    magnitude: Tensor = torch.fft.ifft(lines, dim=2).abs()
    return magnitude


def _moved(volume: Tensor, turn: Tensor, shift: Tensor) -> Tensor:
    """A volume turned and shifted in every slice, bilinearly; what comes in repeats the border."""
    height, width = volume.shape[1:3]
    angle = math.radians(float(turn))
    cos, sin = math.cos(angle), math.sin(angle)
    down, right = 2 * float(shift[0]) / height, 2 * float(shift[1]) / width
    theta = volume.new_tensor([[cos, -sin * height / width, right], [sin * width / height, cos, down]])
    slices = volume.movedim(3, 1).flatten(0, 1)[None]  # [1, C D, H, W]
    grid = F.affine_grid(theta[None], list(slices.shape), align_corners=False)
    moved = F.grid_sample(slices, grid, padding_mode="border", align_corners=False)
    return moved.reshape(volume.shape[0], volume.shape[3], height, width).movedim(1, 3)


def with_ghosts(volume: Tensor, loss: float, period: int = 4) -> Tensor:
    r"""Volumes `[B, C, H, W, D]` whose every `period`-th k-space line is weaker: shifted copies along W.

    With line k scaled by 1 - loss (in [0, 1]) where k = period / 2 modulo period; for W a multiple of an even period
    that is

    .. math:: x'(w) = \Bigl| x(w) - \frac{loss}{period} \sum_{j < period} (-1)^j x(w - j W / period) \Bigr|

    The line k = 0 stays, and so does the mean, up to the sign that the magnitude drops.
    """
    width = volume.shape[3]
    lines = torch.fft.rfft(volume, dim=3)
    weak = torch.arange(lines.shape[3], device=volume.device) % period == period // 2
    magnitude: Tensor = torch.fft.irfft(lines * (1 - loss * weak.to(volume))[:, None], n=width, dim=3).abs()
    return magnitude


def with_spikes(volume: Tensor, size: float, frequencies: Tensor, phases: Tensor) -> Tensor:
    r"""A volume `[C, H, W, D]` with outliers in its k-space, each a plane wave: stripes all over the volume.

    .. math:: x'(r) = x(r) + size \sum_j \cos(2 \pi \langle f_j, r \rangle + \varphi_j)

    Frequencies f_j are in cycles a voxel along H, W and D, `[n, 3]`, phases in turns, `[n]`.
    """
    axes = [torch.arange(side, dtype=volume.dtype, device=volume.device) for side in volume.shape[1:]]
    striped = volume
    for (a, b, c), phase in zip(frequencies.to(volume), phases.to(volume), strict=True):
        turns = (a * axes[0] + phase)[:, None, None] + (b * axes[1])[:, None] + c * axes[2]
        striped = striped + size * torch.cos(2 * math.pi * turns)
    return striped


def reconstructed_noise(normals: Tensor) -> Tensor:
    r"""White noise `[..., H, W, D]` with the spectrum that back projection gives to detectors' noise, of unit variance.

    A filter |f| A(f) on projections, here with Hann's window A, makes the power spectrum of a slice

    .. math:: N(f) \propto |f| \, A(f)^2

    (Riederer, Pelc and Chesler, Physics in Medicine and Biology 23, 1978). Slices are independent, their mean is 0.
    """
    axes = [torch.fft.fftfreq(count, dtype=normals.dtype, device=normals.device) for count in normals.shape[-3:-1]]
    radius = torch.hypot(axes[0][:, None], axes[1])
    hann = 0.5 + 0.5 * torch.cos(2 * math.pi * radius.clamp(max=0.5))
    gain = radius.sqrt() * hann
    gain = gain / gain.square().mean().sqrt().clamp(min=torch.finfo(gain.dtype).tiny)
    plane = (-3, -2)
    noise: Tensor = torch.fft.ifft2(torch.fft.fft2(normals, dim=plane) * gain[:, :, None], dim=plane).real
    return noise
