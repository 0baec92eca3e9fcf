"""Declares every metric and each of its numbers, once: columns, means, tolerances and views follow from METRICS."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

Better = Literal["higher", "lower", ""]  # the better direction for segmentation or volume; empty if neither is better


@dataclass(frozen=True)
class Tolerance:
    """Two numbers agree if they differ by at most `absolute + relative * |stored|`; NaN agrees with NaN only."""

    absolute: float = 0.0
    relative: float = 0.0

    def allows(self, stored: float, found: float) -> bool:
        """True if a number that was `found` agrees with the stored one."""
        within = self.absolute + self.relative * abs(stored)
        return math.isclose(found, stored, rel_tol=0, abs_tol=within) or (math.isnan(stored) and math.isnan(found))

    def __str__(self) -> str:
        parts = [f"{self.absolute:g}"] if self.absolute else []
        parts += [f"{100 * self.relative:g} %"] if self.relative else []
        return " + ".join(parts) or "0"


T = Tolerance
Agreeing = tuple[T, ...]
ADDED_METRIC = T(absolute=0.05, relative=0.25)  # a guess for metrics of other packages, whose scale is not known


@dataclass(frozen=True)
class Number:
    """One number of a metric: a column of records, and of class records if it has an `of_class`."""

    metric: str
    name: str
    unit: str  # empty if it has none
    better: Better
    meaning: str  # empty if it is of classes alone
    agrees: Agreeing = ()  # of the attacked and the clean volume; one: there is no clean one; none: it must be equal
    mean: tuple[str, int] | None = None  # column of classes whose defined values it is the mean of, and the first class
    of_class: str = ""  # meaning there
    in_class: Agreeing = ()  # as `agrees`; none: three times as wide, as a class moves more than the mean
    undefined: tuple[str, int] | None = None  # column of classes whose undefined values it counts, and the first class

    @property
    def is_count(self) -> bool:
        """True for a whole number."""
        return self.unit == "count" and not self.agrees

    def columns(self, of_classes: bool = False) -> Iterator[tuple[str, str, Tolerance]]:
        """Yields its columns in records, or with `of_classes` in class records, each with meaning and tolerance."""
        wide = self.in_class or tuple(T(3 * each.absolute, 3 * each.relative) for each in self.agrees)
        meaning, agrees = (self.of_class, wide) if of_classes else (self.meaning, self.agrees)
        if meaning:
            yield self.name, meaning, (*agrees, T())[0]
            yield from ((f"{self.name}_clean", "the same on the clean volume", each) for each in agrees[1:])


@dataclass(frozen=True)
class Metric:
    """One metric that a job can request. `function`, `module:function` of `freqbench.metrics`, takes some of `pred`,
    `label`, `num_classes`, `spacing` and `tolerances`; returns a value per class: of the first number, or by column."""

    title: str  # heading of a table
    unit: str  # unit of its main column, "1" for a plain number
    direction: Better  # direction of less change or loss
    of: Literal["labels", "probabilities", "volumes"]  # its inputs: of a prediction, or the two volumes
    function: str = ""
    numbers: tuple[Number, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The record columns that it fills, the main one first, and what counts last."""
        ordered = sorted(self.numbers, key=lambda each: (each.is_count, not each.better))
        columns: list[str] = []
        for each in ordered:
            columns += [column for column, *_ in each.columns()]
        return tuple(columns)

    @property
    def has_background(self) -> bool:
        """True if the background has values too, and is in a mean."""
        return any(each.mean and each.mean[1] == 0 for each in self.numbers)


def organ(metric: str, name: str, unit: str, better: Better, meaning: str, *agrees: T, wide: Agreeing = ()) -> Number:
    """Makes a number of each class, whose mean over the foreground the row holds; all but `agrees` and `wide`, the
    tolerances of the mean and of a class, as the fields `metric`, `name`, `unit`, `better` and `meaning` of Number."""
    return Number(metric, name, unit, better, f"{meaning}, foreground classes", agrees, (name, 1), meaning, wide)


def undefined_count(metric: str, column: str, first: int = 1) -> Number:
    """Makes the number of classes, from the class `first` on, that are undefined in a column of class records of a
    `metric`."""
    text = f"foreground classes that the means of {metric} leave out"
    text = text if first else f"classes that {metric} leaves out of its mean"
    return Number(metric, f"{metric}_undefined_classes", "count", "lower", text, undefined=(column, first))


