"""Windows and whole-volume prediction, against MONAI's inferer and by counting."""

from itertools import product

import pytest
import torch
from torch import Tensor, nn

from freqbench.models import SegmentationModel, attack_windows, predict

ROI = (32, 32, 16)


def test_windows_tile_side_by_side_and_the_last_is_shifted_back() -> None:
    windows = attack_windows((10, 4, 6), (4, 4, 4))
    starts = [tuple(axis.start for axis in window) for window in windows]
    assert starts == list(product((0, 4, 6), (0,), (0, 2)))


@pytest.mark.parametrize("shape", [(7, 9, 4), (4, 4, 4), (2, 3, 5), (12, 8, 4)])
def test_windows_cover_every_voxel_inside_the_volume(shape: tuple[int, int, int]) -> None:
    seen = torch.zeros(shape)
    for window in attack_windows(shape, (4, 4, 4)):
        assert seen[window].shape == tuple(min(4, size) for size in shape)
        seen[window] += 1
    assert seen.min() == 1


def test_windows_of_a_multiple_do_not_overlap() -> None:
    assert len(attack_windows((192, 96, 288), (96, 96, 96))) == 2 * 1 * 3


@pytest.mark.parametrize("size", [(56, 33, 20), (32, 32, 16), (20, 40, 16)])
def test_prediction_is_that_of_monai_on_the_bare_network(tiny_unet: nn.Module, size: tuple[int, int, int]) -> None:
    from monai.inferers import SlidingWindowInferer

    image = torch.rand(1, *size)
    with torch.no_grad():
        logits = SlidingWindowInferer(ROI, sw_batch_size=4, overlap=0.5, mode="constant")(image[None], tiny_unet)
    assert isinstance(logits, Tensor)
    found = predict(SegmentationModel(tiny_unet, ROI), image, window_batch=4)
    assert found.dtype == torch.uint8
    assert torch.equal(found.long(), logits.argmax(1)[0])


def test_small_volume_is_predicted_as_the_wrapper_pads_it(tiny_unet: nn.Module) -> None:
    model = SegmentationModel(tiny_unet, ROI)
    image = torch.rand(1, 1, 27, 32, 9)
    with torch.no_grad():
        expected = model(image).argmax(1)[0]
    assert torch.equal(predict(model, image).long(), expected)


def test_prediction_may_become_labels_of_an_attack(tiny_unet: nn.Module) -> None:
    assert not predict(SegmentationModel(tiny_unet, ROI), torch.rand(1, *ROI)).is_inference()


def test_a_batch_of_volumes_is_refused(tiny_unet: nn.Module) -> None:
    with pytest.raises(ValueError, match="expected one volume"):
        predict(SegmentationModel(tiny_unet, ROI), torch.rand(2, 1, *ROI))
