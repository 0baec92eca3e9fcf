"""Several models as one: the mean of their probabilities."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from freqbench.models.wrapper import SegmentationModel


class MeanOfProbabilities(nn.Module):
    r"""`[B, C, h, w, d]` to log-probabilities `[B, K, h, w, d]`.

    .. math:: z(x) = \log \frac{1}{M} \sum_m \mathrm{softmax}(f_m(x))

    Attacks on an ensemble transfer better to models outside it than attacks on any member (Liu et al., ICLR 2017,
    arXiv:1611.02770). The logarithm is taken of sums of log-probabilities, so that gradients stay where all members are
    sure.

    Args:
        members: with the same window.
    """

    def __init__(self, members: Sequence[SegmentationModel]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        """The mean of what the members say."""
        parts = torch.stack([member(images).log_softmax(dim=1) for member in self.members])
        mean: Tensor = parts.logsumexp(dim=0) - math.log(len(self.members))
        return mean
