"""Imports torchvision where its compiled operators do not load."""

from typing import Any

import torch

_OPERATORS = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]


def import_torchvision() -> Any:
    """Returns the module, even if its operators do not load: its import needs the name of `nms`, as _OPERATORS has."""
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in ("nms", "qnms"):
            _OPERATORS.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
        import torchvision
    return torchvision
