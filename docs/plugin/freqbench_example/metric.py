"""Dice of the boundary, as an example."""

from typing import ClassVar

from torch import Tensor
from torch.nn.functional import max_pool3d

from freqbench.metrics import LabelMetric


class BoundaryDice(LabelMetric):
    """Dice of the voxels of a class with others in a box of 3 mm around: a large organ's inside hides no change."""

    title = "Boundary DSC"
    unit = "fraction"
    direction = "higher"

    millimetres: ClassVar[float] = 3.0

    def score(self, pred: Tensor, label: Tensor, num_classes: int, spacing: tuple[float, float, float]) -> list[float]:
        """Returns the Dice of each class's band; NaN if the label has no boundary of it."""
        reach = [max(1, round(self.millimetres / side)) for side in spacing]
        values = []
        for index in range(num_classes):
            first, second = (_band(labels == index, reach) for labels in (pred, label))
            total = int(first.sum() + second.sum())
            values.append(2 * int((first & second).sum()) / total if second.any() else float("nan"))
        return values


def _band(mask: Tensor, reach: list[int]) -> Tensor:
    """Returns the voxels `[H, W, D]` of a mask with one outside it in a box of that reach."""
    near = (~mask).float()[None]
    for axis, side in enumerate(reach):
        padding = [side * (axis == other) for other in range(3)]
        near = max_pool3d(near, [2 * each + 1 for each in padding], stride=1, padding=padding)
    return mask & (near[0] > 0)
