"""Windows and whole-volume prediction, against MONAI's inferer and by counting."""

from copy import deepcopy
from itertools import combinations, product
from typing import Any

import pytest
import torch
from monai.inferers.utils import sliding_window_inference
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from freqbench.core.config import validate
from freqbench.core.errors import UserError
from freqbench.core.types import Shape
from freqbench.models import Inference, SegmentationModel, attack_windows, build, predict

ROI = (32, 32, 16)
SMALL_ROI: Shape = (8, 6, 4)


def test_windows_tile_side_by_side_and_the_last_is_shifted_back() -> None:
    windows = attack_windows((10, 4, 6), (4, 4, 4))
    starts = [tuple(axis.start for axis in window) for window in windows]
    assert starts == list(product((0, 4, 6), (0,), (0, 2)))


def test_prediction_may_become_labels_of_an_attack(tiny_unet: nn.Module) -> None:
    assert not predict(SegmentationModel(tiny_unet, ROI), torch.rand(1, *ROI)).is_inference()


def test_a_batch_of_volumes_is_refused(tiny_unet: nn.Module) -> None:
    with pytest.raises(ValueError, match="expected one volume"):
        predict(SegmentationModel(tiny_unet, ROI), torch.rand(2, 1, *ROI))


@pytest.fixture(scope="module")
def small_net() -> nn.Module:
    """Three classes for windows of 8x6x4: border effects make windows disagree, and mirror images too."""
    args = {"channels": [4, 8], "strides": [2], "num_res_units": 0}
    return build("unet", 3, SMALL_ROI, args, seed=0).requires_grad_(False).eval()


def noise(shape: Shape, channels: int = 1) -> Tensor:
    return torch.rand(1, channels, *shape, generator=torch.Generator().manual_seed(1))


def monais(predictor: Any, image: Tensor, settings: Inference, window_batch: int) -> Tensor:
    """The label map of MONAI's inferer, which holds the scores of the whole volume."""
    scores = sliding_window_inference(
        image,
        SMALL_ROI,
        window_batch,
        predictor,
        overlap=settings.overlap,
        mode=settings.weighting,
        sigma_scale=0.125,
    )
    assert isinstance(scores, Tensor)
    return scores.argmax(1)[0]


@pytest.mark.parametrize(
    ("overlap", "weighting"),
    [(0.0, "constant"), (0.5, "constant"), (0.6, "gaussian"), (0.9, "constant")],
)
def test_label_map_is_monais_on_all_voxels(small_net: nn.Module, weighting: Any, overlap: float) -> None:
    """Whichever axes are shorter than the window, and wherever a batch of windows passes from one slab to the next."""
    settings = Inference(overlap=overlap, weighting=weighting)
    model = SegmentationModel(small_net, SMALL_ROI, inference=settings)
    for shape in [(23, 9, 7), (8, 6, 4), (5, 13, 3), (19, 3, 9), (9, 15, 4)]:
        for window_batch in (1, 5):
            found = predict(model, noise(shape), window_batch)
            assert torch.equal(found.long(), monais(small_net, noise(shape), settings, window_batch))


def test_ties_that_rounding_makes_are_broken_like_monais() -> None:
    """Sums that differ in their last bit may have equal means, of which the lower class wins."""
    net = nn.Conv3d(1, 2, 1, bias=False).requires_grad_(False)
    net.weight[:, 0, 0, 0, 0] = torch.tensor([1.0, 1 + 2**-23])
    settings, image = Inference(overlap=0.6), noise((23, 9, 7))
    found = predict(SegmentationModel(net, SMALL_ROI, inference=settings), image, 5)
    assert torch.equal(found.long(), monais(net, image, settings, 5))


def over_mirrors(net: nn.Module, mirror: str, average: str) -> Any:
    """The mean over all mirror images of a padded window."""
    axes = [2 + "HWD".index(axis) for axis in mirror]
    sets = [chosen for count in range(len(axes) + 1) for chosen in combinations(axes, count)]

    def predictor(windows: Tensor) -> Tensor:
        passes = [net(windows.flip(chosen)).flip(chosen) for chosen in sets]
        return torch.stack([each.softmax(1) if average == "probabilities" else each for each in passes]).mean(0)

    return predictor


@pytest.mark.parametrize(("mirror", "average"), [("", "probabilities"), ("H", "logits"), ("HWD", "probabilities")])
def test_mirror_images_are_averaged_before_windows(small_net: nn.Module, mirror: str, average: Any) -> None:
    """In double precision, as the order of the sum over mirror images is not said; axes are padded by an odd number."""
    net, settings = deepcopy(small_net).double(), Inference(mirror=mirror, average=average, weighting="gaussian")
    model = SegmentationModel(net, SMALL_ROI, inference=settings)
    for shape in [(13, 9, 7), (5, 13, 3)]:
        image = noise(shape).double()
        expected = monais(over_mirrors(net, mirror, average), image, settings, 4)
        assert torch.equal(predict(model, image, 4).long(), expected)


def test_channels_are_cut_together() -> None:
    net = nn.Conv3d(3, 4, 3, padding=1)
    model, image = SegmentationModel(net, SMALL_ROI), noise((13, 9, 3), channels=3)
    expected = monais(net, image, Inference(), 5)
    assert torch.equal(predict(model, image, 5).long(), expected)
    assert torch.equal(predict(model, image[0], 5).long(), expected)


def test_what_is_held_does_not_grow_with_the_first_axis() -> None:
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

    model = SegmentationModel(Wide(), SMALL_ROI)
    for height in (40, 80):
        with Largest() as largest:
            predict(model, noise((height, 12, 8)), 2)
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
    assert Inference(mirror="DH") == Inference(mirror="HD")
    for wrong in ("HX", "HH", "hw"):
        with pytest.raises(UserError, match=f"model: mirror: expected some of the axes HWD, each once, got '{wrong}'"):
            validate({"mirror": wrong}, Inference, "model")
    for overlap in (-0.1, 1.0):
        with pytest.raises(UserError, match="overlap: "):
            validate({"overlap": overlap}, Inference, "model")
