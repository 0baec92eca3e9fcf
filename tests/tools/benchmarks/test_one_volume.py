"""A pass of a network over one small window, against PyTorch's own pass of the same network on the same machine."""

import statistics
import time
from typing import Any

import pytest
import torch
from torch import Tensor

from freqbench import models

MOST = 0.9  # of PyTorch's own seconds
ROI = (40, 56, 40)
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "unet, 16 channels": ("unet", {"channels": [16, 32, 64], "strides": [2, 2], "num_res_units": 2}),
    "segresnet, 8 filters": ("segresnet", {"init_filters": 8, "blocks_down": [1, 1, 1, 1], "blocks_up": [1, 1, 1]}),
}


@pytest.mark.benchmark
@pytest.mark.parametrize("name", NETWORKS)
def test_a_window_alone_takes_less_than_pytorchs_loops(name: str, measured: list[dict[str, Any]]) -> None:
    arch, args = NETWORKS[name]
    net = models.build(arch, 3, ROI, args, 0, 1).eval().requires_grad_(False)
    model, images = models.SegmentationModel(net, ROI), torch.rand(1, 1, *ROI)
    ratios = [seconds(model, images) / seconds(net, images) for _ in range(5)]
    measured.append({"what": f"pass of one window, {name}: seconds against PyTorch's", "ratio": min(ratios)})
    assert statistics.median(ratios) < MOST


def seconds(net: torch.nn.Module, images: Tensor) -> float:
    """Seconds of a forward and backward pass, after one that warms up."""
    for _ in range(2):
        images = images.clone().requires_grad_()
        started = time.perf_counter()
        net(images).square().mean().backward()
    return time.perf_counter() - started
