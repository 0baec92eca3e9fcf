"""Fewer grey levels.  Xu, Evans, Qi, NDSS 2018 (feature squeezing), arXiv:1704.01155."""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from freqbench.models.defences.base import Defence


class BitDepth(Defence):
    r"""Every voxel rounded to the nearest of :math:`2^b` levels of [0, 1].

    .. math:: T(x) = \mathrm{round}\bigl((2^b - 1) x\bigr) / (2^b - 1)

    The gradient of T is zero wherever it exists, so that plain autograd (`adaptive: false`) finds nothing to follow;
    an adaptive attacker takes the identity in its place.

    Attributes:
        bits: b; 8 are the levels of a picture, and 1 to 5 what the paper tries.

    **Differs from the paper**: the detector that compares the predictions of x and T(x) is left out.
    """

    name: Literal["bit_depth"] = "bit_depth"
    bits: Annotated[int, Field(ge=1, le=16)]

    def filtered(self, images: Tensor) -> Tensor:
        """The rounded voxels; halves go to the even level."""
        steps = float(2**self.bits - 1)
        return (images * steps).round().div(steps)
