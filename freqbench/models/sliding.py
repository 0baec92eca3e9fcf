"""A network over whole volumes, as it is deployed: through its sliding window, with a gradient in bounded memory."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from freqbench.models.defences.base import draw_seed
from freqbench.models.inference import Window, sliding_windows, window_weights
from freqbench.models.wrapper import SegmentationModel


class SlidingWindowModel(nn.Module):
    r"""`[B, C, H, W, D]` in [0, 1] to logits `[B, K, H, W, D]`, for volumes of any size: the logits of `predict`.

    With C_w the cutting of window w, f the network, g the weights of a window's voxels (1, or a Gaussian) and n their
    sums over the windows that hold a voxel:

    .. math:: s(x) = \frac{1}{n} \sum_w C_w^T \, g \odot f(C_w x), \qquad n = \sum_w C_w^T g, \qquad
              \frac{dL}{dx} = \sum_w C_w^T J_f(C_w x)^T \, g \odot C_w \frac{1}{n} \frac{dL}{ds}

    Overlap and weights are those of the model's `inference`. Where it averages probabilities, f ends in a softmax over
    classes and the logits are log s(x), whose softmax is s(x) again. Its mirroring is left out: an attack
    runs one pass of every window, not eight, so the loss that it raises is not quite that of a mirrored prediction.

    The gradient of any loss of the stitched logits is exact. The way forward keeps no graph; the way back runs each
    batch of windows forward once more, with its graph, and sends its part of dL/ds through. So of the network's
    activations there are never more than those of one batch of windows, at the price of one more forward pass for
    every backward pass. No gradient reaches the network's parameters.

    A random defence draws anew for every window, by a key of its own; the way back draws what the way forward drew.

    Args:
        model: of one window.
        window_batch: windows a pass; the result does not depend on it, to rounding.

    Attributes:
        num_forwards: windows that went forward so far, those of the way back among them, each as often as the network
            ran on it (`SegmentationModel.passes`).
        num_backwards: windows that went back so far, likewise.
    """

    def __init__(self, model: SegmentationModel, window_batch: int = 1) -> None:
        super().__init__()
        self.model = model
        self.window_batch = window_batch
        self.num_forwards = 0
        self.num_backwards = 0

    @property
    def takes_keys(self) -> bool:
        """As the model of one window."""
        return self.model.takes_keys

    def forward(self, images: Tensor, keys: Sequence[int] | None = None) -> Tensor:
        """Stitched logits, on the device of the images, which is that of the network.

        Args:
            images: `[B, C, H, W, D]`; B times as many windows go through at once.
            keys: what the draws of each volume hang on, where the model `takes_keys`.
        """
        stitched: Tensor = _Stitched.apply(images, self, keys)  # type: ignore[no-untyped-call]
        if self.model.inference.average == "probabilities":
            # What underflows to zero would have neither a logarithm nor a gradient.
            return stitched.clamp(min=torch.finfo(stitched.dtype).tiny).log()
        return stitched

    def windows(self, images: Tensor) -> tuple[Window, ...]:
        """The windows of volumes of such a shape."""
        height, width, depth = images.shape[2:]
        return sliding_windows((height, width, depth), self.model.roi, self.model.inference.overlap)

    def batches(self, images: Tensor) -> Iterator[tuple[Window, ...]]:
        """The windows, so many at once as go through together."""
        windows = self.windows(images)
        for first in range(0, len(windows), self.window_batch):
            yield windows[first : first + self.window_batch]

    def scores(self, crops: Tensor, keys: Sequence[int] | None, windows: Sequence[Window]) -> Tensor:
        """What is averaged where windows overlap, of windows as `_cut` has them: logits, or probabilities."""
        own = None if keys is None else [draw_seed(key, *_corner(window)) for window in windows for key in keys]
        return self.model.averaged(self.model(crops, own))


class _Stitched(torch.autograd.Function):
    """Keeps the volume and the sum of the weights of each voxel."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, sliding: SlidingWindowModel, keys: Sequence[int] | None) -> Tensor:
        total, sums = images.new_zeros(0), torch.zeros_like(images[:1, :1])
        for windows in sliding.batches(images):
            scores = sliding.scores(_cut(images, windows), keys, windows)
            sliding.num_forwards += len(windows) * sliding.model.passes
            if not len(total):
                total = scores.new_zeros(len(images), scores.shape[1], *images.shape[2:])
            weights = window_weights(sliding.model, scores)
            _add(total, scores * weights, windows)
            _add(sums, weights.expand(len(windows), 1, *weights.shape), windows)
        ctx.save_for_backward(images, sums)
        ctx.sliding, ctx.keys = sliding, keys
        return total.div_(sums)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        images, sums = ctx.saved_tensors
        upstream, gradient = upstream / sums, torch.zeros_like(images)
        for windows in ctx.sliding.batches(images):
            crops = _cut(images, windows).requires_grad_()
            with torch.enable_grad():
                scores = ctx.sliding.scores(crops, ctx.keys, windows)
            weights = window_weights(ctx.sliding.model, scores)
            (part,) = torch.autograd.grad(scores, crops, _cut(upstream, windows) * weights)
            ctx.sliding.num_forwards += len(windows) * ctx.sliding.model.passes
            ctx.sliding.num_backwards += len(windows) * ctx.sliding.model.passes
            _add(gradient, part, windows)
        return gradient, None, None


def _cut(volumes: Tensor, windows: tuple[Window, ...]) -> Tensor:
    """All windows of all volumes, window by window."""
    return torch.cat([volumes[:, :, h, w, d] for h, w, d in windows])


def _corner(window: Window) -> list[int]:
    """Where a window begins on each axis."""
    return [axis.start for axis in window]


def _add(total: Tensor, parts: Tensor, windows: tuple[Window, ...]) -> None:
    """What `_cut` took apart, added back where it stood."""
    for (h, w, d), part in zip(windows, parts.chunk(len(windows)), strict=True):
        total[:, :, h, w, d] += part
