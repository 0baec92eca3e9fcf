"""What the tests of this room share."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from freqbench.core.errors import UserError
from freqbench.models import ModelEntry, build, resolve

TINY_ROI = (32, 32, 16)
TINY_ARGS: dict[str, Any] = {"channels": (8, 16, 32, 64), "strides": (2, 2, 2)}


def refused(entry: ModelEntry, text: str, num_classes: int = 3) -> None:
    """Resolving it is refused in one line that begins with the text."""
    with pytest.raises(UserError) as caught:
        resolve(entry, num_classes)
    assert str(caught.value).startswith(text)
    assert "\n" not in str(caught.value)


def prompts(*points: tuple[int, int, int, int], roi: tuple[int, int, int] = (16, 16, 16)) -> Tensor:
    """Of one window, each point's class and voxel."""
    clicks = torch.zeros(1, 1, *roi, dtype=torch.uint8)
    for index, h, w, d in points:
        clicks[0, 0, h, w, d] = index
    return clicks


@pytest.fixture
def tiny_unet() -> nn.Module:
    """UNet of three classes for windows of 32x32x16."""
    return build("unet", 3, TINY_ROI, TINY_ARGS).eval()
