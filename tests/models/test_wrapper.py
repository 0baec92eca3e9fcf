"""The wrapper: padding inside the gradient, and arithmetic that stays where it belongs."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqbench.core.errors import UserError
from freqbench.models import SegmentationModel

ROI = (32, 32, 16)


def test_a_small_window_is_padded_and_cropped_inside_the_gradient(tiny_unet: nn.Module) -> None:
    images = torch.rand(2, 1, 29, 32, 10, requires_grad=True)
    padded = F.pad(images.detach(), (3, 3, 0, 0, 1, 2)).requires_grad_()
    found, expected = SegmentationModel(tiny_unet, ROI)(images), tiny_unet(padded)[:, :, 1:30, :, 3:13]
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    found[:, 1].sum().backward()
    expected[:, 1].sum().backward()
    torch.testing.assert_close(images.grad, padded.grad[:, :, 1:30, :, 3:13], rtol=0, atol=0)


def test_window_larger_than_the_roi_is_refused(tiny_unet: nn.Module) -> None:
    with pytest.raises(UserError, match=r"expected a window of at most \(32, 32, 16\) voxels, got \(33, 32, 16\)"):
        SegmentationModel(tiny_unet, ROI)(torch.rand(1, 1, 33, 32, 16))


def test_bf16_computes_in_bfloat16_and_returns_float32() -> None:
    net = nn.Conv3d(1, 2, 1, bias=False)
    nn.init.constant_(net.weight, 1.0)
    third = torch.full((1, 1, 2, 2, 2), 1 / 3)
    logits = SegmentationModel(net, (2, 2, 2), precision="bf16")(third)
    assert logits.dtype == torch.float32
    assert logits[0, 0, 0, 0, 0] == torch.tensor(1 / 3).bfloat16().float()


def flags() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


class Witness(torch.autograd.Function):
    """Identity that writes down whether TF32 is allowed as it runs forward and backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, seen: list[tuple[bool, bool]]) -> Tensor:
        ctx.seen = seen
        seen.append(flags())
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        ctx.seen.append(flags())
        return grads[0], None


class WitnessNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[bool, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = Witness.apply(x, self.seen)
        return result


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", False), ("tf32", True), ("bf16", False)])
@pytest.mark.parametrize("size", [2, 4])
def test_tf32_is_allowed_inside_the_network_only_and_only_on_request(precision: str, allowed: bool, size: int) -> None:
    net, around = WitnessNet(), list[tuple[bool, bool]]()
    model = SegmentationModel(net, (4, 4, 4), precision=precision)
    images = torch.rand(1, 1, size, size, size, requires_grad=True)
    before = Witness.apply(images, around)
    Witness.apply(model(before), around).sum().backward()
    assert net.seen == [(allowed, allowed)] * 2
    assert around == [(False, False)] * 4
    assert flags() == (False, False)


def test_no_hook_stays_on_the_callers_tensor() -> None:
    images = torch.rand(1, 1, 4, 4, 4, requires_grad=True)
    SegmentationModel(WitnessNet(), (4, 4, 4), precision="tf32")(images)
    assert not images._backward_hooks
