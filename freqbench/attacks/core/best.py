"""Keeps the best that an attack has looked at, sample by sample."""

import torch
from torch import Tensor


class Best:
    """Of all that was offered, what has the highest value, sample by sample, without asking the device.

    `values` are the highest so far, `[B]`, `kept` the tensors that came with them, each `[B, ...]`; both are empty
    before the first offer. With `by_success`, values are those of `Task.success`: they move in leaps, so that of equal
    ones the last is kept, as the loss still rises; else the first.
    """

    def __init__(self, *, by_success: bool = False) -> None:
        self.by_success = by_success
        self._is_above = torch.ge if by_success else torch.gt
        self.values = torch.empty(0)
        self.kept: tuple[Tensor, ...] = ()

    def offer(self, values: Tensor, *tensors: Tensor) -> None:
        """Take the samples whose value beats the one that is kept; the first offer is taken whole."""
        if not self.kept:
            self.values, self.kept = values, tensors
            return
        better = self._is_above(values, self.values)
        self.values = torch.where(better, values, self.values)
        pairs = zip(tensors, self.kept, strict=True)
        self.kept = tuple(torch.where(across(better, new), new, old) for new, old in pairs)


def across(mask: Tensor, like: Tensor) -> Tensor:
    """A mask of samples `[B]` that meets a tensor `[B, ...]`."""
    return mask.reshape(-1, *[1] * (like.ndim - 1))
