"""Measures connected components of two label maps: those that are found, and differences in topology.
A. Kirillov, K. He, R. Girshick, C. Rother, P. Dollar, "Panoptic segmentation", CVPR 2019 (matching); J. R. Clough et
al., "A topological loss function for deep-learning based image segmentation using persistent homology", IEEE TPAMI
44(12), 2022 (Betti numbers). Voxels of a class are neighbours if they share a corner (26), of background a face (6)."""

import numpy as np
import numpy.typing as npt

from freqbench.metrics.volumes import Volume, class_maps

Values = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def component_f1(pred: Volume, label: Volume, num_classes: int) -> Values:
    """Returns F1 of the connected components (lesions) of each foreground class: `2 M / (N_pred + N_label)`. M pairs of
    components match: their intersection is more than half of their union, so none has two partners (the recognition
    quality of panoptic segmentation). Float64 `[K]`: 0 if no component is found; NaN if the label does not have the
    class, and for class 0. Raises UserError for shapes that differ, a value that is not a class, over 256 classes.

    Args:
        pred: predicted classes `[H, W, D]`.
        label: true classes `[H, W, D]`.
        num_classes: K, background included.
    """
    from skimage.measure import label as components

    maps = class_maps(pred, label, num_classes)
    # Numbered from 1 on, over all classes.
    parts = [components(classes, background=0, connectivity=3) for classes in maps]
    sizes = [np.bincount(part.ravel()) for part in parts]
    kinds = [np.zeros(len(size), np.intp) for size in sizes]
    for kind, part, classes in zip(kinds, parts, maps, strict=True):
        kind[part.ravel()] = classes.ravel()
    common = (maps[0] == maps[1]) & (maps[0] > 0)
    base = len(sizes[1])
    together = parts[0][common].astype(np.int64) * base + parts[1][common]
    pairs, shared = np.unique(together, return_counts=True)
    predicted, labelled = np.divmod(pairs, base)
    is_matched = 3 * shared > sizes[0][predicted] + sizes[1][labelled]
    matched = np.bincount(kinds[0][predicted[is_matched]], minlength=num_classes)
    in_pred, in_label = (np.bincount(kind[1:], minlength=num_classes) for kind in kinds)
    return np.divide(2.0 * matched, in_pred + in_label, out=np.full(num_classes, np.nan), where=in_label > 0)


def betti_errors(pred: Volume, label: Volume, num_classes: int) -> dict[str, Values]:
    """Returns the differences between the Betti numbers of prediction and label: a column per number, `[K]` per class.
    `betti0_error` counts surplus or missing components, `betti1_error` tunnels and `betti2_error` cavities. NaN if the
    label does not have the class, and for class 0. `pred`, `label`, `num_classes` and errors are those of
    `component_f1`."""
    from scipy.ndimage import find_objects

    maps = class_maps(pred, label, num_classes)
    boxes = [find_objects(classes, num_classes - 1) for classes in maps]
    errors = np.full((num_classes, 3), np.nan)
    for number in range(1, num_classes):
        predicted, labelled = (
            betti_numbers(classes[box[number - 1]] == number) if box[number - 1] else np.zeros(3)
            for classes, box in zip(maps, boxes, strict=True)
        )
        if boxes[1][number - 1]:
            errors[number] = np.abs(predicted - labelled)
    return {f"betti{dimension}_error": errors[:, dimension] for dimension in range(3)}


def betti_numbers(mask: Mask) -> npt.NDArray[np.int64]:
    """Returns the numbers of components, tunnels and cavities (background cut off from outside) of a mask `[H, W, D]`,
    int64 `[3]`; tunnels by the Euler characteristic of the voxels as closed cubes, `b0 - b1 + b2`."""
    from scipy.ndimage import label

    padded = np.pad(mask, 1)
    components = label(padded, np.ones((3, 3, 3)))[1]
    cavities = label(~padded)[1] - 1
    return np.array([components, components + cavities - _euler_characteristic(padded), cavities])


def _euler_characteristic(mask: Mask) -> int:
    """Returns corners - edges + faces - cubes of a mask that has a border of background."""
    cells = [(-1, mask)]
    for axis in range(3):
        # The cell between two neighbours exists if either of them does, and has one dimension less.
        cells += [(-sign, cell | np.roll(cell, 1, axis)) for sign, cell in cells]
    return sum(sign * int(np.count_nonzero(cell)) for sign, cell in cells)
