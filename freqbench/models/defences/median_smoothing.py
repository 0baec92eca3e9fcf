"""The median of a neighbourhood.  Xu, Evans, Qi, NDSS 2018 (feature squeezing), arXiv:1704.01155."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from freqbench.models.defences.base import Defence


class MedianSmoothing(Defence):
    """Every voxel becomes the median of the cube around it, each channel by itself.

    Beyond the window its outermost voxels go on (`scipy.ndimage.median_filter(mode="nearest")`). Autograd sends all of
    a voxel's gradient to the one voxel that is the median (`adaptive: false`), which is right for the smallest steps
    alone, as the next one makes another voxel the median; an adaptive attacker takes the identity in its place.

    Attributes:
        size: voxels a side of the cube.

    **Differs from the paper**: cubes in place of squares, of odd sides, so that they have a middle; the detector that
    compares predictions is left out.
    """

    name: Literal["median_smoothing"] = "median_smoothing"
    size: Literal[3, 5, 7]

    def filtered(self, images: Tensor) -> Tensor:
        """The medians: size^3 numbers a voxel are held meanwhile."""
        padded = F.pad(images, [self.size // 2] * 6, mode="replicate")
        for axis in (2, 3, 4):
            padded = padded.unfold(axis, self.size, 1)
        return padded.flatten(5).median(dim=5).values
