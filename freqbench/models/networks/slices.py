"""Runs a 2D network over the slices of a volume: plain 2D, or 2.5D with neighbouring slices as channels.
Stacks of slices whose middle one is predicted: Han, *Automatic Liver Lesion Segmentation Using a Deep Convolutional
Neural Network Method*, 2017, arXiv:1704.07239."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from freqbench.models.networks.architectures import plane_axes
from freqbench.models.networks.construction import construct

SLICES = 16  # slices of a window of a 2D network that predicts each by itself: any number gives the same


class Sliced(nn.Module):
    """Maps `[B, C, h, w, d]` to logits `[B, K, h, w, d]`, each slice by a 2D network, whose keys the state dict has.

    Args:
        net: maps `[B, slices * C, h, w]` to `[B, K, h, w]`.
        axis, slices: those of SliceNetwork.
        chunk: slices that pass at once, as there; None: all.
    """

    def __init__(self, net: nn.Module, axis: int, slices: int = 1, chunk: int | None = None) -> None:
        super().__init__()
        self.net = net
        self.axis = axis
        self.slices = slices
        self.chunk = chunk
        self.register_state_dict_post_hook(_leave_prefix_out)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_put_prefix_back)  # type: ignore[no-untyped-call]

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits `[B, K, h, w, d]` of images `[B, C, h, w, d]`."""
        lined = images.movedim(2 + self.axis, 1)  # [B, n, C, h, w]
        batch, length = lined.shape[:2]
        reach = self.slices // 2
        padded = torch.cat([lined[:, :1]] * reach + [lined] + [lined[:, -1:]] * reach, dim=1)
        stacks = torch.stack([padded[:, start : start + length] for start in range(self.slices)], dim=2)
        parts = torch.split(stacks.flatten(2, 3).flatten(0, 1), self.chunk or batch * length)
        recomputed = torch.is_grad_enabled() and len(parts) > 1
        logits = torch.cat(
            [checkpoint(self.net, part, use_reentrant=False) if recomputed else self.net(part) for part in parts]
        )
        return logits.reshape(batch, length, *logits.shape[1:]).movedim(1, 2 + self.axis)


class SliceNetwork(Sliced):
    """Maps `[B, in_channels, *img_size]` to logits `[B, out_channels, *img_size]`, each slice by a 2D network.

    The 2D network has `slices * in_channels` input channels: the slice itself in the middle, its neighbours in their
    order along the axis, each with all its channels. Beyond the edge of the window, the edge slice is repeated. The
    state dict has the keys of the 2D network.

    A job file gives the arguments of the 2D network's class beside these:

        arch: slices
        args: {network: unet, slices: 5, axis: 2, channels: [32, 64, 128], strides: [2, 2]}

    Args:
        img_size: voxels of a window in the network's own axis order.
        network: architecture of the 2D network.
        slices: slices in a stack, odd; 1 is a plain 2D network.
        axis: axis of the network's input along which the slices are stacked, 0, 1 or 2: 2 for axial slices if the input
            has the axes HWD.
        chunk: slices that pass through the 2D network at once. If gradients are needed, the activations of one chunk
            are held, and those of the others are computed again in the backward pass.
        args: arguments of the 2D network's class.

    Batch norm in training mode takes its statistics from a chunk, and counts a chunk twice if it is computed again.

    Raises ValueError for an even number of slices, more slices than reach from edge to edge of the window, an unknown
    axis, or numbers below 1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        img_size: Sequence[int],
        network: str,
        slices: int,
        axis: int,
        chunk: int = 16,
        **args: Any,
    ) -> None:
        for name, number in {"slices": slices, "chunk": chunk}.items():
            if type(number) is not int or number < 1:
                raise ValueError(f"expected {name} of a positive integer, got {number!r}")
        if slices % 2 == 0:
            raise ValueError(f"expected an odd number of slices, the middle one being predicted, got {slices}")
        plane = [img_size[side] for side in plane_axes(axis)]
        if slices > (most := 2 * img_size[axis] - 1):
            raise ValueError(f"expected at most {most} slices in a window of {img_size[axis]}, got {slices}")
        super().__init__(construct(network, slices * in_channels, out_channels, plane, args), axis, slices, chunk)


def _leave_prefix_out(module: nn.Module, weights: dict[str, Tensor], prefix: str, metadata: dict[str, Any]) -> None:
    """Names the weights as the 2D network does."""
    for key in [key for key in weights if key.startswith(f"{prefix}net.")]:
        weights[prefix + key.removeprefix(f"{prefix}net.")] = weights.pop(key)


def _put_prefix_back(module: nn.Module, weights: dict[str, Tensor], prefix: str, *rest: Any) -> None:
    """Names the 2D network's weights as the module that holds the network does."""
    for key in [key for key in weights if key.startswith(prefix)]:
        weights[f"{prefix}net.{key.removeprefix(prefix)}"] = weights.pop(key)