_DICE = (T(0.02), T(0.002))
_SHARE = (T(0.05), T(0.01))
_CLEAN_SURFACE = T(1.0, 0.02)  # one voxel more or less, in voxels or mm
# a class may be a few voxels only
_SURFACE = (T(1.0, 0.25), _CLEAN_SURFACE)
_CLASS = (T(5.0, 2.0), _CLEAN_SURFACE)
# a voxel alone is a component
_BETTI = (T(5, 0.5), T(2, 0.1))
_PARTS = (T(0.3), T(0.3))
_LESIONS = T(112.0), T(112.0)  # 0.3 of the penalty: a voxel may be a lesion
_SIMILAR = (T(0.005),)
_LARGEST = (T(1e-4, 0.2),)
_NORM = (T(0.0, 0.05),)
_BAND = (T(1e-5, 0.05),)
_RELATIVE = T(0.1, 0.25), T(0.01, 0.05)
_GREY = "intensity 0..1"
_HD = "95 % Hausdorff distance"
_WHOLE = "Dice, mean over defined classes with background (published convention)"
_FOREGROUND = "Dice, mean over defined classes without background"
_EXTRA = "foreground classes in the prediction but not in the label"
_PUBLISHED = f"{_HD}, MONAI, with background (published convention)"
_PENALISED = "as hd95_mm, with the volume's diagonal for a missed class"
_LIMIT = "distance within which a surface voxel counts as near, for nsd"
_EMPTY = "Dice as BraTS scores empty regions: 1 if both are empty, 0 if one is"
_LESION_HD = f"lesion-wise {_HD} of BraTS 2023; 374 for what is wrong"
_ECE = "expected calibration error over 15 bins of confidence, all voxels"
_ECE_CLASS = "expected calibration error of the voxels predicted as the class"
_ECE_MEAN = "the same on voxels predicted as a class, foreground classes"
_WRONG = "mean confidence on wrong voxels"
_WRONG_CLASS = "mean confidence on the wrong voxels among these"
_SSIM = "structural similarity of clean and adversarial, whole volume, mean over channels"
_PSNR = "peak signal-to-noise ratio on the 0..255 scale, over all channels"
_ALIKE = "1 - LPIPS (AlexNet), mean over axial slices, as published"
_APART = "LPIPS (AlexNet), mean over axial slices and channels"
_LOW = "mean absolute DCT coefficient of the change, low band, blocks of 8, over all channels"
_SEAM = "mean jump of the change at window borders over that within; 1: no seam"
_CHANGED = "voxels whose predicted class the attack changed"

