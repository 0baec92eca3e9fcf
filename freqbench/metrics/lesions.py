"""Scores label maps as the BraTS challenges do: with values for empty regions, and lesion by lesion.
Source: R. Saluja et al., "BraTS 2023 lesion-wise performance metrics" (github.com/rachitsaluja/BraTS-2023-Metrics),
as it scores adult gliomas; A. Moawad et al., "The Brain Tumor Segmentation (BraTS-METS) challenge 2023",
arXiv:2306.00838. Distances differ: a surface is its voxels as in `freqbench.metrics.surface.hd95` (MONAI); BraTS
weighs them by their area (DeepMind's `surface-distance`)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from freqbench.metrics.overlap import class_mean, confusion, dice_from_confusion
from freqbench.metrics.surface import Mask, hd95, hd95_of_masks
from freqbench.metrics.volumes import Volume, class_maps, lengths

Values = npt.NDArray[np.float64]
Box = tuple[slice, ...]
Numbers = npt.NDArray[np.int64]

PENALTY_MM = 374.0  # the diagonal of BraTS' volumes, 240 x 240 x 155 mm, rounded up
DILATION = 3  # voxels
LEAST_MM3 = 50.0  # voxels of BraTS, whose sides are 1 mm


def brats_scores(pred: Volume, label: Volume, num_classes: int, spacing: Sequence[float]) -> dict[str, Values]:
    """Returns Dice and HD95 with BraTS' values for classes that one of the two maps lacks, or both.

    Both lack the class: Dice 1 and HD95 0 mm. One lacks it: Dice 0 and HD95 374 mm, the penalty of BraTS 2023. Else
    they are `dice` and `hd95` (MONAI's convention, mm). Columns `dsc_brats` and `hd95_brats_mm`, float64 `[K]`: NaN for
    class 0 alone. `pred`, `label`, `num_classes` (K), `spacing` (mm) and errors are those of `hd95`."""
    counts = confusion(pred, label, num_classes)
    in_label = counts.sum(dim=1).cpu().numpy() > 0
    in_pred = counts.sum(dim=0).cpu().numpy() > 0
    empty = [~in_label & ~in_pred, in_label != in_pred]
    columns = {
        "dsc_brats": np.select(empty, [1.0, 0.0], dice_from_confusion(counts)),
        "hd95_brats_mm": np.select(empty, [0.0, PENALTY_MM], hd95(pred, label, num_classes, spacing)),
    }
    for values in columns.values():
        values[0] = np.nan
    return columns


def lesion_scores(pred: Volume, label: Volume, num_classes: int, spacing: Sequence[float]) -> dict[str, Values]:
    r"""Returns the lesion-wise Dice and HD95 of each foreground class, and its numbers of missed and false lesions.

    The label is dilated by three voxels (three times by the 18 neighbours that share a face or an edge). The voxels of
    the label in one component of that are a lesion; all components have 26 neighbours. The components of the prediction
    that touch a lesion's dilation are matched to it together; one may be matched to several lesions. With d and h the
    `brats_scores` of a lesion against all that is matched to it (nothing: 0 and 374 mm), L the lesions above 50 mm^3,
    and F the number of predicted components that are matched to no lesion of any size:

    .. math:: \frac{\sum_{l \in L} d_l}{|L| + F}, \qquad \frac{\sum_{l \in L} h_l + 374 F}{|L| + F}

    Without a lesion in L and a false component they are 1 and 0. BraTS has other dilations and limits for metastases
    and meningiomas; here they are those of gliomas. Columns `lesion_dice`, `lesion_hd95_mm`, `lesions_missed` (in L,
    nothing matched) and `lesions_false` (F), float64 `[K]`: NaN for class 0 alone. `pred`, `label`, `num_classes` (K),
    `spacing` (mm) and errors are those of `hd95`.
    """
    from scipy.ndimage import find_objects
    from skimage.measure import label as components

    predicted, labelled = class_maps(pred, label, num_classes)
    lengths(spacing)  # refuses a wrong one, also where no class is there
    numbers = components(predicted, background=0, connectivity=3)  # [H, W, D], over all classes
    kinds = np.zeros(numbers.max() + 1, np.uint8)
    kinds[numbers.ravel()] = predicted.ravel()
    parts = _Parts(numbers, kinds, find_objects(numbers))
    boxes = [box or (slice(0, 0),) * 3 for box in find_objects(labelled, num_classes - 1)]
    rows = [[np.nan] * 4, *(_score(k, parts, labelled, box, spacing) for k, box in enumerate(boxes, start=1))]
    names = ("lesion_dice", "lesion_hd95_mm", "lesions_missed", "lesions_false")
    return dict(zip(names, np.array(rows).T, strict=True))


class _Parts(NamedTuple):
    """Components of a prediction: their numbers `[H, W, D]`, and the class and the box of each."""

    numbers: Numbers
    kinds: npt.NDArray[np.uint8]
    boxes: Sequence[Box]


def _score(k: int, parts: _Parts, label: npt.NDArray[np.uint8], box: Box, spacing: Sequence[float]) -> list[float]:
    """Returns the four numbers of class `k`, all voxels of which in the label lie in `box`."""
    from scipy import ndimage

    zone = tuple(slice(max(0, side.start - DILATION), side.stop + DILATION) for side in box)
    inside = label[zone] == k
    dilated = _dilate(inside)
    lesions = np.zeros(label.shape, np.int32)
    inner, num_lesions = ndimage.label(dilated, np.ones((3, 3, 3)))
    lesions[zone] = inner
    predicted = parts.numbers[zone]
    touches = dilated & (parts.kinds[predicted] == k)
    pairs = _distinct(inner[touches], predicted[touches])
    false = int(np.count_nonzero(parts.kinds[1:] == k)) - len(np.unique(pairs[1]))
    voxels = np.bincount(inner[inside], minlength=num_lesions + 1)
    volumes = voxels * float(lengths(spacing).prod())
    boxes = [_move(each, zone) for each in ndimage.find_objects(inner)]
    dice = [0.0] * false
    distances = [PENALTY_MM] * false
    missed = 0
    for number in np.flatnonzero(volumes > LEAST_MM3):
        matched = pairs[1, pairs[0] == number]
        around = _hull([boxes[number - 1], *(parts.boxes[part - 1] for part in matched)])
        matching = np.isin(parts.numbers[around], matched)
        lesion = (label[around] == k) & (lesions[around] == number)
        dice.append(_dice(matching, lesion))
        distances.append(hd95_of_masks(matching, lesion, spacing) if matched.size else PENALTY_MM)
        missed += not matched.size
    if not dice:
        return [1.0, 0.0, missed, false]
    return [class_mean(np.array(dice)), class_mean(np.array(distances)), missed, false]


def _dilate(mask: Mask) -> Mask:
    """Returns a mask with the voxels around it, DILATION times by the 18 neighbours that share a face or an edge."""
    from scipy import ndimage

    near = ndimage.generate_binary_structure(3, 2)
    return ndimage.binary_dilation(mask, near, iterations=DILATION)


def _dice(first: Mask, second: Mask) -> float:
    return 2.0 * np.count_nonzero(first & second) / (np.count_nonzero(first) + np.count_nonzero(second))


def _distinct(first: Numbers, second: Numbers) -> Numbers:
    """Returns the pairs `[2, N]` of two lists, each pair once; neighbours in the lists are often equal."""
    base = np.int64(second.max(initial=0) + 1)
    keys = first * base + second
    keys = np.unique(keys[np.diff(keys, prepend=-1) != 0])
    return np.stack(np.divmod(keys, base))


def _move(box: Box, zone: Box) -> Box:
    """Returns a box of a zone in the zone's volume."""
    return tuple(slice(side.start + of.start, side.stop + of.start) for side, of in zip(box, zone, strict=True))


def _hull(boxes: Sequence[Box]) -> Box:
    """Returns the smallest box around some."""
    hull: list[slice] = []
    for sides in zip(*boxes, strict=True):
        first = min(side.start for side in sides)
        last = max(side.stop for side in sides)
        hull.append(slice(first, last))
    return tuple(hull)
