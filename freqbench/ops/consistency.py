"""Measures how far two maps of logits lie apart in the frequency domain."""

from typing import Literal

from torch import Tensor

from freqbench.ops.blocks import cut_block, pad_to_blocks
from freqbench.ops.dct import dct, dct_matrices

Form = Literal["released", "paper"]


def frequency_consistency(clean: Tensor, adversarial: Tensor, form: Form, block: int | None) -> Tensor:
    r"""The frequency consistency loss of VAFT (Hanif et al., MICCAI 2023, arXiv:2307.07269).

    With z and z' the logits of clean and attacked volumes and D the orthonormal 3D DCT of every channel:

    .. math:: \text{released: } \frac{\sum |D(z) - D(z')|}{\sum |D(z)|}, \qquad
              \text{paper: } \frac1B \sum_b \lVert D(z_b) - D(z'_b) \rVert_1

    Sums run over the batch, classes and coefficients, so that `released` depends on which volumes are given together.
    Gradients flow through both maps, as in the released code.

    Args:
        clean: `[B, K, H, W, D]`.
        adversarial: of the same shape.
        form: as above.
        block: voxels of a DCT block a side; None: one block over the whole volume, as released. A volume that blocks do
            not tile is continued by reflection.

    Returns:
        A scalar, 0 where the maps are equal.
    """
    sides = cut_block(block or max(clean.shape[2:]), clean.shape[2:])
    matrices = dct_matrices(sides, clean)
    difference = dct(pad_to_blocks(clean - adversarial, sides).contiguous(), matrices).abs().sum()
    if form == "paper":
        return difference / len(clean)
    return difference / dct(pad_to_blocks(clean, sides).contiguous(), matrices).abs().sum()
