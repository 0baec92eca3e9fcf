"""Metrics of installed packages: their base class, the text by which rows name one, and a call of one."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from freqbench.core.code import provenance
from freqbench.core.errors import UserError, one_line
from freqbench.core.plugins import installed_names, load_class, package_of
from freqbench.metrics.overlap import Values
from freqbench.metrics.volumes import Volume, class_maps


class LabelMetric(ABC):
    """A metric of a predicted and a true label map, which a package adds by the entry points `freqbench.metrics`.

    Records hold the mean over foreground classes with a defined value, of the adversarial volume's prediction and, as
    `NAME_clean`, of the clean one's; class records hold the single values.

    Attributes:
        title: heading of a table.
        unit: unit of the values, "1" for a plain number.
        direction: direction of the better values.
    """

    title: ClassVar[str]
    unit: ClassVar[str]
    direction: ClassVar[Literal["higher", "lower"]]

    @abstractmethod
    def score(
        self, pred: Tensor, label: Tensor, num_classes: int, spacing: tuple[float, float, float]
    ) -> Sequence[float] | Values | Tensor:
        """Returns one number per class, `[num_classes]`, the background first; NaN where a class has none.

        Args:
            pred: predicted classes, uint8 `[H, W, D]` on the CPU; of regions, each comes alone as class 1 of two.
            label: true classes, likewise. Voxels that do not count are background in both.
            num_classes: classes, the background among them.
            spacing: millimetres per voxel along H, W and D.
        """


def name_of(text: str) -> str:
    """Returns the name in the text by which rows name a metric of an installed package."""
    return text.partition("@")[0]


def resolved(text: str) -> str:
    """Returns the text by which rows name a metric of an installed package: `NAME@PACKAGE VERSION SOURCE`. SOURCE is 8
    hex digits of its code's identity: a row of another version or code does not cover the metric. Takes the name alone,
    or the text of any version. Raises a UserError if no installed package adds it."""
    name, _, made_by = text.partition("@")
    if name in installed_names("metrics"):
        source = provenance(type(load(name)))["code"]
        return f"{name}@{package_of('metrics', name)} {source[-8:]}"  # the last, which tell runs apart
    package, _, version = made_by.rpartition(" ")[0].rpartition(" ")
    expected = f"expected the package {package} ({version}), which adds it, found none"
    raise UserError(f"the metric {name}: {expected}: pip install {package}")


def load(name: str) -> LabelMetric:
    """Returns the metric of an installed package by its `name`, imported; UserError if it is not as a LabelMetric
    should be."""
    cls = load_class(installed_names("metrics")[name], LabelMetric)
    for key, expected in (("title", "a text"), ("unit", "a text"), ("direction", "'higher' or 'lower'")):
        got = getattr(cls, key, None)
        if not isinstance(got, str) or (key == "direction" and got not in ("higher", "lower")):
            of = package_of("metrics", name)
            raise UserError(f"the metric {name} of {of}: expected {expected} as `{key}`, got {got!r}")
    metric: LabelMetric = cls()
    return metric


def added_scores(
    text: str, pred: Volume, label: Volume, num_classes: int, spacing: tuple[float, float, float]
) -> Values:
    """Returns the values of a metric of an installed package: float64 `[K]`.

    Raises a UserError that names the metric if it raises, or gives anything but K numbers that are finite or NaN.

    Args:
        text: the metric's name, or the text by which rows name it.
        pred: predicted classes `[H, W, D]`.
        label: true classes `[H, W, D]`.
        num_classes: K, background included.
        spacing: sides of a voxel in millimetres along H, W, D.
    """
    metric = load(name_of(text))
    classes, truth = map(torch.tensor, class_maps(pred, label, num_classes))  # copies, as others read them after it
    try:
        return checked(metric.score(classes, truth, num_classes, spacing), num_classes)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # it is code of others, which may also end itself, with sys.exit
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        raise UserError(f"the metric {text}: {kind}{one_line(error)}") from error


def checked(given: object, num_classes: int) -> Values:
    """Returns what a LabelMetric has `given` as float64 `[K]`; UserError for all but K = `num_classes` numbers that are
    finite or NaN."""
    values = np.array(given)
    fits = values.shape == (num_classes,) and values.dtype.kind in "fiu"
    if not fits or np.isinf(values).any():
        got = "an infinite one" if fits else f"{values.dtype} of shape {values.shape}"
        raise UserError(f"expected {num_classes} numbers, one a class, NaN where it has none, got {got}")
    return values.astype(np.float64)
