"""Cases made of a volume, for tests that read no file."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from freqbench.core.types import Case, CaseRef, Shape


def volume(shape: Shape, channels: int = 1, seed: int = 0) -> Tensor:
    """Intensities in [0.2, 0.8], `[C, H, W, D]`."""
    return 0.2 + 0.6 * torch.rand((channels, *shape), generator=torch.Generator().manual_seed(seed))


def case_of(image: Tensor, label: Tensor, fingerprint: str = "case", **changes: Any) -> Case:
    shape = (image.shape[1], image.shape[2], image.shape[3])
    return Case(
        **{
            "ref": CaseRef(case_id="c", patient_id="p", fingerprint=fingerprint, shape=shape),
            "image": image,
            "label": label.to(torch.uint8),
            "spacing": (1.0, 1.0, 1.0),
            "affine": np.eye(4),
            "native_ranges": ((0.0, 1.0),) * len(image),
            "original_spacing": (1.0, 1.0, 1.0),
            **changes,
        }
    )
