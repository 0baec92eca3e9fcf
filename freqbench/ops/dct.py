"""Transforms all blocks of a volume by the orthonormal cosine transform: its bands, and logits in its domain."""

import math
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from freqbench.core import names
from freqbench.ops.blocks import Block, along_axes, cut_block, pad_to_blocks, split

BANDS = names.KNOWN["bands"]
Form = Literal["released", "paper"]


@cache
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
    """The DCT of every block (of depth 1: of every slice) of volumes of one shape, padded by reflection to whole
    blocks. Coefficient (i, j, k) stands in place of voxel (i, j, k); `freqbench.ops.blocks.split` gives the blocked
    form."""

    block: Block
    shape: tuple[int, ...]
    matrices: list[Tensor | None]  # None for a side of 1, whose transform is the identity

    @classmethod
    def of(cls, like: Tensor, block: Block) -> "BlockDCT":
        """Returns the transform by a `block` (three sides in voxels) for volumes like `[B, C, H, W, D]`, in their dtype
        and on their device."""
        return cls(block, tuple(like.shape[2:]), [dct_matrix(side).to(like) if side > 1 else None for side in block])

    def spectrum(self, x: Tensor) -> Tensor:
        """Returns the coefficients of volumes `x` `[B, C, H, W, D]`, over the padded volume."""
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


def band_mask(band: str, block: Block) -> Tensor:
    """Marks the coefficients of a block that a band (`low`, `middle`, `high`, `all`) holds, bool `[h, w, d]`.

    With indices i, j, k and sides h, w, d: low is i/h + j/w + k/d < 1/2 (the corner at DC, DC included), high its
    mirror image in the opposite corner, middle everything else, which is nearly all. For cubic blocks of an even side
    these are the masks of the code released with SA2 (Hanif et al., ISBI 2025), with a depth of 1 those in two
    dimensions. A coefficient in both corners, which needs sides of 1, counts as low.
    """
    everything = torch.ones(block, dtype=torch.bool)
    if band == "all":
        return everything
    # Integers, as a sum of thirds in floating point may miss 1/2.
    volume = math.prod(block)
    index = [torch.arange(side) * (volume // side) for side in block]
    distance = index[0][:, None, None] + index[1][:, None] + index[2]
    low = 2 * distance < volume
    high = (2 * distance.flip(0, 1, 2) < volume) & ~low
    return {"low": low, "middle": everything & ~low & ~high, "high": high}[band]


def band_magnitude(perturbation: Tensor, block: int | Block) -> Tensor:
    """Returns the mean absolute DCT coefficient of a perturbation `[B, C, H, W, D]` in each of BANDS, `[B, 3]`, over
    all its coefficients in all blocks (`block`: one side or three, cut to the volume, which is padded by reflection);
    NaN for a band without one, which needs blocks of fewer than three voxels."""
    block = cut_block(block, perturbation.shape[2:])
    spectrum = BlockDCT.of(perturbation, block).spectrum(perturbation)
    magnitude = split(spectrum, block).abs().mean(dim=(1, 2))  # [B, h, w, d]
    masks = torch.stack([band_mask(band, block) for band in BANDS]).to(magnitude)
    return torch.einsum("bhwd,mhwd->bm", magnitude, masks) / masks.sum(dim=(1, 2, 3))
