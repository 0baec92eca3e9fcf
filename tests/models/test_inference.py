"""Windows, predictions and logits of whole volumes, against MONAI's inferer and by counting."""

from itertools import chain, combinations, product
from typing import Any

import pytest
import torch
from draws import seeded
from monai.inferers.utils import sliding_window_inference
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from freqbench import models
from freqbench.core.config import validate
from freqbench.core.errors import UserError
from freqbench.core.types import Shape
from freqbench.models import Inference, SegmentationModel, SlidingWindowModel, Wanted, build, predict, prediction
from freqbench.ops.losses import dice_ce

ROI: Shape = (8, 6, 4)
PLAIN = Inference()


@pytest.fixture(scope="module")
def net() -> nn.Module:
    """Three classes from a small U-Net in float64: border effects make windows disagree, and mirror images too."""
    args = {"channels": [4, 8], "strides": [2], "num_res_units": 0}
    return build("unet", 3, ROI, args, seed=0).double().requires_grad_(False).eval()


def volume(shape: Shape, batch: int = 1, channels: int = 1) -> Tensor:
    return torch.rand(batch, channels, *shape, generator=seeded(1), dtype=torch.float64)


def monais(predictor: Any, images: Tensor, settings: Inference = PLAIN, window_batch: int = 3) -> Tensor:
    """Logits that MONAI's inferer stitches, with the scores of the whole volume and the whole graph."""
    options = {"overlap": settings.overlap, "mode": settings.weighting, "sigma_scale": 0.125}
    # A copy, as MONAI weights it in place.
    return sliding_window_inference(images, ROI, window_batch, lambda windows: 1 * predictor(windows), **options)


def starts_of(window: Any) -> tuple[int, ...]:
    return tuple(axis.start for axis in window)


def test_windows_tile_side_by_side_and_the_last_is_shifted_back() -> None:
    windows = models.attack_windows((10, 4, 6), (4, 4, 4))
    assert [starts_of(window) for window in windows] == list(product((0, 4, 6), (0,), (0, 2)))


def test_windows_of_a_turned_axis_begin_at_its_other_end() -> None:
    windows = models.sliding_windows((10, 4, 11), (4, 4, 4), turned=(0, 2))
    assert sorted({h.start for h, _, _ in windows}) == [0, 2, 4, 6]
    assert sorted({d.start for _, _, d in windows}) == [0, 1, 3, 5, 7]  # 7, 5, 3, 1 from the high end, then shifted


def test_prediction_may_become_labels_of_an_attack(net: nn.Module) -> None:
    assert not predict(SegmentationModel(net, ROI), volume(ROI)).is_inference()
    with pytest.raises(ValueError, match="expected one volume"):
        predict(SegmentationModel(net, ROI), volume(ROI, batch=2))


def test_ties_that_rounding_makes_are_broken_like_monais() -> None:
    """Sums that differ in their last bit may have equal means, of which the lower class wins."""
    net = nn.Conv3d(1, 2, 1, bias=False).requires_grad_(False)
    net.weight[:, 0, 0, 0, 0] = torch.tensor([1.0, 1 + 2**-23])
    settings = Inference(overlap=0.6)
    image = volume((23, 9, 7)).float()
    labelled = predict(SegmentationModel(net, ROI, inference=settings), image, 5)
    assert torch.equal(labelled.long(), monais(net, image, settings, 5).argmax(1)[0])


def test_finite_logits_are_labels_although_their_sum_overflows() -> None:
    net = nn.Conv3d(1, 2, 1, bias=False).requires_grad_(False)
    net.weight[:, 0, 0, 0, 0] = torch.tensor([1e38, 1.1e38])
    assert predict(SegmentationModel(net, ROI), volume(ROI).float().clamp(min=0.5)).all()


