"""A random size at a random place.  Xie, Wang, Zhang, Ren, Yuille, ICLR 2018, arXiv:1711.01991."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from freqbench.models.defences.base import Back, Defence, generator
from freqbench.ops.resampling import Zoom


class RandomResizePad(Defence):
    r"""The window resized by a random ratio, the same on all axes, at a random place among zeros.

    With r uniform in [smallest, 1], an offset uniform in what is left of the window, Z = Z(r, offset), f the network:

    .. math:: f_T(x) = Z^{-1} f(Z x)

    Resizing is linear. The logits are cut out where the resized window stood and resized to the window's grid again
    (`freqbench.ops.resampling.Zoom`), so that every voxel gets those of its own place. A prediction is one draw a
    window, as in the paper. Both ways are linear, so autograd's gradient of one draw is right; an adaptive attacker
    follows the mean over `eot` fresh draws at every step (expectation over transformations, Athalye et al., ICML 2018,
    arXiv:1802.00420), while `adaptive: false` follows one draw, the same at every step: the paper's single-pattern
    attack.

    Attributes:
        smallest: the smallest ratio.
        eot: draws whose probabilities an adaptive attacker averages at every pass.

    **Differs from the paper**: windows are made smaller, where the paper enlarges pictures of 299 pixels to 331, as
    networks of volumes are built for one size of windows; volumes have logits to bring back, which classes had not.
    """

    is_random: ClassVar[bool] = True
    is_smooth: ClassVar[bool] = True

    name: Literal["random_resize_pad"] = "random_resize_pad"
    smallest: Annotated[float, Field(gt=0, lt=1)] = 0.85
    eot: Annotated[int, Field(ge=1, le=1000)] = 8

    def seen(self, images: Tensor, seeds: Sequence[int], adaptive: bool) -> tuple[Tensor, Back]:
        """Every window by a draw of its own."""
        zooms = [self._drawn(window[None], seed) for window, seed in zip(images, seeds, strict=True)]
        return _each(Zoom.zoom, zooms, images), partial(_each, Zoom.undo, zooms)

    @property
    def draws(self) -> int:
        """As many as are averaged."""
        return self.eot

    def _drawn(self, window: Tensor, seed: int) -> Zoom | None:
        ratio, *place = torch.rand(4, generator=generator(seed), dtype=torch.float64).tolist()
        return Zoom.of(window, self.smallest + (1 - self.smallest) * ratio, place)


def _each(change: Callable[[Zoom, Tensor], Tensor], zooms: Sequence[Zoom | None], x: Tensor) -> Tensor:
    """Every window or its logits by its own zoom; None leaves it."""
    parts = [part if zoom is None else change(zoom, part) for zoom, part in zip(zooms, x.chunk(len(x)), strict=True)]
    return torch.cat(parts)
