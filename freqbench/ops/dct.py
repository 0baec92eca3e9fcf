"""Transforms all blocks of a volume by the orthonormal cosine transform, and compares logits in its domain."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from freqbench.ops.blocks import Block, along_axes, cut_block, pad_to_blocks

Form = Literal["released", "paper"]


def dct_matrix(size: int) -> Tensor:
    r"""Returns the orthonormal DCT-II of `size` points as a matrix, float64 `[size, size]`.

    .. math:: M_{ki} = \sqrt{\frac{2 - \delta_{k0}}{n}} \cos\frac{\pi (2 i + 1) k}{2 n}

    Its transpose is its inverse, the DCT-III (Ahmed, Natarajan, Rao, IEEE Trans. Computers 1974).
    """
    i = torch.arange(size, dtype=torch.float64)
    matrix = torch.cos(math.pi / (2 * size) * torch.outer(i, 2 * i + 1)) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix


@dataclass(frozen=True)
class BlockDCT:
    """The DCT of every block of volumes of one shape, padded by reflection to whole blocks.

    Coefficient (i, j, k) of a block takes the place of its voxel (i, j, k); `freqbench.ops.blocks.split` gives the
    blocked layout. A block of depth 1 gives the two-dimensional transform of every depth slice.
    """

    block: Block
    shape: tuple[int, ...]
    matrices: list[Tensor | None]  # None for a side of 1, whose transform is the identity

    @classmethod
    def of(cls, like: Tensor, block: Block) -> "BlockDCT":
        """Returns the transform for volumes like `[B, C, H, W, D]`, in their dtype and on their device."""
        return cls(block, tuple(like.shape[2:]), [dct_matrix(side).to(like) if side > 1 else None for side in block])

    def spectrum(self, x: Tensor) -> Tensor:
        """Returns the coefficients, over the padded volume."""
        return along_axes(pad_to_blocks(x, self.block), self.matrices)

    def volume(self, spectrum: Tensor) -> Tensor:
        """Returns the volume of a spectrum, without the padding."""
        h, w, d = self.shape
        inverse = [None if matrix is None else matrix.T for matrix in self.matrices]
        return along_axes(spectrum, inverse)[:, :, :h, :w, :d]


def frequency_consistency(clean: Tensor, adversarial: Tensor, form: Form, block: int | None) -> Tensor:
    r"""Returns the frequency consistency loss of VAFT (Hanif et al., MICCAI 2023, arXiv:2307.07269), a scalar.

    With z and z' the logits `[B, K, H, W, D]` of clean and attacked volumes and D the orthonormal 3D DCT of every
    channel:

    .. math:: \text{released: } \frac{\sum |D(z) - D(z')|}{\sum |D(z)|}, \qquad
              \text{paper: } \frac1B \sum_b \lVert D(z_b) - D(z'_b) \rVert_1

    Sums run over the batch, classes and coefficients, so that `released` depends on which volumes are given together.
    Gradients flow through both maps, as in the released code. `block` is the side of a DCT block in voxels; None: one
    block over the whole volume, as released. A volume that blocks do not tile is padded by reflection.
    """
    transform = BlockDCT.of(clean, cut_block(block or max(clean.shape[2:]), clean.shape[2:]))
    difference = transform.spectrum((clean - adversarial).contiguous()).abs().sum()
    if form == "paper":
        return difference / len(clean)
    return difference / transform.spectrum(clean.contiguous()).abs().sum()
