"""The model that attacks and inference see: a network with its window size, padding and arithmetic."""

from collections.abc import Sequence
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqbench.core.errors import UserError, unknown
from freqbench.core.types import Shape
from freqbench.models.adapter import DEFAULT_INPUT, InputAdapter
from freqbench.models.defences.randomized_smoothing import RandomizedSmoothing
from freqbench.models.settings import AXES, DEFAULT_INFERENCE, Inference

PRECISIONS = ("fp32", "tf32", "bf16")


class SegmentationModel(nn.Module):
    """`[B, C, h, w, d]` in [0, 1] to logits `[B, K, h, w, d]`, for windows up to the ROI.

    What the network wants of its input beside that (axis order, intensities) is done here, inside the gradient. An axis
    shorter than the ROI is padded with zeros, the lowest intensity there is, on both sides (the smaller half first, as
    MONAI's sliding window does) and the logits are cropped again; both are part of the gradient.

    Precision: `fp32` computes convolutions and matrix products in full float32 (torch by itself lets cuDNN use TF32);
    `tf32` allows TF32 inside the network, forward and backward, not in the attack around it; `bf16` runs the network
    under autocast and returns float32. Logits have the input's dtype otherwise, so a network in float64 serves float64
    input. The switches for TF32 belong to the process: making or running a model leaves them off.

    Args:
        net: the bare network.
        roi: the window it was built for, in voxels of the volume's axes.
        precision: one of PRECISIONS.
        compile: run the network through `torch.compile`.
        adapter: how the network wants its input.
        inference: how `predict` and SlidingWindowModel run it over whole volumes; `forward` has no part in it.

    Raises:
        UserError: no such precision.
    """

    def __init__(
        self,
        net: nn.Module,
        roi: Shape,
        precision: str = "fp32",
        compile: bool = False,
        adapter: InputAdapter = DEFAULT_INPUT,
        inference: Inference = DEFAULT_INFERENCE,
    ) -> None:
        super().__init__()
        if precision not in PRECISIONS:
            raise UserError(unknown("precision", precision, PRECISIONS))
        self.net = net
        self.roi = roi
        self.precision = precision
        self.adapter = adapter
        self.inference = inference
        _allow_tf32(False)
        if compile:
            net.compile()

    @property
    def takes_keys(self) -> bool:
        """Whether `forward` draws, so that callers give it `keys`, one a sample, new ones for new draws."""
        return False

    @property
    def passes(self) -> int:
        """Passes of the network in one `forward`."""
        return 1

    @property
    def smoothing(self) -> RandomizedSmoothing | None:
        """What votes in place of a single prediction of a volume; None: nothing does."""
        return None

    def forward(self, images: Tensor, keys: Sequence[int] | None = None) -> Tensor:
        """Logits of a batch of windows.

        Args:
            images: `[B, C, h, w, d]`, no axis longer than the ROI.
            keys: what the draws of each window hang on; without a random defence there are none.

        Raises:
            UserError: an axis is longer than the ROI.
        """
        h, w, d = self.inside(images.shape[2:])
        return self._run(self._padded(images))[:, :, h, w, d]

    def scores(self, images: Tensor, mirror: str = "", keys: Sequence[int] | None = None) -> Tensor:
        r"""What is averaged where windows overlap: logits, or probabilities where `inference.average` says so.

        With R_a the mirroring over a set a of axes and f the network, the mean over all 2^n sets of the n given axes:

        .. math:: 2^{-n} \sum_a R_a \, h(f(R_a x)), \qquad h = \mathrm{id} \text{ or softmax over classes}

        A window shorter than the ROI is mirrored with its padding around it.

        Args:
            images: `[B, C, h, w, d]`, no axis longer than the ROI.
            mirror: axes to mirror over, some of `HWD`.
            keys: as for `forward`.

        Returns:
            `[B, K, h, w, d]`.

        Raises:
            UserError: an axis is longer than the ROI.
        """
        h, w, d = self.inside(images.shape[2:])
        padded = self._padded(images)
        share = 0.5 ** len(mirror)
        mean = self.averaged(self._run(padded)) * share if mirror else self.averaged(self._run(padded))
        for count in range(1, len(mirror) + 1):
            for axes in combinations([2 + AXES.index(axis) for axis in mirror], count):
                mean.add_(self.averaged(self._run(padded.flip(axes))).flip(axes), alpha=share)
        return mean[:, :, h, w, d]

    def averaged(self, logits: Tensor) -> Tensor:
        """What is averaged where windows overlap, of logits: themselves, or their probabilities."""
        return logits.softmax(dim=1) if self.inference.average == "probabilities" else logits

    def inside(self, size: Sequence[int]) -> tuple[slice, slice, slice]:
        """Where a window of such a size lies in the ROI.

        Raises:
            UserError: an axis is longer than the ROI.
        """
        if any(given > full for full, given in zip(self.roi, size, strict=True)):
            raise UserError(f"expected a window of at most {self.roi} voxels, got {tuple(size)}: tile the volume first")
        low = [(full - given) // 2 for full, given in zip(self.roi, size, strict=True)]
        h, w, d = (slice(start, start + length) for start, length in zip(low, size, strict=True))
        return h, w, d

    def _padded(self, images: Tensor) -> Tensor:
        """Zeros around a window that is shorter than the ROI."""
        if images.shape[2:] == self.roi:
            # A view, so that hooks never land on the caller's tensor.
            return images.view_as(images)
        axes = zip(self.inside(images.shape[2:]), self.roi, strict=True)
        # `F.pad` wants the last axis first, its low side before its high side.
        widths = [[axis.start, full - axis.stop] for axis, full in axes][::-1]
        return F.pad(images, [width for pair in widths for width in pair])

    def _run(self, images: Tensor) -> Tensor:
        half, allowed = self.precision == "bf16", self.precision == "tf32"
        _allow_tf32(allowed)
        try:
            with torch.autocast(images.device.type, torch.bfloat16, enabled=half):
                logits = self.adapter.from_network(self.net(self.adapter.to_network(images)))
        finally:
            _allow_tf32(False)
        if allowed and logits.requires_grad:
            # The backward pass enters the network at its logits and leaves it at its input.
            logits.register_hook(lambda _: _allow_tf32(True))  # type: ignore[no-untyped-call]
            if images.requires_grad:
                images.register_hook(lambda _: _allow_tf32(False))  # type: ignore[no-untyped-call]
        return logits.float() if half else logits


def _allow_tf32(allowed: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed
