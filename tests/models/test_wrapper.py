"""The wrapper between a volume and a network: closed forms, gradients, whole predictions, refusals."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from freqbench.core.errors import UserError
from freqbench.models import InputAdapter, ModelEntry, SegmentationModel, resolve

SHAPE = (6, 4, 2)


def volume(channels: int = 2, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.rand(2, channels, *shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, lambda x: x),
        ({"scale": (-175, 250)}, lambda x: -175 + 425 * x),
        ({"scale": (1, 0)}, lambda x: 1 - x),
        ({"mean": 0.5}, lambda x: x - 0.5),
        ({"std": 4}, lambda x: x / 4),
        (
            {"scale": (0, 255), "mean": (10, 20), "std": (2, 5)},
            lambda x: torch.stack([(255 * x[:, 0] - 10) / 2, (255 * x[:, 1] - 20) / 5], dim=1),
        ),
        ({"axes": "DHW"}, lambda x: torch.einsum("bchwd->bcdhw", x)),
        ({"axes": "WDH"}, lambda x: torch.einsum("bchwd->bcwdh", x)),
        ({"axes": "H-WD"}, lambda x: x[:, :, :, [3, 2, 1, 0]]),
        ({"axes": "-D-WH"}, lambda x: torch.einsum("bchwd->bcdwh", x[:, :, :, [3, 2, 1, 0]][..., [1, 0]])),
    ],
)
def test_the_network_is_given_what_the_formula_says(given: dict[str, Any], expected: Any) -> None:
    torch.testing.assert_close(InputAdapter(**given).to_network(volume()), expected(volume()), rtol=1e-14, atol=1e-12)


def test_a_network_that_wants_the_volume_sees_it_to_the_bit() -> None:
    images = volume()
    assert InputAdapter().to_network(images).data_ptr() == images.data_ptr()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"axes": "HWH"}, "expected each of H, W and D once"),
        ({"axes": "HW"}, "expected each of H, W and D once"),
        ({"axes": "HW--D"}, "a minus before what is turned round, got 'HW--D'"),
        ({"axes": "HWD-"}, "a minus before what is turned round, got 'HWD-'"),
        ({"std": 0}, "greater than 0"),
        ({"mean": float("nan")}, "finite number"),
        ({"scale": (1, 1)}, "expected two different numbers, got 1 twice"),
        ({"scal": (0, 1)}, "Extra inputs"),
    ],
)
def test_an_adapter_that_cannot_be_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        InputAdapter(**given)


def model_id(**given: Any) -> str:
    args = {"channels": [4, 8], "strides": [2]}
    entry = ModelEntry(name="m", arch="unet", checkpoint="random", args=args, roi=(8, 8, 8), **given)
    return resolve(entry, num_classes=3, num_channels=2).model_id


def test_each_number_of_an_adapter_is_another_model() -> None:
    changes = {"scale": (0, 2)}, {"axes": "DHW"}, {"axes": "D-WH"}, {"mean": 0.1}, {"mean": (0.1, 0.2)}, {"std": 2}
    ids = [model_id(), *(model_id(input=given) for given in changes)]
    assert (len(set(ids)), model_id(input={})) == (len(ids), ids[0])


@pytest.mark.parametrize("what", ["mean", "std"])
def test_numbers_a_channel_are_as_many_as_channels(what: str) -> None:
    with pytest.raises(UserError, match=rf"m: input.{what}: expected one number or 2 \(one a channel\), got 3"):
        model_id(input={what: (1, 2, 3)})


# Padding inside the gradient, and arithmetic that stays where it belongs
WINDOW = (32, 32, 16)


def test_small_window_is_padded_and_cropped_inside_gradient(tiny_unet: nn.Module) -> None:
    images = torch.rand(2, 1, 29, 32, 10, requires_grad=True)
    padded = F.pad(images.detach(), (3, 3, 0, 0, 1, 2)).requires_grad_()
    logits = SegmentationModel(tiny_unet, WINDOW)(images)
    expected = tiny_unet(padded)[:, :, 1:30, :, 3:13]
    torch.testing.assert_close(logits, expected, rtol=0, atol=0)
    logits[:, 1].sum().backward()
    expected[:, 1].sum().backward()
    torch.testing.assert_close(images.grad, padded.grad[:, :, 1:30, :, 3:13], rtol=0, atol=0)


def test_window_larger_than_the_roi_is_refused(tiny_unet: nn.Module) -> None:
    with pytest.raises(UserError, match=r"expected a window of at most \(32, 32, 16\) voxels, got \(33, 32, 16\)"):
        SegmentationModel(tiny_unet, WINDOW)(torch.rand(1, 1, 33, 32, 16))


def test_bf16_computes_in_bfloat16_and_returns_float32() -> None:
    net = nn.Conv3d(1, 2, 1, bias=False)
    nn.init.constant_(net.weight, 1.0)
    logits = SegmentationModel(net, (2, 2, 2), precision="bf16")(torch.full((1, 1, 2, 2, 2), 1 / 3))
    assert (logits.dtype, logits[0, 0, 0, 0, 0]) == (torch.float32, torch.tensor(1 / 3).bfloat16().float())


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
def test_tf32_is_allowed_inside_network_only_and_only_on_request(precision: str, allowed: bool, size: int) -> None:
    net = WitnessNet()
    around = list[tuple[bool, bool]]()
    model = SegmentationModel(net, (4, 4, 4), precision=precision)
    before = Witness.apply(torch.rand(1, 1, size, size, size, requires_grad=True), around)
    Witness.apply(model(before), around).sum().backward()
    assert (net.seen, around) == ([(allowed, allowed)] * 2, [(False, False)] * 4)
    assert flags() == (False, False)


def test_no_hook_stays_on_the_callers_tensor() -> None:
    images = torch.rand(1, 1, 4, 4, 4, requires_grad=True)
    SegmentationModel(WitnessNet(), (4, 4, 4), precision="tf32")(images)
    assert not images._backward_hooks