def over_mirrors(net: nn.Module, mirror: str, average: str) -> Any:
    """The mean over all mirror images of a padded window."""
    axes = [2 + "HWD".index(axis) for axis in mirror]
    sets = list(chain.from_iterable(combinations(axes, count) for count in range(len(axes) + 1)))

    def predictor(windows: Tensor) -> Tensor:
        passes = [net(windows.flip(chosen)).flip(chosen) for chosen in sets]
        return torch.stack([each.softmax(1) if average == "probabilities" else each for each in passes]).mean(0)

    return predictor


@pytest.mark.parametrize(("mirror", "average"), [("", "probabilities"), ("H", "logits"), ("HWD", "probabilities")])
def test_mirror_images_are_averaged_before_windows(net: nn.Module, mirror: str, average: Any) -> None:
    settings = Inference(mirror=mirror, average=average, weighting="gaussian")
    model = SegmentationModel(net, ROI, inference=settings)
    for shape in [(13, 9, 7), (5, 13, 3)]:
        image = volume(shape)
        expected = monais(over_mirrors(net, mirror, average), image, settings, 4).argmax(1)[0]
        assert torch.equal(predict(model, image, 4).long(), expected)


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_an_attack_follows_mirror_images_where_it_is_asked_to(net: nn.Module, average: Any) -> None:
    settings = Inference(mirror="HD", average=average)
    beside = SegmentationModel(net, ROI, inference=settings)
    through = SegmentationModel(net, ROI, inference=settings.model_copy(update={"attack_mirrors": True}))
    crop = volume(ROI)
    mean = over_mirrors(net, "HD", average)(crop)
    expected = mean.log() if average == "probabilities" else mean
    torch.testing.assert_close(through(crop), expected)
    torch.testing.assert_close(beside(crop), net(crop))
    assert (through.passes, beside.passes) == (4, 1)
    assert torch.equal(predict(through, volume((13, 9, 7))), predict(beside, volume((13, 9, 7))))
    sliding = SlidingWindowModel(through, 4)
    image = volume((13, 9, 7)).requires_grad_()
    stitched = sliding(image)
    assert torch.equal(stitched.argmax(1)[0], predict(beside, image.detach()).long())
    torch.autograd.grad(stitched.square().sum(), image)
    windows = len(sliding.windows(image))
    assert (sliding.num_forwards, sliding.num_backwards) == (2 * 4 * windows, 4 * windows)


