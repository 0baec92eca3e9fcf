"""Refuses what an attack is called with, and what its model answers, where it is not what it must be.

Each raises a UserError that begins with the attack's name.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from freqbench.core.errors import UserError


def check_volumes(name: str, images: Tensor, labels: Tensor) -> None:
    """Images `[B, C, H, W, D]` in [0, 1], and integer labels `[B, 1, H, W, D]`."""
    if images.ndim != 5 or 0 in images.shape:
        got = _sizes(images.shape)
        raise UserError(f"{name}: expected images [B, C, H, W, D], got {got}: add batch and channel axes")
    if images.dtype not in (torch.float32, torch.float64):
        raise UserError(f"{name}: expected float32 or float64 images, got {images.dtype}: convert them")
    shape = (len(images), 1, *images.shape[2:])
    if labels.shape != shape:
        got = f"{_sizes(shape)}, got {_sizes(labels.shape)}"
        raise UserError(f"{name}: expected labels [B, 1, H, W, D] beside the images, {got}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise UserError(f"{name}: expected integer labels, got {labels.dtype}: convert them")
    if outside := _outside(images):
        reason = "rescale intensities in the dataset, not in the attack."
        raise UserError(f"{name}: expected images in [0, 1], got {outside}: {reason}")


def check_reference(name: str, images: Tensor, reference: Tensor | None, *, needed: bool) -> None:
    """A reference like the images where one is needed, and none elsewhere."""
    if reference is None and needed:
        raise UserError(f"{name}: expected a reference, got none: give volumes of another case")
    if reference is None:
        return
    if not needed:
        raise UserError(f"{name}: expected no reference, got one: this attack has no use for it")
    if reference.shape != images.shape:
        got = f"{_sizes(images.shape)}, got {_sizes(reference.shape)}"
        raise UserError(f"{name}: expected a reference of the images' shape {got}: resize it")
    if outside := _outside(reference):
        raise UserError(f"{name}: expected a reference in [0, 1], got {outside}: rescale it")


def check_logits(name: str, logits: Tensor, labels: Tensor) -> None:
    """Logits `[B, K, H, W, D]` on the grid of the labels, which are classes of theirs."""
    batch, _, *space = labels.shape
    if logits.ndim != 5 or logits.shape[0] != batch or list(logits.shape[2:]) != space:
        raise UserError(
            f"{name}: expected logits [{batch}, K, {', '.join(map(str, space))}] from the model, "
            f"got {list(logits.shape)}"
        )
    low, high = (int(bound) for bound in labels.aminmax())
    num_classes = logits.shape[1]
    if low < 0 or high >= num_classes:
        raise UserError(
            f"{name}: expected labels in 0..{num_classes - 1} for {num_classes} classes of the model, "
            f"got {low}..{high}: map the dataset's labels"
        )


def _sizes(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _outside(images: Tensor) -> str | None:
    low, high = (float(bound) for bound in images.aminmax())
    return None if low >= 0 and high <= 1 else f"[{low:.4g}, {high:.4g}]"
