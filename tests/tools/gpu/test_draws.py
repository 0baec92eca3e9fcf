"""Draws of a smoothed network on a device of its own."""

import pytest
import torch
from torch import Tensor, nn

from freqbench.models import SegmentationModel, prediction, sliding_windows
from freqbench.models.defences.base import Defence
from freqbench.models.defences.randomized_smoothing import RandomizedSmoothing
from freqbench.models.defences.smoothing import Smoothing
from freqbench.testing import SmallNet

ROI, SHAPE = (8, 8, 8), (12, 8, 8)


@pytest.mark.parametrize(
    ("defence", "draws"),
    [
        (Smoothing(kind="voxels", sigma=0.4, samples=7), [3, 3, 1, 1]),  # the last is the median draw, once more
        (RandomizedSmoothing(sigma=0.4, selection_samples=4, samples=7), [3, 1, 3, 3, 1]),
    ],
)
def test_draws_fill_batch_and_are_those_of_cpu(defence: Defence, draws: list[int], device: torch.device) -> None:
    sizes: list[int] = []

    def sized(net: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        sizes.append(len(inputs[0]))

    windows = len(sliding_windows(SHAPE, ROI))
    net, image = SmallNet().eval(), torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(0))

    def predicted(where: torch.device) -> tuple[Tensor, object]:
        model = SegmentationModel(net.to(where), ROI, defence=defence)
        made = prediction(model, image, 3 * windows + 1, judge=shares)
        return made.labels, made.draws

    expected, scores = predicted(torch.device("cpu"))
    net.register_forward_pre_hook(sized)
    labels, same = predicted(device)
    assert sizes == [windows * count for count in draws]
    assert torch.equal(labels, expected)
    assert same == scores


def shares(labels: Tensor) -> dict[str, float]:
    return {"share": float(labels.float().mean())}
