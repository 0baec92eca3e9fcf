"""A detector of a package: it asks how much neighbouring voxels differ."""

from typing import Literal

import torch
from torch import Tensor

from freqbench.models.defences.detectors import AskedNetwork, Detector


class Roughness(Detector):
    """The logarithm of the mean absolute difference of neighbouring voxels along each axis."""

    name: Literal["roughness"] = "roughness"

    def features(self, volume: Tensor, logits: Tensor, network: AskedNetwork) -> Tensor:
        """Returns one number an axis."""
        return torch.stack([volume.diff(dim=axis).abs().mean().log() for axis in (2, 3, 4)])
