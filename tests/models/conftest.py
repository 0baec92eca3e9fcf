"""Tiny networks that the tests of this room share."""

from typing import Any

import pytest
from torch import nn

from freqbench.models import build

TINY_ROI = (32, 32, 16)
TINY_ARGS: dict[str, Any] = {"channels": (8, 16, 32, 64), "strides": (2, 2, 2)}


@pytest.fixture
def tiny_unet() -> nn.Module:
    """UNet of three classes for windows of 32x32x16."""
    return build("unet", 3, TINY_ROI, TINY_ARGS).eval()