NUMBERS: tuple[Number, ...] = (
    Number("dsc", "dsc", "fraction", "higher", _WHOLE, _DICE, ("dsc", 0), "Dice of the class", _SHARE),
    Number("dsc", "dsc_foreground", "fraction", "higher", _FOREGROUND, _DICE, ("dsc", 1)),
    Number("dsc", "missed_classes", "count", "lower", "foreground classes in the label but not in the prediction"),
    Number("dsc", "hallucinated_classes", "count", "lower", _EXTRA),
    Number("hd95", "hd95", "voxels", "lower", _PUBLISHED, _SURFACE, ("hd95", 0), f"{_HD}, MONAI", _CLASS),
    organ("hd95", "hd95_mm", "mm", "lower", f"{_HD}, MONAI", *_SURFACE, wide=_CLASS),
    organ("hd95", "hd95_medpy_mm", "mm", "lower", f"{_HD}, medpy", _SURFACE[0], wide=_CLASS[:1]),
    Number("hd95", "hd95_penalised", "mm", "lower", _PENALISED, _SURFACE),
    undefined_count("hd95", "hd95", first=0),
    Number("nsd", "nsd_tolerance_mm", "mm", "", "", of_class=_LIMIT),
    organ("nsd", "nsd", "fraction", "higher", "normalised surface Dice at the tolerance of each class", *_SHARE),
    undefined_count("nsd", "nsd"),
    organ("assd", "assd_mm", "mm", "lower", "average symmetric surface distance", T(0.5, 0.25), T(0.1, 0.05)),
    undefined_count("assd", "assd_mm"),
    organ("volume", "volume_error_ml", "ml", "", "predicted minus true volume", T(1.0, 0.25), T(0.1, 0.05)),
    organ("volume", "volume_error_relative", "ratio", "lower", "its magnitude over the true volume", *_RELATIVE),
    undefined_count("volume", "volume_error_ml"),
    organ("components", "component_f1", "fraction", "higher", "F1 of connected components (IoU above 1/2)", *_PARTS),
    undefined_count("components", "component_f1"),
    organ("topology", "betti0_error", "count", "lower", "components too many or too few", *_BETTI),
    organ("topology", "betti1_error", "count", "lower", "tunnels too many or too few", *_BETTI),
    organ("topology", "betti2_error", "count", "lower", "cavities too many or too few", *_BETTI),
    undefined_count("topology", "betti0_error"),
    organ("brats", "dsc_brats", "fraction", "higher", _EMPTY, *_PARTS),
    organ("brats", "hd95_brats_mm", "mm", "lower", f"the same of the {_HD} (MONAI): 0 and 374", *_LESIONS),
    organ("lesion", "lesion_dice", "fraction", "higher", "lesion-wise Dice of BraTS 2023", *_PARTS),
    organ("lesion", "lesion_hd95_mm", "mm", "lower", _LESION_HD, *_LESIONS),
    organ("lesion", "lesions_missed", "count", "lower", "lesions without a predicted component", *_BETTI),
    organ("lesion", "lesions_false", "count", "lower", "predicted components without a lesion", *_BETTI),
    Number("calibration", "ece", "fraction", "lower", _ECE, _DICE, of_class=_ECE_CLASS),
    Number("calibration", "ece_foreground", "fraction", "lower", _ECE_MEAN, _DICE, ("ece", 1)),
    Number("calibration", "wrong_confidence", "fraction", "lower", _WRONG, (T(0.05), T(0.02)), of_class=_WRONG_CLASS),
    undefined_count("calibration", "ece"),
    Number("ssim", "ssim", "fraction", "higher", _SSIM, _SIMILAR),
    Number("ssim", "ssim_body", "fraction", "higher", "the same inside the body", _SIMILAR),
    Number("psnr", "psnr", "dB", "higher", _PSNR, (T(0.35),)),
    Number("lpips", "lpips_similarity", "1 - distance", "higher", _ALIKE, _SIMILAR),
    Number("lpips", "lpips_distance", "distance", "lower", _APART, _SIMILAR),
    Number("lpips", "lpips_body", "distance", "lower", "LPIPS distance inside the body, mean over channels", _SIMILAR),
    Number("linf", "linf", _GREY, "lower", "largest change of a voxel in any channel", _LARGEST),
    Number("l2", "l2", _GREY, "lower", "Euclidean norm of the change, whole volume, all channels", _NORM),
    Number("l2", "l2_body", _GREY, "lower", "Euclidean norm of the change inside the body", _NORM),
    Number("energy", "energy_low", _GREY, "lower", _LOW, _BAND),
    Number("energy", "energy_middle", _GREY, "lower", "the same in the middle band, nearly all coefficients", _BAND),
    Number("energy", "energy_high", _GREY, "lower", "the same in the high band", _BAND),
    Number("seam", "seam_energy", "ratio", "lower", _SEAM, _NORM),
    Number("voxel_success", "voxel_success", "fraction", "lower", _CHANGED, _DICE[:1]),
)
_PLAIN: Mapping[str, Metric] = {
    "dsc": Metric("DSC", "fraction", "higher", "labels"),
    "hd95": Metric("HD95", "voxel", "lower", "labels", "surface:surface_scores"),
    "nsd": Metric("NSD", "fraction", "higher", "labels", "surface:nsd_scores"),
    "assd": Metric("ASSD", "mm", "lower", "labels", "surface:assd"),
    "volume": Metric("Volume error", "ratio", "lower", "labels", "overlap:volume_scores"),
    "components": Metric("Component F1", "fraction", "higher", "labels", "components:component_f1"),
    "topology": Metric("Topology", "count", "lower", "labels", "components:betti_errors"),
    "brats": Metric("DSC BraTS", "fraction", "higher", "labels", "lesions:brats_scores"),
    "lesion": Metric("Lesion DSC", "fraction", "higher", "labels", "lesions:lesion_scores"),
    "calibration": Metric("ECE", "fraction", "lower", "probabilities"),
    "ssim": Metric("SSIM", "fraction", "higher", "volumes"),
    "psnr": Metric("PSNR", "dB", "higher", "volumes"),
    "lpips": Metric("LPIPS", "1", "higher", "volumes"),
    "linf": Metric("L-inf", "intensity", "lower", "volumes"),
    "l2": Metric("L2", "intensity", "lower", "volumes"),
    "energy": Metric("Energy", "intensity", "lower", "volumes"),
    "seam": Metric("Seams", "ratio", "lower", "volumes"),
    "voxel_success": Metric("Changed voxels", "fraction", "lower", "labels"),
}


def _add_numbers(name: str, metric: Metric) -> Metric:
    return replace(metric, numbers=tuple(each for each in NUMBERS if each.metric == name))


def _metric_by_column() -> Mapping[str, str]:
    found: dict[str, str] = {}
    for name, metric in METRICS.items():
        found |= dict.fromkeys(metric.columns, name)
    return found


def _means() -> Iterator[tuple[str, tuple[str, int]]]:
    for each in NUMBERS:
        if each.mean:
            of_class, first = each.mean
            for column, *_ in each.columns():
                yield column, (of_class + column.removeprefix(each.name), first)


METRICS: Mapping[str, Metric] = {name: _add_numbers(name, metric) for name, metric in _PLAIN.items()}
METRIC_OF: Mapping[str, str] = _metric_by_column()
"""Metric of each column of records."""
MEANS: Mapping[str, tuple[str, int]] = dict(_means())
"""Columns of records that are means of defined values in a column of the classes, with their first class."""
UNDEFINED: Mapping[str, tuple[str, int]] = {each.name: each.undefined for each in NUMBERS if each.undefined}
"""Columns of records that count undefined values in a column of the classes, with their first class."""
