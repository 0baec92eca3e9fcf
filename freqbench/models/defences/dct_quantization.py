"""JPEG in three dimensions: a DCT of blocks, quantised; after Dziugaite et al., 2016, arXiv:1608.00853."""

from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from freqbench.models.defences.base import Defence
from freqbench.ops.blocks import Block, cut_block, pad_to_blocks
from freqbench.ops.dct import dct, dct_matrices, idct

SCALE = 255.0  # of grey levels, on which the steps of quantisation are given
MIDDLE = 128.0  # that JPEG subtracts before it transforms


class DctQuantization(Defence):
    r"""Coefficients of an orthonormal DCT of blocks rounded to multiples of a table, each channel by itself.

    With u = 255 x - 128 in blocks of b voxels a side, D their DCT and i, j, k the indices of a coefficient:

    .. math:: T(x) = \frac{1}{255} \Bigl(128 + D^{-1} \bigl[ q \, \mathrm{round}(D u / q) \bigr]\Bigr), \qquad
              q_{ijk} = 1 + c \, (1 + i + j + k)

    clamped to [0, 1]. A window that blocks do not tile is continued by reflection and cropped again. The gradient of
    the rounding is zero (`adaptive: false`); an adaptive attacker takes the identity in its place, and as D^{-1} D and
    q / q cancel, that is the identity for T.

    JPEG as a defence: Dziugaite, Ghahramani, Roy, 2016, arXiv:1608.00853; Guo et al., ICLR 2018, arXiv:1711.00117.

    **Differs from JPEG**: three dimensions; in place of the eye's luminance table, which is for squares of 8, one that
    grows with the indices' sum (the textbook's table, Nelson and Gailly, The Data Compression Book, 1995); no colours
    and no coding, which loses nothing.

    Attributes:
        block: voxels a side of a block; cut to the window.
        coarseness: c: 0 rounds to whole numbers on the 0..255 scale; the steps at 2 are 3 to 45 for blocks of 8.
    """

    name: Literal["dct_quantization"] = "dct_quantization"
    block: PositiveInt | tuple[PositiveInt, PositiveInt, PositiveInt] = 8
    coarseness: Annotated[float, Field(ge=0, le=1000)] = 2.0

    def filtered(self, images: Tensor) -> Tensor:
        """The windows that the quantised coefficients stand for."""
        h, w, d = images.shape[2:]
        block = cut_block(self.block, (h, w, d))
        padded = pad_to_blocks(images, block)
        matrices = dct_matrices(block, images)
        steps = (
            self.table(block)
            .to(images)
            .repeat(*(size // side for size, side in zip(padded.shape[2:], block, strict=True)))
        )
        spectrum = dct(SCALE * padded - MIDDLE, matrices)
        quantised = idct((spectrum / steps).round() * steps, matrices)
        return ((quantised + MIDDLE) / SCALE).clamp(0, 1)[:, :, :h, :w, :d]

    def table(self, block: Block) -> Tensor:
        """The steps of a block's coefficients on the 0..255 scale, float64 `[h, w, d]`."""
        i, j, k = (torch.arange(side, dtype=torch.float64) for side in block)
        return 1 + self.coarseness * (1 + i[:, None, None] + j[:, None] + k)
