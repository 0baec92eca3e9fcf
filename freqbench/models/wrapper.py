"""The model that attacks and inference see: a network with its window size, padding and arithmetic."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqbench.errors import UserError, unknown
from freqbench.models.adapter import DEFAULT_INPUT, InputAdapter
from freqbench.types import Shape

PRECISIONS = ("fp32", "tf32", "bf16")


class SegmentationModel(nn.Module):
    """`[B, C, h, w, d]` in [0, 1] to logits `[B, K, h, w, d]`, for windows up to the ROI.

    What the network wants of its input beside that (axis order, intensities) is done here, inside the gradient. An axis
    shorter than the ROI is padded with zeros on both sides (the smaller half first, as MONAI's sliding window does) and
    the logits are cropped again; both are part of the gradient.

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
    ) -> None:
        super().__init__()
        if precision not in PRECISIONS:
            raise UserError(unknown("precision", precision, PRECISIONS))
        self.net = net
        self.roi = roi
        self.precision = precision
        self.adapter = adapter
        _allow_tf32(False)
        if compile:
            net.compile()

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch of windows.

        Args:
            images: `[B, C, h, w, d]`, no axis longer than the ROI.

        Raises:
            UserError: an axis is longer than the ROI.
        """
        size = images.shape[2:]
        short = [full - given for full, given in zip(self.roi, size, strict=True)]
        if min(short) < 0:
            raise UserError(f"expected a window of at most {self.roi} voxels, got {tuple(size)}: tile the volume first")
        low = [gap // 2 for gap in short]
        # A view where nothing is padded, so that hooks never land on the caller's tensor.
        padded = F.pad(images, _pad_widths(low, short)) if any(short) else images.view_as(images)
        logits = self._run(padded)
        h, w, d = (slice(start, start + length) for start, length in zip(low, size, strict=True))
        return logits[:, :, h, w, d]

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


def _pad_widths(low: list[int], short: list[int]) -> list[int]:
    """Widths in the order of `F.pad`: the last axis first, low side before high side."""
    return [width for start, gap in zip(low[::-1], short[::-1], strict=True) for width in (start, gap - start)]


def _allow_tf32(allowed: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed
