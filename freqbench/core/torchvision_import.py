"""Imports torchvision where its compiled operators do not load."""

from typing import Any

import torch

_OPERATORS = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]


def import_torchvision() -> Any:
    """Returns the module, even if its compiled operators do not load (a CUDA build beside a CPU-only torch).
    torchvision registers a shape function for its operator `nms` while it is imported, and fails if the operator does
    not exist. Nothing here uses it, so its name is enough; the name lives as long as the library that defines it."""
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in ("nms", "qnms"):
            _OPERATORS.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
        import torchvision
    return torchvision
