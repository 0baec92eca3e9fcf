"""Holds regions that overlap in one label map: bit k of a voxel's code says that it lies in region k.

A network of regions has one sigmoid output a region and none for the background. Class 0 of a dataset of regions is the
background, voxels in no region (code 0); class k is region k, bit k - 1 of a code. Maps that are saved or shown have
labels in place of codes, one for each set of regions: see `codes_of_labels`.
"""

from collections.abc import Iterable, Sequence
from functools import reduce
from operator import and_
from typing import TYPE_CHECKING

from freqbench.core.types import IGNORED

if TYPE_CHECKING:
    from torch import Tensor

MOST_REGIONS = 7  # codes are uint8, whose two highest values have a meaning already


def code_of(regions: Iterable[int]) -> int:
    """Returns the code of a voxel that lies in these regions, counted from 1.

    >>> code_of([1, 3])
    5
    """
    return sum(1 << region - 1 for region in regions)


def numbers_of(code: int) -> list[int]:
    """Returns the regions of a code, counted from 1.

    >>> numbers_of(5)
    [1, 3]
    """
    return [bit + 1 for bit in range(MOST_REGIONS) if code >> bit & 1]


def members(codes: "Tensor", region: int) -> "Tensor":
    """Returns the voxels in a region, counted from 1, as bool in the shape of `codes`; 0: those in none. IGNORED voxels
    are in none."""
    inside = (codes >> region - 1) & 1 == 1 if region else codes == 0
    return inside & (codes != IGNORED)


def alone(codes: "Tensor", region: int) -> "Tensor":
    """Returns the label map of one region, uint8 in the shape of `codes`: 1 inside (0: in no region), 0 outside;
    IGNORED stays."""
    import torch

    return torch.where(codes == IGNORED, codes, members(codes, region)).to(torch.uint8)


def codes_of_labels(num_regions: int, stated: Iterable[int]) -> list[int]:
    """Returns the code of each label of a map that is saved or shown.

    Label 0 is no region, label k region k with all regions that contain it, and the labels above are all other sets of
    regions. `stated` are the codes of the labels in files: they tell which regions contain others.

    >>> codes_of_labels(3, [0, 1, 3, 7])
    [0, 1, 3, 7, 2, 4, 5, 6]
    """
    own = []
    for bit in (1 << place for place in range(num_regions)):
        holders = [code for code in stated if code & bit]
        own.append(reduce(and_, holders) if holders else bit)
    return [*dict.fromkeys((0, *own, *range(1 << num_regions)))]


def relabelled(labels: "Tensor", table: Sequence[int]) -> "Tensor":
    """Returns a label map like `labels`, uint8, with `table[v]` in place of v; values beyond the table stay."""
    import torch

    values = torch.arange(256, dtype=torch.uint8, device=labels.device)
    values[: len(table)] = torch.tensor(table, dtype=torch.uint8)
    return values[labels.int()]


def inside(codes: "Tensor", num_regions: int) -> "Tensor":
    """Returns bool `[B, K, H, W, D]`, K being `num_regions`, from codes `[B, 1, H, W, D]` without voxels that do not
    count."""
    import torch

    bits = torch.arange(num_regions, device=codes.device).reshape(1, -1, *[1] * (codes.dim() - 2))
    return (codes.long() >> bits) & 1 == 1


def codes_of(inside: "Tensor") -> "Tensor":
    """Returns the codes, uint8 `[...]`, of membership `inside`, bool `[K, ...]`."""
    import torch

    codes = torch.zeros(inside.shape[1:], dtype=torch.uint8, device=inside.device)
    for bit, region in enumerate(inside):
        codes |= region.to(torch.uint8) << bit
    return codes
