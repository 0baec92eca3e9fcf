"""Chooses between a function in PyTorch's operations and its form as a Triton kernel, where kernels run."""

import logging
import os
from collections.abc import Callable
from functools import cache, wraps
from importlib.util import find_spec
from pkgutil import resolve_name
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from freqbench.core.errors import one_line

logger = logging.getLogger(__name__)

MOST_FUSED = 256  # classes, or channels
FORMS = {
    "freqbench.ops.fused.losses": (
        *("dice_ce", "dice", "ce", "margin", "dice_linear"),
        *("flips", "margin_and_dice", "margin_of", "mean_dice", "is_as_labelled"),
    ),
    "freqbench.ops.fused.volumes": (
        *("stretched", "stretched_back", "ssim_maps"),
        *("nearest_error", "table_of", "reachable", "hard_error"),
    ),
}

Form = TypeVar("Form", bound=Callable[..., Any])


@cache
def runs_kernels(kind: str) -> bool:
    """True for a kind of device where kernels run: GPUs where Triton builds them, CPUs by its interpreter."""
    if kind not in ("cuda", "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "") or not find_spec("triton"):
        return False
    try:
        from freqbench.ops.fused import volume_kernels
        from freqbench.ops.fused.losses import dice_ce
        from freqbench.ops.losses import EVERYTHING

        logits, labels = torch.ones(1, 2, 1, 1, 1, device=kind), torch.zeros(1, 1, 1, 1, 1, device=kind)
        dice_ce(logits, labels, EVERYTHING)
        volume_kernels.rounding[(1,)](logits, logits, torch.empty_like(logits), 2, 2, enable_fp_fusion=False)
    except Exception as error:  # noqa: BLE001 (it takes a C compiler and Python's headers, and raises anything without)
        logger.warning("plain operations take their place, as Triton builds no kernel here: %s", one_line(error))
        return False
    return True


def on_gpu(plain: Form) -> Form:
    """Returns a function of a tensor, such as logits `[B, K, ...]`, that takes its form in FORMS where kernels run."""
    name = plain.__name__
    module = next((module for module, names in FORMS.items() if name in names), None)
    if module is None:
        return plain

    @wraps(plain)
    def chosen(first: Tensor, *given: Any, **named: Any) -> Any:
        if first.shape[1:2].numel() > MOST_FUSED or not runs_kernels(first.device.type):
            return plain(first, *given, **named)
        return resolve_name(f"{module}:{name}")(first, *given, **named)  # imports Triton

    return cast(Form, chosen)
