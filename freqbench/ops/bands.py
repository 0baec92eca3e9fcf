"""Parts a block's frequencies into low, middle and high, and measures how a perturbation spreads over them."""

import math

import torch
from torch import Tensor

from freqbench.ops.blocks import Block, cut_block, pad_to_blocks, split
from freqbench.ops.dct import dct, dct_matrices

BANDS = ("low", "middle", "high")


def band_mask(band: str, block: Block) -> Tensor:
    r"""Which coefficients of a block a band holds, bool `[h, w, d]`.

    With indices i, j, k and sides h, w, d: low where i/h + j/w + k/d < 1/2 (the corner at DC, DC included), high the
    mirror image in the opposite corner, middle everything else: nearly all. For cubic blocks of an even side b these
    are the masks of the code released with SA2 (Hanif et al., ISBI 2025): low i+j+k <= b/2 - 1, high >= 5b/2 - 2. A
    depth of 1 gives its masks in two dimensions. A coefficient in both corners, which needs sides of 1, counts as low.

    Args:
        band: `low`, `middle`, `high`, or `all`.
        block: h, w, d.
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
    """The mean absolute DCT coefficient of a perturbation `[B, C, H, W, D]` in the low, middle and high band, `[B, 3]`.

    The mean is over all coefficients of a band in all blocks (a side or three, cut to the volume), so that a band
    counts by how strongly it is filled and not by how wide it is; NaN for a band that holds no coefficient, which needs
    blocks of fewer than three voxels. Where blocks do not tile the volume, its reflection on the high side is counted
    too.
    """
    block = cut_block(block, perturbation.shape[2:])
    spectrum = dct(pad_to_blocks(perturbation, block), dct_matrices(block, perturbation))
    magnitude = split(spectrum, block).abs().mean(dim=(1, 2))  # [B, h, w, d]
    masks = torch.stack([band_mask(band, block) for band in BANDS]).to(magnitude)
    return torch.einsum("bhwd,mhwd->bm", magnitude, masks) / masks.sum(dim=(1, 2, 3))
