"""A model behind a defence: what an attacker sees of it, and what it predicts."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from freqbench.core.types import Shape
from freqbench.models.defences.base import FIXED, Defence, draw_seed
from freqbench.models.defences.randomized_smoothing import RandomizedSmoothing
from freqbench.models.wrapper import SegmentationModel


class DefendedModel(SegmentationModel):
    r"""A `SegmentationModel` whose windows go through a defence first.

    The defence acts on the window as it is cut from the volume, in [0, 1], before zeros are padded around one that is
    shorter than the ROI and before the network's own intensities and axes: padding is none of the patient's voxels, and
    a filter would smear its edge into them. At the borders of a window a filter sees no neighbours beyond.

    `forward` is what an attacker follows. With T_d the d-th draw of a random defence and f the network:

    .. math:: z(x) = \log \frac1D \sum_{d=1}^{D} \mathrm{softmax}\bigl(f(T_d(x))\bigr)

    is that of an adaptive one, D draws at every pass (`Defence.draws`; all their graphs are held for the way back), so
    that the cross-entropy is that of the mean probability; for D = 1 the logits themselves. With `adaptive=False`, and
    for defences that draw nothing, it is one pass f(T(x)): by plain autograd, of one draw that is the same for every
    window and step.

    `scores` is what predicts: one draw a window, others than an attacker's.

    Args:
        net: the bare network.
        roi: the window it was built for.
        defence: what stands before it.
        adaptive: whether `forward` is for an attacker who knows of the defence.
        settings: as `SegmentationModel` takes them.
    """

    def __init__(self, net: nn.Module, roi: Shape, defence: Defence, adaptive: bool = True, **settings: Any) -> None:
        super().__init__(net, roi, **settings)
        self.defence = defence
        self.adaptive = adaptive

    @property
    def takes_keys(self) -> bool:
        """Where there are draws that an attacker averages."""
        return self.adaptive and self.defence.is_random

    @property
    def passes(self) -> int:
        """The draws that are averaged."""
        return self.defence.draws if self.adaptive else 1

    @property
    def smoothing(self) -> RandomizedSmoothing | None:
        """The defence, where it is one of whole volumes."""
        return self.defence if isinstance(self.defence, RandomizedSmoothing) else None

    def forward(self, images: Tensor, keys: Sequence[int] | None = None) -> Tensor:
        """Logits as an attacker asks for them.

        Args:
            images: `[B, C, h, w, d]`, no axis longer than the ROI.
            keys: what the draws of each window hang on; None: the same fixed one for all.

        Raises:
            UserError: an axis is longer than the ROI.
        """
        keys = [FIXED] * len(images) if keys is None else keys
        draws = [self._once(images, [draw_seed(key, draw) for key in keys]) for draw in range(self.passes)]
        if len(draws) == 1:
            return draws[0]
        return torch.stack([logits.log_softmax(dim=1) for logits in draws]).logsumexp(dim=0) - math.log(len(draws))

    def _once(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        seen, back = self.defence.seen(images, seeds, self.adaptive)
        return back(super().forward(seen))

    def scores(self, images: Tensor, mirror: str = "", keys: Sequence[int] | None = None) -> Tensor:
        """As `SegmentationModel.scores`, of one draw; mirror images of a window share it.

        Randomised smoothing adds no noise here, but to the whole volume (`freqbench.models.predict`).
        """
        if self.smoothing:
            return super().scores(images, mirror)
        keys = [FIXED] * len(images) if keys is None else keys
        seen, back = self.defence.seen(images, [draw_seed(key, 0) for key in keys], self.adaptive)
        return back(super().scores(seen, mirror))
