"""A Gaussian blur, the oldest smoother; as a defence e.g. in Xu, Evans, Qi, NDSS 2018, arXiv:1704.01155, section 3."""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from freqbench.models.defences.base import Defence
from freqbench.ops.blocks import along_axes

TRUNCATE = 4.0  # in sigmas, as scipy has it


class GaussianSmoothing(Defence):
    r"""Convolution with a Gaussian of `sigma` voxels, axis by axis, each channel by itself.

    The weights :math:`\exp(-j^2 / 2 \sigma^2)` reach to 4 sigma and sum to 1; beyond the window its outermost voxels
    go on (`scipy.ndimage.gaussian_filter(mode="nearest")`). It is linear, so autograd's gradient is the true one, and
    there is no other attacker.

    Attributes:
        sigma: standard deviation in voxels.
    """

    is_smooth: ClassVar[bool] = True

    name: Literal["gaussian_smoothing"] = "gaussian_smoothing"
    sigma: Annotated[float, Field(gt=0, le=16)]

    def filtered(self, images: Tensor) -> Tensor:
        """The blurred windows."""
        return along_axes(images, [_matrix(size, self.sigma).to(images) for size in images.shape[2:]])


def _matrix(size: int, sigma: float) -> Tensor:
    """The blur of `size` points, float64 `[size, size]`, each row of sum 1."""
    reach = int(TRUNCATE * sigma + 0.5)
    offsets = torch.arange(-reach, reach + 1)
    weights = torch.exp(-offsets.double().square() / (2 * sigma**2))
    places = (torch.arange(size)[:, None] + offsets).clamp(0, size - 1)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    return matrix.scatter_add_(1, places, (weights / weights.sum()).expand(size, -1))
