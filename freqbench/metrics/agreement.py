"""Compares two label maps of one network on one grid: the share of alike voxels, and the pattern of the others."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations, product

import numpy as np
import numpy.typing as npt

from freqbench.metrics.volumes import borders
from freqbench.ops.classes import Classes

PROVEN = 0.999  # share of alike voxels from which two maps are one network's: rounding moves a few voxels at ties
# share of the unlike voxels that a pattern has to explain, and that has to lie in one place
EXPLAINS = 0.5
MOST = 0.9
NEAR = 8  # voxels beyond which no shift is sought

Labels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """Words on the way in which two maps differ, and the settings that usually cause it."""

    what: str
    causes: str

    def __str__(self) -> str:
        return f"{self.what}: look at {self.causes}"


def agreement(ours: Labels, theirs: Labels, ties: Mask | None = None) -> tuple[int, int]:
    """Returns the number of alike voxels in the union of both foregrounds, and the union's size. Maps `[...]` hold
    classes or codes of regions; voxels at `ties`, where either class may win, count as alike."""
    union = (ours > 0) | (theirs > 0)
    alike = ours == theirs
    return int(np.count_nonzero((alike if ties is None else alike | ties) & union)), int(np.count_nonzero(union))


def share(ours: Labels, theirs: Labels) -> float:
    """Returns the share of alike voxels in the union of both foregrounds; 1 where both are empty."""
    alike, union = agreement(ours, theirs)
    return alike / union if union else 1.0


def pattern(ours: Labels, theirs: Labels, classes: Classes) -> Pattern:
    """Returns the pattern in which the map `ours` differs from `theirs`, both `[H, W, D]`. A change of the whole map
    (classes exchanged, an axis mirrored, a shift) is the pattern if it explains EXPLAINS of the unlike voxels; a place
    (one class, the borders) if MOST of them lie there."""
    if not ours.any():
        return Pattern(what="it predicts nothing", causes="intensity, channels, input.axes, args")
    if not theirs.any():
        return Pattern(what="the given prediction is empty", causes="the files of predictions")
    before = share(ours, theirs)
    wrong = ours != theirs
    changes = [(share(change(ours), theirs), found) for found, change in _changes(ours, theirs, classes)]
    after, found = max(changes, key=lambda pair: pair[0], default=(before, None))
    if found is not None and after - before >= EXPLAINS * (1 - before):
        return found
    masks = [(name, _mask(ours, k, classes) != _mask(theirs, k, classes)) for k, name in _foreground(classes)]
    counts = [(int(np.count_nonzero(mask)), name) for name, mask in masks]
    if len(counts) > 1 and max(counts)[0] >= MOST * sum(count for count, _ in counts):
        return Pattern(what=f"it differs in {max(counts)[1]} alone", causes="class_map, classes of the data set")
    if np.count_nonzero(wrong & borders(theirs)) >= MOST * np.count_nonzero(wrong):
        causes = "spacing and the way back from it, roi, overlap and weighting of windows"
        return Pattern(what="it differs at the borders of classes", causes=causes)
    return Pattern(what="it differs everywhere", causes="intensity, order of channels, axes, args and migration, roi")


def exchange(ours: Labels, theirs: Labels, classes: Classes) -> dict[int, int]:
    """Returns for each class of `ours` the one of `theirs` that has its voxels, of the best pairing of all. Classes of
    which either map has no voxel keep their number, if it is free."""
    from scipy.optimize import linear_sum_assignment

    numbers = [k for k, _ in _foreground(classes)]
    pairs = np.bincount(ours.ravel() * np.int64(256) + theirs.ravel(), minlength=1 << 16).reshape(256, 256)
    inside = np.array([_mask(np.arange(256, dtype=np.uint8), k, classes) for k in numbers], np.float64)
    common = inside @ pairs @ inside.T + 0.5 * np.eye(len(numbers))  # where nothing tells, a class is itself
    rows, columns = linear_sum_assignment(common, maximize=True)
    return {numbers[row]: numbers[column] for row, column in zip(rows, columns, strict=True)}


def renumber(labels: Labels, pairs: dict[int, int], classes: Classes) -> Labels:
    """Returns a map with the classes, or the regions of each code, under other numbers."""
    made = np.zeros_like(labels)
    for k, other in pairs.items():
        if classes.overlap:
            made |= _mask(labels, k, classes).astype(np.uint8) << (other - 1)
        else:
            made[labels == k] = other
    return made


def _changes(ours: Labels, theirs: Labels, classes: Classes) -> Iterator[tuple[Pattern, Callable[[Labels], Labels]]]:
    """Yields changes of a whole map, each with the pattern that it tells."""
    pairs = exchange(ours, theirs, classes)
    if moved := [classes.names[k] for k, other in pairs.items() if k != other]:
        what = f"the classes {', '.join(moved)} are exchanged"
        causes = "class_map, and the order of the data set's labels"
        yield Pattern(what=what, causes=causes), lambda labels: renumber(labels, pairs, classes)
    axes_causes = "input.axes, Orientation of transforms, and the affines of the predictions' files"
    for order, turned in product(permutations(range(3)), product((False, True), repeat=3)):
        flips = tuple(axis for axis in range(3) if turned[axis])
        if (order == (0, 1, 2) and not flips) or [theirs.shape[axis] for axis in order] != [*theirs.shape]:
            continue
        names = "".join("IJK"[axis] for axis in flips)
        what = f"it is mirrored along {names} of the file" if flips else "it has other axes"
        what += f", and its axes are {''.join('IJK'[axis] for axis in order)}" if order != (0, 1, 2) and flips else ""

        def turn(labels: Labels, order: Sequence[int] = order, flips: tuple[int, ...] = flips) -> Labels:
            return np.flip(labels.transpose(order), flips)

        yield Pattern(what=what, causes=axes_causes), turn
    if any(by := _shift(ours, theirs)):
        what = f"it is shifted by {', '.join(map(str, by))} voxels of the file"
        causes = "the origin in the files' headers, crop, padding and spacing"
        yield Pattern(what=what, causes=causes), lambda labels: np.roll(labels, [-n for n in by], (0, 1, 2))


def _shift(ours: Labels, theirs: Labels) -> tuple[int, int, int]:
    """Returns the voxels by which the foreground of `ours` lies beyond that of `theirs`, where both match best."""
    spectra = [np.fft.rfftn((each > 0).astype(np.float32)) for each in (ours, theirs)]
    match = np.fft.irfftn(spectra[0] * spectra[1].conj(), s=ours.shape, axes=(0, 1, 2))
    at = np.unravel_index(int(match.argmax()), match.shape)
    h, w, d = (int(n) - size if n > size // 2 else int(n) for n, size in zip(at, ours.shape, strict=True))
    return (h, w, d) if max(map(abs, (h, w, d))) <= NEAR else (0, 0, 0)


def _foreground(classes: Classes) -> list[tuple[int, str]]:
    return [*enumerate(classes.names)][1:]


def _mask(labels: Labels, k: int, classes: Classes) -> Mask:
    inside: Mask = (labels >> (k - 1)) & 1 == 1 if classes.overlap else labels == k
    return inside
