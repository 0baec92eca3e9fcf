"""Volumes as a lesser scanner would have them: blurred, unevenly lit, of coarser voxels."""

import torch
from torch import Tensor

from freqbench.ops.blocks import along_axes
from freqbench.ops.resampling import area_matrix, linear_matrix


def blurred(volume: Tensor, sigma: float) -> Tensor:
    """Volumes under a Gaussian of this standard deviation in voxels, up to 4 of them; borders go on as they end.

    That is `scipy.ndimage.gaussian_filter(mode="nearest")`. MONAI's `GaussianSmooth` takes what lies beyond the border
    for 0 and so darkens it; what it is made of does not.

    Args:
        volume: `[B, C, H, W, D]`.
        sigma: above 0.
    """
    from monai.networks.layers import gaussian_1d, separable_filtering

    kernel = gaussian_1d(torch.tensor(sigma, device=volume.device), approx="sampled", normalize=True)
    smooth: Tensor = separable_filtering(volume, [kernel] * 3, mode="replicate")
    return smooth


def unevenly_lit(volume: Tensor, size: float, seed: int) -> Tensor:
    r"""A volume times a smooth field, as the coils of an MR scanner leave it; the same field on all channels.

    .. math:: x' = x \exp \sum_{i + j + k \le 3} c_{ijk} P_i P_j P_k, \qquad c \sim U(-size, size)

    with Legendre's polynomials P over [-1, 1] on each axis: MONAI's `RandBiasField`, after Van Leemput et al., IEEE
    Transactions on Medical Imaging 18 (1999).

    Args:
        volume: `[C, H, W, D]`.
        size: bound of the coefficients.
        seed: of the coefficients, which are the same but for their size whatever that is.
    """
    from monai.transforms import RandBiasField

    transform = RandBiasField(degree=3, coeff_range=(-size, size), prob=1.0, dtype=None)
    lit: Tensor = transform.set_random_state(seed)(volume).as_tensor()
    return lit


def coarser(volume: Tensor, factor: float) -> Tensor:
    """Volumes as voxels so many times as large would have them, on the grid they had.

    Each axis is cut into round(n / factor) equal parts whose means are taken, of an even n and a factor of 2 those of
    pairs; between the parts' middles the way back is linear, beyond the outermost flat.

    Args:
        volume: `[B, C, H, W, D]`.
        factor: 1 or more.
    """
    parts = [(side, max(1, round(side / factor))) for side in volume.shape[2:]]
    return along_axes(volume, [(linear_matrix(few, side) @ area_matrix(side, few)).to(volume) for side, few in parts])
