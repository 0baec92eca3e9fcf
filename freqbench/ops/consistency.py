"""Measures the distance of two logit maps in the frequency domain."""

from typing import Literal

from torch import Tensor

from freqbench.ops.blocks import cut_block
from freqbench.ops.dct import BlockDCT

Form = Literal["released", "paper"]


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
