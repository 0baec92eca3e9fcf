"""Defines what a dataset's label maps tell apart, and a pair of such maps to compare."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from freqbench.core.types import IGNORED, Outputs, Spacing
from freqbench.ops.regions import alone, codes_of_labels, numbers_of, relabelled

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Classes:
    """Classes of a dataset: they exclude each other, or are regions that may overlap.

    Attributes:
        names: of all classes, background first.
        overlap: True for regions: label maps hold codes (`freqbench.ops.regions`), networks have an output a region.
        tolerances_mm: tolerated distance of each foreground class's surface, in millimetres, for the metric `nsd`.
        ignored: labels in the files whose voxels do not count; they are IGNORED in label maps.
        stated: the code of each label in files that hold regions in one map.
        drawn: numbers of the regions as they are drawn over each other; empty: in their order.
    """

    names: tuple[str, ...]
    overlap: bool = False
    tolerances_mm: tuple[float, ...] = ()
    ignored: tuple[int, ...] = ()
    stated: Mapping[int, int] = field(default_factory=dict)
    drawn: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    @property
    def head(self) -> Outputs:
        """The output layer of their networks, by its name in HEADS."""
        return "sigmoid" if self.overlap else "softmax"

    @property
    def order(self) -> tuple[int, ...]:
        """Numbers of the regions, counted from 1, in the order in which they are drawn."""
        return self.drawn or tuple(range(1, len(self)))

    @property
    def of_labels(self) -> list[list[int]]:
        """Numbers of the regions that each label of a shown map lies in, the last in front; empty without regions."""
        return [sorted(numbers_of(code), key=self.order.index) for code in self._codes]

    def shown(self, label: "Tensor") -> "Tensor":
        """Returns a label map to save or to show: of regions, labels whose regions are `of_labels`."""
        return relabelled(label, [*map(self._codes.index, range(len(self._codes)))]) if self.overlap else label

    def unshown(self, label: "Tensor") -> "Tensor":
        """Returns the label map that `shown` made this of."""
        return relabelled(label, self._codes) if self.overlap else label

    def present(self, label: "Tensor") -> frozenset[int]:
        """Returns the numbers of the classes beside the background that a label map has."""
        codes = {code for code, count in enumerate(label.flatten().bincount().tolist()) if count} - {0, IGNORED}
        return frozenset[int]().union(*map(numbers_of, codes)) if self.overlap else frozenset(codes)

    def single(self, number: int) -> "Classes":
        """Returns the region of a `number` from 1 on, or voxels in none (0), as class 1 of two."""
        tolerances = self.tolerances_mm[number - 1 : number] if number else (0.0,)
        return Classes(names=(f"not {self.names[number]}", self.names[number]), tolerances_mm=tolerances)

    @property
    def _codes(self) -> list[int]:
        return codes_of_labels(len(self) - 1, [*self.stated.values()]) if self.overlap else []


@dataclass(frozen=True, kw_only=True)
class LabelMaps:
    """A predicted and a true label map, uint8 `[H, W, D]`, with what their comparison needs; spacing is in
    millimetres."""

    pred: "Tensor"
    label: "Tensor"
    classes: Classes
    spacing: Spacing

    def each(self) -> "list[LabelMaps]":
        """Returns the maps of each region, and of voxels in none, as maps of two classes; of exclusive ones, these."""
        if not self.classes.overlap:
            return [self]
        return [
            replace(self, pred=alone(self.pred, k), label=alone(self.label, k), classes=self.classes.single(k))
            for k in range(len(self.classes))
        ]
