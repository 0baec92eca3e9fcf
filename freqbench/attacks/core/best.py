"""Keeps the best volumes that an attack has evaluated, sample by sample."""

import torch
from torch import Tensor


class Best:
    """Keeps the offered tensors with the highest value, sample by sample, without waiting for the device.

    `values` are the highest so far, `[B]`, `kept` the tensors that came with them, each `[B, ...]`; both are empty
    before the first offer. With `by_success`, values come from `Task.success`. These change in jumps, so the last of
    equal values is kept, because the loss may still have risen; otherwise the first is kept.
    """

    def __init__(self, *, by_success: bool = False) -> None:
        self.by_success = by_success
        self._is_above = torch.ge if by_success else torch.gt
        self.values = torch.empty(0)
        self.kept: tuple[Tensor, ...] = ()

    def offer(self, values: Tensor, *tensors: Tensor) -> None:
        """Takes the samples whose value beats the value kept so far; the first offer is taken whole."""
        if not self.kept:
            self.values, self.kept = values, tensors
            return
        better = self._is_above(values, self.values)
        self.values = torch.where(better, values, self.values)
        pairs = zip(tensors, self.kept, strict=True)
        self.kept = tuple(torch.where(across(better, new), new, old) for new, old in pairs)


def across(mask: Tensor, like: Tensor) -> Tensor:
    """Reshapes a mask of samples `[B]` so that it broadcasts over a tensor `[B, ...]`."""
    return mask.reshape(-1, *[1] * (like.ndim - 1))
