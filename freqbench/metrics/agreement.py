"""Compares two label maps of one network on one grid: the share of alike voxels, and the pattern of the others."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import permutations, product
from operator import itemgetter

import numpy as np
import numpy.typing as npt

from freqbench.metrics.volumes import borders
from freqbench.ops.classes import Classes
from freqbench.ops.regions import codes_of_labels

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


Change = tuple[Pattern, Callable[[Labels], Labels]]  # of a whole map, with the pattern that it tells


def agreement(ours: Labels, theirs: Labels) -> tuple[int, int]:
    """Returns the number of alike voxels in the union of both foregrounds, and the union's size. `ours` and `theirs`
    are label maps of one shape, of classes or of codes of regions; 0 is background."""
    union = (ours > 0) | (theirs > 0)
    return int(np.count_nonzero((ours == theirs) & union)), int(np.count_nonzero(union))


def agreement_by_class(ours: Labels, theirs: Labels, classes: Classes) -> dict[int, tuple[int, int]]:
    """Returns the same for each foreground class, or region, that either map has. Both maps have these `classes`."""
    pairs, inside = _counts(ours, theirs, classes)
    alike = (inside @ pairs * inside).sum(axis=1)
    union = inside @ (pairs.sum(axis=0) + pairs.sum(axis=1)) - alike
    return {k: (int(alike[k - 1]), int(union[k - 1])) for k, _ in _foreground(classes) if union[k - 1]}


def drawn(codes: Labels, classes: Classes) -> Labels:
    """Returns codes of regions as a label map can express them: of the regions of a voxel the innermost, or the last
    that is drawn, with all that contain it. `classes` tell the codes of the labels in files."""
    numbers = range(1, len(classes))
    own = codes_of_labels(len(numbers), [*classes.stated.values()])
    table = np.zeros(256, np.uint8)
    for k in classes.drawn or sorted(numbers, key=lambda k: own[k].bit_count()):
        table[_mask(np.arange(256, dtype=np.uint8), k, classes)] = own[k]
    made: Labels = table[codes]
    return made


def share(ours: Labels, theirs: Labels) -> float:
    """Returns the share of alike voxels in the union of both foregrounds; 1 where both are empty. `ours` and `theirs`
    are those of `agreement`."""
    alike, union = agreement(ours, theirs)
    return alike / union if union else 1.0


def pattern(ours: Labels, theirs: Labels, classes: Classes) -> Pattern:
    """Returns the pattern in which one label map differs from another.

    A change of the whole map (classes exchanged, an axis mirrored, a shift) is the pattern if it explains EXPLAINS of
    the unlike voxels; a place (one class, the borders) if MOST of them lie there.

    Args:
        ours: the map that is explained, `[H, W, D]`.
        theirs: the map that it should be, `[H, W, D]`.
        classes: of both maps.
    """
    if not ours.any():
        return Pattern(what="it predicts nothing", causes="intensity, channels, input.axes, args")
    if not theirs.any():
        return Pattern(what="the given prediction is empty", causes="the files of predictions")
    found = _change_of_all(ours, theirs, classes) or _one_place(ours, theirs, classes)
    return found or Pattern(
        what="it differs everywhere", causes="intensity, order of channels, axes, args and migration, roi"
    )


def _change_of_all(ours: Labels, theirs: Labels, classes: Classes) -> Pattern | None:
    """Returns the change of the whole map that explains most, if it explains EXPLAINS of the unlike voxels."""
    before = share(ours, theirs)
    changes = [(share(change(ours), theirs), found) for found, change in _changes(ours, theirs, classes)]
    after, found = max(changes, key=itemgetter(0), default=(before, None))
    return found if after - before >= EXPLAINS * (1 - before) else None


def _one_place(ours: Labels, theirs: Labels, classes: Classes) -> Pattern | None:
    """Returns the class, or else the borders, where MOST of the unlike voxels lie."""
    counts = []
    for k, name in _foreground(classes):
        unlike = _mask(ours, k, classes) != _mask(theirs, k, classes)
        counts.append((int(np.count_nonzero(unlike)), name))
    most, where = max(counts, default=(0, ""))
    if len(counts) > 1 and most >= MOST * sum(count for count, _ in counts):
        return Pattern(what=f"it differs in {where} alone", causes="class_map, classes of the data set")
    wrong = ours != theirs
    if np.count_nonzero(wrong & borders(theirs)) >= MOST * np.count_nonzero(wrong):
        causes = "spacing and the way back from it, roi, overlap and weighting of windows"
        return Pattern(what="it differs at the borders of classes", causes=causes)
    return None


def exchange(ours: Labels, theirs: Labels, classes: Classes) -> dict[int, int]:
    """Returns for each class of `ours` the one of `theirs` that has its voxels, of the best pairing of all. Classes of
    which either map has no voxel keep their number, if it is free. Both maps have these `classes`."""
    from scipy.optimize import linear_sum_assignment

    pairs, inside = _counts(ours, theirs, classes)
    common = inside @ pairs @ inside.T + 0.5 * np.eye(len(inside))  # where nothing tells, a class is itself
    rows, columns = linear_sum_assignment(common, maximize=True)
    return {int(row) + 1: int(column) + 1 for row, column in zip(rows, columns, strict=True)}


def _counts(ours: Labels, theirs: Labels, classes: Classes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Returns the voxels of each pair of numbers, `[256, 256]`, and the numbers that each foreground class has."""
    pairs = np.bincount(ours.ravel() * np.int64(256) + theirs.ravel(), minlength=1 << 16).reshape(256, 256)
    every = np.arange(256, dtype=np.uint8)
    return pairs, np.array([_mask(every, k, classes) for k, _ in _foreground(classes)], np.float64)


