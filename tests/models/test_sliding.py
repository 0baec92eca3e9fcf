"""The network over whole volumes against MONAI's inferer: logits, gradients, and what is kept and counted."""

from itertools import product

import pytest
import torch
from monai.data.utils import dense_patch_slices
from monai.inferers.utils import _get_scan_interval, sliding_window_inference
from torch import Tensor, nn

from freqbench.core.types import Shape
from freqbench.models import Inference, SegmentationModel, SlidingWindowModel, build, predict, sliding_windows
from freqbench.ops.losses import dice_ce

ROI: Shape = (8, 6, 4)
SHAPES = [(20, 9, 7), (8, 6, 4), (9, 4, 4), (5, 13, 3)]
SETTINGS = [
    Inference(),
    Inference(weighting="gaussian"),
    Inference(overlap=0.25),
    Inference(overlap=0.6, weighting="gaussian"),
    Inference(average="probabilities", weighting="gaussian"),
]


@pytest.fixture(scope="module")
def net() -> nn.Module:
    """Three classes from a small U-Net in float64, whose border effects make windows disagree."""
    args = {"channels": [4, 8], "strides": [2], "num_res_units": 0}
    return build("unet", 3, ROI, args, seed=0).double().requires_grad_(False).eval()


def volume(shape: Shape, batch: int = 1) -> Tensor:
    return torch.rand(batch, 1, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def monais(net: nn.Module, images: Tensor, settings: Inference = SETTINGS[0]) -> Tensor:
    """MONAI's stitched logits, with the whole graph."""
    probable = settings.average == "probabilities"
    stitched = sliding_window_inference(
        images,
        ROI,
        3,
        (lambda windows: 1 * net(windows).softmax(1)) if probable else net,  # a copy: MONAI weights it in place
        overlap=settings.overlap,
        mode=settings.weighting,
    )
    assert isinstance(stitched, Tensor)
    return stitched.log() if probable else stitched


def sliding(net: nn.Module, window_batch: int = 2, settings: Inference = SETTINGS[0]) -> SlidingWindowModel:
    return SlidingWindowModel(SegmentationModel(net, ROI, inference=settings), window_batch).eval()


@pytest.mark.parametrize("roi", [(8, 6, 4), (7, 5, 3), (1, 2, 3)])
def test_windows_are_monais(roi: Shape) -> None:
    for shape, overlap in product([(20, 9, 7), (8, 6, 4), (9, 6, 5), (33, 12, 8)], [0.0, 0.25, 0.5, 0.6, 0.9]):
        steps = _get_scan_interval(shape, roi, 3, [overlap] * 3)
        assert list(sliding_windows(shape, roi, overlap)) == dense_patch_slices(shape, roi, steps)


@pytest.mark.parametrize(
    ("shape", "settings"), [*zip(SHAPES, SETTINGS[:4], strict=True), (SHAPES[0], SETTINGS[-1])], ids=str
)
def test_logits_are_those_that_predict_stitches(net: nn.Module, shape: Shape, settings: Inference) -> None:
    images, model = volume(shape), sliding(net, settings=settings)
    with torch.no_grad():
        logits = model(images)
    assert torch.allclose(logits, monais(net, images, settings), rtol=0, atol=1e-12)
    assert torch.equal(logits.argmax(1)[0], predict(model.model, images).long())


def test_mirror_images_are_for_predictions_only(net: nn.Module) -> None:
    images = volume((20, 9, 7))
    with torch.no_grad():
        assert torch.equal(sliding(net, settings=Inference(mirror="HWD"))(images), sliding(net)(images))


def test_a_class_without_any_probability_has_a_finite_gradient(net: nn.Module) -> None:
    class Sure(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 1e4 * net(x.double()).float()

    images = volume((20, 9, 7)).float().requires_grad_()
    logits = sliding(Sure(), settings=SETTINGS[-1])(images)
    (gradient,) = torch.autograd.grad(dice_ce(logits, torch.zeros(1, 1, 20, 9, 7).long()).sum(), images)
    assert float(logits.detach().min()) < -87
    assert bool(logits.isfinite().all())
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize(
    ("shape", "window_batch", "settings"),
    [(SHAPES[0], 4, SETTINGS[4]), *zip(SHAPES, [1, 4, 99, 4], SETTINGS[:4], strict=True)],
    ids=str,
)
def test_gradient_is_that_through_the_whole_graph(
    net: nn.Module, shape: Shape, window_batch: int, settings: Inference
) -> None:
    """Of a loss that couples all voxels, against autograd through MONAI's inferer, in float64."""
    labels = torch.randint(0, 3, (1, 1, *shape), generator=torch.Generator().manual_seed(2))
    gradients = []
    for forward in (sliding(net, window_batch, settings), lambda x: monais(net, x, settings)):
        images = volume(shape).requires_grad_()
        (gradient,) = torch.autograd.grad(dice_ce(forward(images), labels).sum(), images)
        gradients.append(gradient)
    assert torch.allclose(*gradients, rtol=1e-10, atol=1e-16)
    assert float(gradients[1].abs().min()) > 0


def test_a_batch_of_volumes_is_its_volumes(net: nn.Module) -> None:
    images = volume((20, 9, 7), batch=2).requires_grad_()
    both = sliding(net)(images)
    (gradient,) = torch.autograd.grad(both.square().sum(), images)
    for i in range(2):
        image = images[i : i + 1].detach().requires_grad_()
        logits = sliding(net)(image)
        assert torch.allclose(both[i], logits[0], rtol=0, atol=1e-12)
        assert torch.allclose(gradient[i], torch.autograd.grad(logits.square().sum(), image)[0][0], rtol=0, atol=1e-12)


def test_windows_are_counted_forward_and_back(net: nn.Module) -> None:
    model, images = sliding(net), volume((20, 6, 4)).requires_grad_()
    with torch.no_grad():
        model(images)
    assert (model.num_forwards, model.num_backwards) == (4, 0)
    model(images).sum().backward()
    assert (model.num_forwards, model.num_backwards) == (12, 4)


@pytest.mark.parametrize("window_batch", [1, 3])
def test_never_more_than_a_batch_of_windows_is_held(net: nn.Module, window_batch: int) -> None:
    """What the graph keeps on the way forward are two volumes, whatever the network; each pass is of one batch."""
    kept, passed = [], []
    hook = net.register_forward_hook(lambda module, inputs, output: passed.append(len(output)))
    images = volume((20, 9, 7)).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        logits = sliding(net, window_batch)(images)
    logits.sum().backward()
    hook.remove()
    assert kept == [images.numel()] * 2
    assert (max(passed), sum(passed)) == (window_batch, 2 * len(sliding_windows((20, 9, 7), ROI)))
