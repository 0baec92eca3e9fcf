"""Computes the convolutions of a single small volume on a CPU as fast as those of several."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

PLAIN_LOOPS = 20_480  # batch x channels x height x width up to which PyTorch leaves a single volume to plain loops


def fast_convolutions(volumes: Tensor) -> AbstractContextManager[Any]:
    """Returns the context for a network's pass over these volumes `[B, C, h, w, d]`: `OneVolume` on a CPU for B = 1."""
    return OneVolume() if len(volumes) == 1 and volumes.device.type == "cpu" else nullcontext()


class OneVolume(TorchFunctionMode):
    """Context in which 3D convolutions of one small float32 volume on a CPU go to oneDNN, as those of a batch do, not
    to PyTorch's plain loops for `PLAIN_LOOPS` values a slice or less (`use_mkldnn` in ATen's Convolution.cpp)."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.conv3d or kwargs or len(args) != 7:  # as nn.Conv3d calls it
            return func(*args, **(kwargs or {}))
        volume, weight, bias, *geometry, groups = args
        is_small = volume.ndim == 5 and len(volume) == 1 and volume.shape[:4].numel() <= PLAIN_LOOPS
        is_left = groups != 1 or weight.shape[2:].numel() == 1 or isinstance(geometry[1], str)
        is_left |= not volume.dtype == weight.dtype == torch.float32 or torch.is_autocast_enabled("cpu")
        one_dnn = torch.backends.mkldnn
        if not is_small or is_left or not (one_dnn.enabled and one_dnn.is_available()):  # type: ignore[no-untyped-call]
            return func(*args)
        return _Convolution.apply(volume, weight, bias, *geometry)  # type: ignore[no-untyped-call]


class _Convolution(torch.autograd.Function):
    """A convolution by oneDNN that keeps what PyTorch's own keeps, so that checkpointing can compute it again."""

    @staticmethod
    def forward(ctx: Any, volume: Tensor, weight: Tensor, bias: Tensor | None, *geometry: Any) -> Tensor:
        """Returns the convolution of a volume `[1, C, h, w, d]` with `weight` and `bias`; `ctx` keeps them."""
        ctx.save_for_backward(volume, weight)
        ctx.bias_sizes = None if bias is None else list(bias.shape)
        ctx.geometry = geometry
        return torch.ops.aten.convolution(volume.to_mkldnn(), weight, bias, *geometry, False, [0, 0, 0], 1).to_dense()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradients of volume, weight and bias, and None for the rest; `ctx` is the forward pass's."""
        volume, weight = ctx.saved_tensors
        [grad] = grads
        if not torch.is_grad_enabled():  # else a gradient of the gradient is wanted, which oneDNN's has none of
            volume = volume.to_mkldnn()
            grad = grad.to_mkldnn()
        rest = (ctx.bias_sizes, *ctx.geometry, False, [0, 0, 0], 1, ctx.needs_input_grad[:3])
        grads = torch.ops.aten.convolution_backward(grad, volume, weight, *rest)
        dense = [each.to_dense() if each is not None and each.is_mkldnn else each for each in grads]
        return *dense, *[None] * len(ctx.geometry)