def renumber(labels: Labels, pairs: dict[int, int], classes: Classes) -> Labels:
    """Returns a map with its classes, or the regions of each code, under other numbers.

    Args:
        labels: the map, in any shape.
        pairs: the new number of each foreground class, by its number in `labels`.
        classes: of the map, which tell whether it holds codes of regions.
    """
    made = np.zeros_like(labels)
    for k, other in pairs.items():
        if classes.overlap:
            made |= _mask(labels, k, classes).astype(np.uint8) << (other - 1)
        else:
            made[labels == k] = other
    return made


def _changes(ours: Labels, theirs: Labels, classes: Classes) -> Iterator[Change]:
    """Yields changes of a whole map: classes exchanged, axes turned, a shift."""
    yield from _exchanges(ours, theirs, classes)
    yield from _turns(theirs)
    yield from _shifts(ours, theirs)


def _exchanges(ours: Labels, theirs: Labels, classes: Classes) -> Iterator[Change]:
    pairs = exchange(ours, theirs, classes)
    if moved := [classes.names[k] for k, other in pairs.items() if k != other]:
        what = f"the classes {', '.join(moved)} are exchanged"
        causes = "class_map, and the order of the data set's labels"
        yield Pattern(what=what, causes=causes), partial(renumber, pairs=pairs, classes=classes)


def _turns(theirs: Labels) -> Iterator[Change]:
    """Yields each order and direction of a map's axes, beside its own, that gives it the shape of `theirs`."""
    causes = "input.axes, Orientation of transforms, and the affines of the predictions' files"
    for order, against in product(permutations(range(3)), product((False, True), repeat=3)):
        flips = tuple(axis for axis in range(3) if against[axis])
        is_exchanged = order != (0, 1, 2)
        if not (is_exchanged or flips) or [theirs.shape[axis] for axis in order] != [*theirs.shape]:
            continue
        what = f"it is mirrored along {_letters(flips)} of the file" if flips else "it has other axes"
        what += f", and its axes are {_letters(order)}" if is_exchanged and flips else ""
        yield Pattern(what=what, causes=causes), partial(_turn, order=order, flips=flips)


def _letters(axes: Sequence[int]) -> str:
    return "".join("IJK"[axis] for axis in axes)


def _turn(labels: Labels, order: Sequence[int], flips: tuple[int, ...]) -> Labels:
    return np.flip(labels.transpose(order), flips)


def _shifts(ours: Labels, theirs: Labels) -> Iterator[Change]:
    by = _shift(ours, theirs)
    if any(by):
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
