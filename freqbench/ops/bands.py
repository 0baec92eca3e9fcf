"""Splits the frequencies of a block into low, middle and high, and measures a perturbation's spread over them."""

import math

import torch
from torch import Tensor

from freqbench.core import names
from freqbench.ops.blocks import Block, cut_block, split
from freqbench.ops.dct import BlockDCT

BANDS = names.KNOWN["bands"]


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
    """Returns the mean absolute DCT coefficient of a perturbation `[B, C, H, W, D]` in each of BANDS, `[B, 3]`.

    The mean is over all coefficients of a band in all blocks (one side or three, cut to the volume), so that a wide
    band does not count for more; NaN for a band without a coefficient, which needs blocks of fewer than three voxels. A
    volume that blocks do not tile is padded by reflection.
    """
    block = cut_block(block, perturbation.shape[2:])
    spectrum = BlockDCT.of(perturbation, block).spectrum(perturbation)
    magnitude = split(spectrum, block).abs().mean(dim=(1, 2))  # [B, h, w, d]
    masks = torch.stack([band_mask(band, block) for band in BANDS]).to(magnitude)
    return torch.einsum("bhwd,mhwd->bm", magnitude, masks) / masks.sum(dim=(1, 2, 3))
