"""Checks the arguments of an attack's call and the logits of its model.

Each check raises a UserError that begins with the attack's name.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from freqbench.core.errors import UserError
from freqbench.core.plugins import kind_of
from freqbench.core.types import IGNORED
from freqbench.ops.heads import Head
from freqbench.ops.regions import MOST_REGIONS

Start = Tensor | Mapping[str, Tensor]

NO_USE = "this attack has no use for"
NEEDS: Mapping[str, tuple[str, str]] = {
    "reference": ("a reference, got none: give volumes of another case", f"no reference, got one: {NO_USE} it"),
    "learned": (
        "what it learned, got none: give learned=attack.learn(model, ...)",
        "nothing learned, got a tensor: this attack learns from no other case",
    ),
    "surrogates": ("surrogates, got none: give networks, surrogates=[...]", f"no surrogates, got some: {NO_USE} them"),
}
"""Extra arguments that an attack may need, each with two complaints: for a missing one and for a useless one."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """Extra arguments of an attack's call, beside volumes and labels.

    Attributes:
        start: replaces the draws, in the layout of the attack's docstring; None: the attack draws.
        reference: volumes of other cases, one per sample; None if the attack needs none.
        learned: result of learning from other cases; None if the attack learns nothing.
        surrogates: networks whose gradients the attack follows.
    """

    start: Start | None = None
    reference: Tensor | None = None
    learned: Tensor | None = None
    surrogates: tuple[nn.Module, ...] = ()


NOTHING = Given()


def check_volumes(name: str, images: Tensor, labels: Tensor, *, joint: bool) -> None:
    """Checks for images `[B, C, H, W, D]` in [0, 1] and integer labels `[B, 1, H, W, D]`; `joint`: one volume's. `name`
    begins each error."""
    if images.ndim != 5 or 0 in images.shape:
        got = _sizes(images.shape)
        raise UserError(f"{name}: expected images [B, C, H, W, D], got {got}: add batch and channel axes")
    if images.dtype not in (torch.float32, torch.float64):
        raise UserError(f"{name}: expected float32 or float64 images, got {images.dtype}: convert them")
    shape = (1, 1, *labels.shape[2:]) if joint else (len(images), 1, *images.shape[2:])
    if labels.shape != shape:
        got = f"{_sizes(shape)}, got {_sizes(labels.shape)}"
        raise UserError(f"{name}: expected labels [B, 1, H, W, D] beside the images, {got}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise UserError(f"{name}: expected integer labels, got {labels.dtype}: convert them")
    if outside := _outside(images):
        reason = "rescale intensities in the dataset, not in the attack."
        raise UserError(f"{name}: expected images in [0, 1], got {outside}: {reason}")


def checked_volumes(name: str, given: object, clean: Tensor) -> Tensor:
    """Returns the volumes `given` by an attack for clean ones, without their graph; UserError, which begins with
    `name`, unless they are of their kind."""
    if not isinstance(given, Tensor):
        raise UserError(
            f"{name}: expected a tensor of volumes from the attack, got {kind_of(given)}: return the tensor"
        )
    for what, wanted, got, advice in (
        ("shape", _sizes(clean.shape), _sizes(given.shape), "return one volume a clean one, with all its axes"),
        ("dtype", clean.dtype, given.dtype, "return them converted, .to(task.clean)"),
        ("device", clean.device, given.device, "return them moved, .to(task.clean)"),
    ):
        if got != wanted:
            raise UserError(
                f"{name}: expected volumes of the clean ones' {what} from the attack, {wanted}, got {got}: {advice}"
            )
    return given.detach()


def ends_of(name: str, volumes: Tensor) -> tuple[float, float]:
    """Returns the least and greatest voxel of an attack's `volumes`; UserError, which begins with `name`, if a voxel is
    not finite."""
    low, high = (float(bound) for bound in volumes.aminmax())
    if not math.isfinite(low + high):
        count = volumes.numel() - int(volumes.isfinite().sum())
        raise UserError(
            f"{name}: expected finite volumes from the attack, got {count} of {volumes.numel()} voxels that are NaN or "
            "infinite: check its divisions, roots and logarithms, and the network's logits"
        )
    return low, high


def check_given(name: str, needs: Collection[str], given: Given, images: Tensor) -> None:
    """Checks that the arguments that an attack `needs` are given, and no others, and that a reference suits the images;
    UserError begins with `name`."""
    for need, (missing, useless) in NEEDS.items():
        value = getattr(given, need)
        is_given = value is not None and not (isinstance(value, tuple) and len(value) == 0)
        if is_given != (need in needs):
            raise UserError(f"{name}: expected {useless if is_given else missing}")
    if given.reference is None:
        return
    if given.reference.shape != images.shape:
        got = f"{_sizes(images.shape)}, got {_sizes(given.reference.shape)}"
        raise UserError(f"{name}: expected a reference of the images' shape {got}: resize it")
    if outside := _outside(given.reference):
        raise UserError(f"{name}: expected a reference in [0, 1], got {outside}: rescale it")


def check_logits(name: str, logits: Tensor, labels: Tensor, head: Head, *, has_ignored: bool) -> None:
    """Checks for logits `[B, K, H, W, D]` on the grid of the labels, and for labels in 0..K-1, or codes of K regions by
    `head`; UserError begins with `name`.

    `has_ignored`: some voxels had the label IGNORED, which must be none of the classes.
    """
    batch, _, *space = labels.shape
    if logits.ndim != 5 or logits.shape[0] != batch or list(logits.shape[2:]) != space:
        raise UserError(
            f"{name}: expected logits [{batch}, K, {', '.join(map(str, space))}] from the model, "
            f"got {list(logits.shape)}"
        )
    low, high = (int(bound) for bound in labels.aminmax())
    num_classes = logits.shape[1]
    if head.name == "sigmoid":
        if low < 0 or high >= 1 << num_classes or num_classes > MOST_REGIONS:
            raise UserError(
                f"{name}: expected codes of {num_classes} regions of the model (at most {MOST_REGIONS}), got "
                f"{low}..{high}: give labels of as many regions as the model has outputs"
            )
        return
    if has_ignored and num_classes > IGNORED:
        raise UserError(
            f"{name}: expected at most {IGNORED} classes of a model beside voxels that do not count, got {num_classes}"
        )
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