def test_memory_of_prediction_does_not_grow_with_first_axis() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scales = nn.Parameter(torch.rand(32, 1, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return self.scales * x

    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor):
                self.numel = max(self.numel, result.numel())
            return result

    model = SegmentationModel(Wide(), ROI)
    for height in (40, 80):
        with Largest() as largest:
            predict(model, volume((height, 12, 8)).float(), 2)
        assert largest.numel == 32 * 8 * 12 * 8


def test_more_classes_than_a_mask_holds_are_refused_in_one_line() -> None:
    model = SegmentationModel(nn.Conv3d(1, 257, 1), (2, 2, 2))
    with pytest.raises(UserError, match="at most 256 classes, as label maps are uint8, got 257"):
        predict(model, torch.rand(1, 2, 2, 2))
    with torch.no_grad():
        model.net.weight[255] = 1e3
    few = SegmentationModel(nn.Conv3d(1, 256, 1), (2, 2, 2))
    few.net.load_state_dict({name: value[:256] for name, value in model.net.state_dict().items()})
    assert predict(few, torch.ones(1, 2, 2, 2)).unique().tolist() == [255]


def test_settings_that_cannot_be_are_refused() -> None:
    assert (Inference(mirror="DH"), Inference(mirror="KI")) == (Inference(mirror="HD"), Inference(mirror="IK"))
    for wrong in ("HX", "HH", "hw", "HK"):
        with pytest.raises(UserError, match=f"mirror: expected some of .*HWD or .*IJK, each once, got '{wrong}'"):
            validate({"mirror": wrong}, Inference, "model")
    for overlap in (-0.1, 1.0):
        with pytest.raises(UserError, match="overlap: "):
            validate({"overlap": overlap}, Inference, "model")


SHAPES: list[Shape] = [(20, 9, 7), (8, 6, 4), (9, 4, 4), (5, 13, 3)]
SETTINGS = [
    PLAIN,
    Inference(weighting="gaussian"),
    Inference(overlap=0.25),
    Inference(overlap=0.6, weighting="gaussian"),
    Inference(average="probabilities", weighting="gaussian"),
]


def logits_of(net: nn.Module, images: Tensor, settings: Inference) -> Tensor:
    if settings.average == "probabilities":
        return monais(lambda windows: net(windows).softmax(1), images, settings).log()
    return monais(net, images, settings)


def sliding(net: nn.Module, window_batch: int = 2, settings: Inference = PLAIN) -> SlidingWindowModel:
    return SlidingWindowModel(SegmentationModel(net, ROI, inference=settings), window_batch).eval()


@pytest.mark.parametrize(
    ("shape", "settings"), [*zip(SHAPES, SETTINGS[:4], strict=True), (SHAPES[0], SETTINGS[-1])], ids=str
)
def test_logits_are_those_that_predict_stitches(net: nn.Module, shape: Shape, settings: Inference) -> None:
    images = volume(shape)
    model = sliding(net, settings=settings)
    with torch.no_grad():
        logits = model(images)
    assert torch.allclose(logits, logits_of(net, images, settings), rtol=0, atol=1e-12)
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
def test_gradient_is_the_whole_graphs(net: nn.Module, shape: Shape, window_batch: int, settings: Inference) -> None:
    labels = torch.randint(0, 3, (1, 1, *shape), generator=seeded(2))
    gradients = []
    for forward in (sliding(net, window_batch, settings), lambda x: logits_of(net, x, settings)):
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
    model = sliding(net)
    images = volume((20, 6, 4)).requires_grad_()
    with torch.no_grad():
        model(images)
    assert (model.num_forwards, model.num_backwards) == (4, 0)
    model(images).sum().backward()
    assert (model.num_forwards, model.num_backwards) == (12, 4)


@pytest.mark.parametrize("window_batch", [1, 3])
def test_never_more_than_a_batch_of_windows_is_held(net: nn.Module, window_batch: int) -> None:
    kept = []
    passed = []
    hook = net.register_forward_hook(lambda module, inputs, output: passed.append(len(output)))
    images = volume((20, 9, 7)).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        logits = sliding(net, window_batch)(images)
    logits.sum().backward()
    hook.remove()
    assert kept == [images.numel()] * 2
    assert (max(passed), sum(passed)) == (window_batch, 2 * len(models.sliding_windows((20, 9, 7), ROI)))


@pytest.mark.parametrize("shape", [(13, 9, 6), (19, 6, 4)], ids=["many windows a plane", "one window a plane"])
@pytest.mark.parametrize(
    ("average", "weighting"), [("logits", "constant"), ("probabilities", "constant"), ("logits", "gaussian")]
)
def test_confidence_is_of_what_is_stitched(net: nn.Module, average: str, weighting: str, shape: Shape) -> None:
    settings = {"average": average, "overlap": 0.5, "weighting": weighting}
    model = SegmentationModel(net, ROI, inference=validate(settings, Inference, where="t"))
    images = volume(shape)
    labelled = prediction(model, images, wanted=Wanted(with_confidence=True))
    stitched = monais(lambda windows: model.averaged_form(net(windows)), images, model.inference)[0]
    expected = (stitched.softmax(dim=0) if average == "logits" else stitched).amax(dim=0)
    torch.testing.assert_close(labelled.confidence, expected.float(), rtol=0, atol=1e-6)
    torch.testing.assert_close(labelled.labels, predict(model, images), rtol=0, atol=0)
    assert prediction(model, images).confidence is None
