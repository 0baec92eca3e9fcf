"""Convolutions of one small volume on a CPU: the values of a batch, in networks that compute parts again or not."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from freqbench.models import SegmentationModel
from freqbench.models.one_volume import fast_convolutions

ROI = (16, 16, 16)
Pass = Callable[[Tensor], Tensor]


@pytest.fixture
def net() -> nn.Sequential:
    layers = nn.Conv3d(4, 8, 3, 2, 1), nn.Softplus(), nn.Conv3d(8, 3, 3, 1, 1)
    return nn.Sequential(nn.Conv3d(1, 4, 3, 1, 1, bias=False), nn.Softplus(), *layers)


def gradients(net: nn.Module, of: Pass, images: Tensor) -> list[Tensor]:
    """Gradients of the image and of all weights, logits first."""
    images = images.clone().requires_grad_()
    logits = of(images)
    return [logits, *torch.autograd.grad(logits.square().sum(), [images, *net.parameters()])]


def fast(of: Pass) -> Pass:
    def passed(images: Tensor) -> Tensor:
        with fast_convolutions(images):
            return of(images)

    return passed


def test_volume_alone_has_the_logits_of_a_batch(net: nn.Sequential) -> None:
    model = SegmentationModel(net, ROI)
    images = torch.rand(1, 1, *ROI)
    alone, gradient, *_ = gradients(net, model, images)
    assert torch.equal(alone[0], net(images.repeat(2, 1, 1, 1, 1))[0])
    pair, of_pair, *_ = gradients(net, net, images.repeat(2, 1, 1, 1, 1))
    assert torch.equal(gradient[0], of_pair[0])
    assert not torch.equal(net(images)[0], pair[0]), "PyTorch computes both alike now: fast_convolutions can go"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_of_image_and_weights_are_pytorchs(net: nn.Sequential, dtype: torch.dtype) -> None:
    net = net.to(dtype)
    images = torch.rand(1, 1, *ROI, dtype=dtype)
    net.append(nn.Conv3d(3, 3, 3, padding="same")).append(nn.Conv3d(3, 2, 1)).to(dtype)  # left to PyTorch
    torch.testing.assert_close(gradients(net, fast(net), images), gradients(net, net, images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_network_that_computes_parts_again_keeps_its_gradient(net: nn.Sequential, reentrant: bool) -> None:
    images = torch.rand(1, 1, *ROI)

    def again(images: Tensor) -> Tensor:
        return checkpoint(net, images, use_reentrant=reentrant)

    images = images.requires_grad_()
    [expected] = torch.autograd.grad(net(images).square().sum(), images)
    again_fast = fast(again)(images).square().sum()
    images.grad = None
    again_fast.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(images.grad, expected, rtol=1e-4, atol=1e-4)


def test_a_gradient_of_the_gradient_is_pytorchs(net: nn.Sequential) -> None:
    images = torch.rand(1, 1, *ROI, requires_grad=True)

    def second(of: Pass) -> Tensor:
        [gradient] = torch.autograd.grad(of(images).square().sum(), images, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), images)[0]

    torch.testing.assert_close(second(fast(net)), second(net), rtol=1e-3, atol=1e-3)


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # of other GPUs, which the switch speaks of
def test_a_process_without_onednn_keeps_pytorchs_loops(net: nn.Sequential) -> None:
    images = torch.rand(1, 1, *ROI)
    with torch.backends.mkldnn.flags(enabled=False):
        assert torch.equal(fast(net)(images), net(images))
