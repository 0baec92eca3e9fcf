"""ROG: the authors' names, shapes and numbers, and refusals in one line."""

from typing import Any

import pytest
import torch

from freqbench.models import ModelEntry, build
from freqbench.models.networks.construction import skeleton

from .conftest import refused

PANCREAS = [[2, 1, 1], [2, 2, 1], [2, 2, 2]]
TINY: dict[str, Any] = {"strides": [[1, 1, 1], [1, 1, 1], [2, 2, 2]], "channels": 4}
ROI = (16, 24, 16)

# The lattice, read off the authors' code: of each layer its cells, by their channels, and where these lead.
CELLS = [
    [(64, "down")],
    [(128, "up down")],
    [(64, "down"), (256, "up down")],
    [(128, "up down"), (512, "up")],
    [(64, "down"), (256, "up down")],
    [(128, "up down"), (512, "up")],
    [(64, "down"), (256, "up")],
    [(128, "up")],
    [(64, "up")],
]


def entry(**changes: Any) -> ModelEntry:
    return ModelEntry(**{"name": "m", "arch": "rog", "checkpoint": "random", "args": TINY, "roi": ROI, **changes})


def authors_shapes(modalities: int, classes: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights, as the released code makes them."""
    shapes: dict[str, tuple[int, ...]] = {}

    def separable(name: str, before: int, after: int) -> None:
        shapes[f"{name}.conv.weight"] = (before, 1, 3, 3, 3)
        shapes[f"{name}.pointwise.weight"] = (after, before, 1, 1, 1)

    def norm(name: str, channels: int) -> None:
        shapes[f"{name}.norm.weight"] = shapes[f"{name}.norm.bias"] = (channels,)

    for name, before, after in (*(("0.0", modalities, 32), ("0.3", 32, 32)), *(("1.0", 32, 32), ("1.3", 32, 64))):
        separable(f"stem.{name}", before, after)
        norm(f"stem.{name[:2]}{int(name[2]) + 1}", after)
    for depth, cells in enumerate(CELLS):
        for number, (channels, ways) in enumerate(cells):
            at = f"backbone.{depth}.cells.{number}"
            for way in ways.split():
                after = channels // 2 if way == "up" else channels * 2
                shapes[f"{at}.{way}.1.weight"] = (after, channels, 1, 1, 1)
                norm(f"{at}.{way}.2", after)
            for first in (1, 4):
                separable(f"{at}.core.{first}", channels, channels)
                norm(f"{at}.core.{first + 1}", channels)
    shapes["combination.1.weight"] = (32, 32, 3, 3, 3)
    norm("combination.2", 32)
    shapes["final.1.weight"] = (classes, 32, 1, 1, 1)
    return shapes


def test_names_shapes_and_their_order_are_the_authors() -> None:
    weights = skeleton("rog", 3, (192, 192, 48), {}).state_dict()
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    assert list(shapes.items()) == list(authors_shapes(1, 3).items())
    assert sum(value.numel() for value in weights.values()) == 2_596_347


# Logits of the authors' code under the weights and the volume below, and the gradient of the second class's sum.
GOLDEN = {
    (0, 0, 0): ([0.326898989, -0.029323745, -0.27308534], -0.05484140772807704),
    (63, 31, 15): ([0.220353905, 0.024341731, -0.265024782], -0.034158597552883564),
    (20, 7, 11): ([0.657462416, -0.224199348, -0.246021614], -0.1457505135003178),
    (33, 16, 2): ([0.424999175, -0.139492216, -0.169009184], 0.0880653352453252),
}


def test_logits_and_gradients_are_the_authors() -> None:
    roi = (64, 32, 16)
    net = build("rog", 3, roi, {"strides": PANCREAS}).double()
    with torch.no_grad():
        for i, (key, value) in enumerate(net.state_dict().items()):
            wave = torch.sin(torch.arange(value.numel(), dtype=torch.float64) * 0.7 + i).reshape(value.shape)
            value.copy_(1 + 0.2 * wave if key.endswith("norm.weight") else 0.3 * wave)
    volume = torch.sin(torch.arange(64 * 32 * 16, dtype=torch.float64) * 0.013).reshape(1, 1, *roi).requires_grad_()
    logits = net(volume)
    (gradient, *of_weights) = torch.autograd.grad(logits[:, 1].sum(), (volume, *net.parameters()))
    assert all(each.any() for each in of_weights), "a weight has no part in the logits"
    for (h, w, d), (expected, slope) in GOLDEN.items():
        assert logits[0, :, h, w, d].tolist() == pytest.approx(expected, abs=1e-8)
        assert float(gradient[0, 0, h, w, d]) == pytest.approx(slope, rel=1e-8)


STRIDES = "rog: ROG refuses its args: expected strides of three times 3 positive integers, got "


@pytest.mark.parametrize(
    ("text", "case"),
    [
        (f"{STRIDES}((2, 2, 1), (2, 2, 1))", ({"strides": [[2, 2, 1], [2, 2, 1]]}, ROI)),
        (f"{STRIDES}(2, 2, 2)", ({"strides": [2, 2, 2]}, ROI)),
        (f"{STRIDES}((1, 1, 1), (0, 1, 1), (2, ", ({"strides": [[1, 1, 1], [0, 1, 1], [2, 2, 2]]}, ROI)),
        ("rog: ROG refuses its args: expected channels of a positive even integer, got 5", ({"channels": 5}, ROI)),
        ("rog: expected a roi of multiples of 8x8x8, got 16x24x20: the next larger is 16x24x24", ({}, (16, 24, 20))),
        ("rog: expected a roi of multiples of 32x16x8, got 32x32x12", ({"strides": PANCREAS}, (32, 32, 12))),
        ("rog: a roi of 8x8x8 shrinks to a single voxel inside the network", ({}, (8, 8, 8))),
    ],
)
def test_refusal_is_one_clear_line(text: str, case: tuple[dict[str, Any], tuple[int, int, int]]) -> None:
    args, roi = case
    refused(entry(args=TINY | args, roi=roi), text)
