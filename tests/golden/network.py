"""The reference network and the files of arrays/ (its README)."""

import json
from collections.abc import Callable, Collection
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

CPU = torch.device("cpu")
Find = Callable[[str], Path]


class Golden(NamedTuple):
    """One attack file: its inputs as tensors, its arrays and its parameters."""

    images: Tensor
    labels: Tensor
    arrays: dict[str, np.ndarray]
    params: dict[str, Any]


@cache
def stored(path: Path) -> dict[str, np.ndarray]:
    return dict(np.load(path))


def reference_network(golden: Find, device: torch.device = CPU) -> nn.Sequential:
    """conv 1-8, GELU, conv 8-8, GELU, conv 8-4, with the stored weights, on a device."""
    first = nn.Conv3d(1, 8, 3, padding=1)
    middle = nn.Conv3d(8, 8, 3, padding=1)
    last = nn.Conv3d(8, 4, 1)
    net = nn.Sequential(first, nn.GELU(), middle, nn.GELU(), last)
    inputs = stored(golden("inputs"))
    for index, name in ((0, "conv1"), (2, "conv2"), (4, "conv3")):
        net[index].weight.data = torch.from_numpy(inputs[f"{name}.weight"])
        net[index].bias.data = torch.from_numpy(inputs[f"{name}.bias"])
    return net.to(device).eval()


def load(golden: Find, name: str, device: torch.device = CPU) -> Golden:
    inputs = stored(golden("inputs"))
    arrays = dict(np.load(golden(name)))
    batch = len(arrays["adversarial"])
    images = arrays["images"] if "images" in arrays else inputs["images"][:batch]
    labels = arrays["labels"] if "labels" in arrays else inputs["labels"][:batch]
    params = json.loads(str(arrays["params"]))
    if "perturbation_init" in params.get("draws", ()):
        shape = (arrays["grad_sign"][0] if "grad_sign" in arrays else arrays["perturbation"]).shape
        low, high = 1 - params["rho"], 1 + params["rho"]
        arrays["perturbation_init"] = np.random.RandomState(params["seed"]).uniform(low, high, shape).astype(np.float32)
    return Golden(*(torch.from_numpy(each).to(device) for each in (images, labels.astype(np.int64))), arrays, params)


def some_later(names: Collection[str], integration: Collection[str], slow: Collection[str] = ()) -> list[Any]:
    """Parameters of a test, those of `integration` run by `.ci/run` alone, those of `slow` not even there."""
    marks = {**dict.fromkeys(integration, pytest.mark.integration), **dict.fromkeys(slow, pytest.mark.slow)}
    return [pytest.param(name, marks=marks[name]) if name in marks else name for name in names]
