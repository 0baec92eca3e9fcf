"""Finds the voxels of a label map that count: all but those with the label IGNORED."""

import torch
from torch import Tensor

from freqbench.core.types import IGNORED


def counted(label: Tensor, num_classes: int = IGNORED) -> Tensor | None:
    """Returns the voxels that count, bool in the label's shape; None if all do, or IGNORED is one of the classes."""
    if num_classes > IGNORED or int(label.max()) < IGNORED:
        return None
    counts = label != IGNORED
    return None if bool(counts.all()) else counts


def without_ignored(label: Tensor) -> Tensor:
    """Returns the label map with background in place of the voxels that do not count."""
    counts = counted(label)
    return label if counts is None else torch.where(counts, label, 0)
