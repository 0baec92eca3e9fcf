"""The orthonormal cosine transform of all blocks at once, as one small matrix an axis."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from freqbench.ops.blocks import Block, along_axes


def dct_matrix(size: int) -> Tensor:
    r"""The orthonormal DCT-II of `size` points as a matrix, float64 `[size, size]`.

    .. math:: M_{ki} = \sqrt{\frac{2 - \delta_{k0}}{n}} \cos\frac{\pi (2 i + 1) k}{2 n}

    Its transpose is its inverse, the DCT-III (Ahmed, Natarajan, Rao, IEEE Trans. Computers 1974).
    """
    i = torch.arange(size, dtype=torch.float64)
    matrix = torch.cos(math.pi / (2 * size) * torch.outer(i, 2 * i + 1)) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix


def dct_matrices(block: Block, like: Tensor) -> list[Tensor | None]:
    """One matrix an axis, in the dtype and on the device of `like`; None for a side of 1, whose transform is itself.

    A block of depth 1 makes the transform of every depth slice by itself, in two dimensions.
    """
    return [dct_matrix(side).to(like) if side > 1 else None for side in block]


def dct(x: Tensor, matrices: Sequence[Tensor | None]) -> Tensor:
    """The DCT-II of every block; coefficient (i, j, k) of a block stands where its voxel (i, j, k) stood.

    `split` gives the spectrum in blocked layout. Parseval: the sum of squares stays.

    Args:
        x: `[B, C, H, W, D]`, tiled by blocks.
        matrices: from `dct_matrices`.
    """
    return along_axes(x, matrices)


def idct(spectrum: Tensor, matrices: Sequence[Tensor | None]) -> Tensor:
    """The volume whose `dct` is given, with the same matrices."""
    return along_axes(spectrum, [None if matrix is None else matrix.T for matrix in matrices])
