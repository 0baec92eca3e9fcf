"""Helpers that the tests of this room share."""

from typing import Any

import pytest
from torch import Tensor, nn

from freqbench.core.errors import UserError
from freqbench.models import READERS, Facts, ModelEntry, ModelSpec, build, facts_of, resolve

TINY_ROI = (32, 32, 16)
TINY_ARGS: dict[str, Any] = {"channels": (8, 16, 32, 64), "strides": (2, 2, 2)}


def refused(entry: ModelEntry, text: str, num_classes: int = 3) -> None:
    """Resolving it is refused in one line that begins with the text."""
    with pytest.raises(UserError) as caught:
        resolve(entry, num_classes)
    assert str(caught.value).startswith(text)


def facts(reader: str, path: str, **entry: Any) -> Facts:
    return facts_of(ModelEntry(name="m", arch=reader, checkpoint=path, **entry))


def network(reader: str, path: str, with_weights: bool = False) -> nn.Module:
    net = READERS[reader].network(unresolved(reader, path))
    if with_weights:
        net.load_state_dict(weights_of(reader, path), strict=True)
    return net


def weights_of(reader: str, path: str) -> dict[str, Tensor]:
    read = READERS[reader].weights
    return read(unresolved(reader, path), {})[0] if read else {}


def unresolved(arch: str, path: str, **changes: Any) -> ModelSpec:
    """Spec of files that nobody has looked at."""
    sizes: dict[str, Any] = {"args": {}, "roi": (8, 8, 8), "num_classes": 3, "checkpoint_sha256": "0"}
    return ModelSpec(name="m", arch=arch, checkpoint=path, **{**sizes, **changes})


@pytest.fixture
def tiny_unet() -> nn.Module:
    """UNet of three classes for windows of 32x32x16."""
    return build("unet", 3, TINY_ROI, TINY_ARGS).eval()
