"""Holds a network's clean predictions against those of its own code, not labels: the proof that it runs as meant."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from freqbench.core.errors import DataError
from freqbench.core.terminal import amount
from freqbench.core.types import Case, CaseRef, FileLabel, NativeCase, triple
from freqbench.data import Dataset, ListedFolder
from freqbench.data.preprocess import prepare
from freqbench.data.witnesses import read
from freqbench.engine import memory
from freqbench.metrics.agreement import PROVEN, Pattern, agreement, agreement_by_class, drawn, pattern
from freqbench.models import ModelSpec, SegmentationModel
from freqbench.models.inference import LABELS, Wanted, num_windows
from freqbench.ops.classes import Classes
from freqbench.ops.regions import codes_of
from freqbench.pipelines import AnySpace, Pipeline

PROOF = "proven by its own predictions"
PARTLY = "proven in part, by its own predictions"
NOTHING = "not shown by its own predictions"
OF_CLASS = 0.99  # share of a class's alike voxels from which it is proven: of fewer than 100, all but ties
# Leads that rounding bridges, as part of the logits' mean size: of windows in float16, and in float32.
HALF = 2**-10
SINGLE = 2**-14
AHEAD = 0.1  # Dice by which another output has to be ahead of a class's own to be it
IS_ONE = 0.5  # Dice from which an output may be a class
INTERPOLATED = ""
NEAREST = "labels restored by the nearest voxel"
Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A map of the dataset's classes that a file may mean."""

    labels: Labels
    outputs: npt.NDArray[Any] | None = None  # the outputs, if classes are theirs by a class map or their order alone


@dataclass(frozen=True, kw_only=True)
class Held:
    """A clean prediction of one case held against the network's own, on the file's grid."""

    case_id: str
    alike: int  # voxels, see `metrics.agreement.agreement`
    union: int
    classes: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # the same of each; (0, 0): neither map has it
    way: str = INTERPOLATED  # how predictions go back to the file, if it is not as scores do
    pattern: Pattern | None = None  # the way in which they differ; None: they do not
    told: frozenset[str] = frozenset()  # settings without which this case would be predicted otherwise

    @property
    def unlike(self) -> tuple[str, ...]:
        """The classes that are other."""
        return tuple(name for name, (alike, union) in self.classes.items() if alike < OF_CLASS * union)

    @property
    def share(self) -> float:
        """The share of alike voxels, of an unlike class if one has less; 1 where both maps are empty."""
        pairs = [self.classes[name] for name in self.unlike]
        return min(alike / max(1, union) for alike, union in [(self.alike, self.union), *pairs]) if self.union else 1.0

    @property
    def is_other(self) -> bool:
        """True if more than rounding tells them apart."""
        return self.share < PROVEN

    @property
    def is_proven(self) -> bool:
        """True if nothing but rounding tells them apart, and there is something to tell."""
        return self.union > 0 and not self.is_other


def readings(path: str, native: NativeCase, dataset: Dataset, spec: ModelSpec) -> list[Reading]:
    """Returns the maps `[H, W, D]` of the dataset's classes that a file may mean. Its numbers are those of the
    dataset's files, or of the network's outputs, if a class map tells them; several channels are one an output. Raises
    DataError for another grid, or numbers that are neither.

    Args:
        path: the file that the network's own code wrote.
        native: the case as its files hold it, on the same grid.
        dataset: the dataset of the case.
        spec: the network.
    """
    numbers = read(path, native)
    if numbers.ndim == 4:  # probabilities, a channel an output of the network
        if len(numbers) != spec.num_outputs:
            raise DataError(
                f"{path}: expected a channel for each of the {spec.num_outputs} outputs of {spec.name}, got "
                f"{len(numbers)}: give label maps, or all probabilities"
            )
        return [_likeliest(numbers, spec)]
    values = np.unique(numbers).tolist()
    tables = _tables(dataset, spec)
    fitting = [(table, is_led) for table, is_led in tables if {*values} <= {0, *table}]
    if not fitting:
        known = sorted({*values} - {0, *(tables[0][0] if tables else ())})
        raise DataError(
            f"{path}: expected a label map of the classes of {dataset.name}, got the number {known[0]}: give "
            "the network's own label maps, with the numbers of the data set's files"
        )
    meant: list[Reading] = []
    for table, is_led in fitting:
        labels = np.zeros(numbers.shape, np.uint8)
        for value in values:
            labels[numbers == value] = table.get(value, 0)
        meant.append(Reading(labels=labels, outputs=numbers if is_led else None))
    return meant


def _likeliest(numbers: npt.NDArray[Any], spec: ModelSpec) -> Reading:
    """Returns the label map of a network's probabilities `[outputs, H, W, D]`."""
    groups = spec.class_map or tuple((k,) for k in range(len(numbers)))
    if spec.head == "sigmoid":
        kept = [outputs[0] for outputs in (groups[1:] if spec.class_map else groups)]
        return Reading(labels=codes_of(torch.from_numpy(numbers[kept] > 0.5)).numpy())
    of_class = np.stack([numbers[[*outputs]].sum(axis=0) for outputs in groups])
    outputs = None if _is_by_name(spec) else numbers.argmax(axis=0)
    return Reading(labels=of_class.argmax(axis=0).astype(np.uint8), outputs=outputs)


def _is_by_name(spec: ModelSpec) -> bool:
    return any("by their names" in line for line in spec.found)


def _tables(dataset: Dataset, spec: ModelSpec) -> list[tuple[dict[int, int], bool]]:
    """Returns the label of each number in a file, by the dataset's files and perhaps by the network's outputs; true if
    a class map that has no names leads there."""
    classes = dataset.classes
    tables: list[tuple[dict[int, int], bool]] = []
    if isinstance(dataset, ListedFolder) and dataset.reference == "label":
        tables.append((dict(dataset.reading.of_value), False))
    elif classes.overlap:
        tables.append((dict(classes.stated), False))
    else:
        tables.append(({k: k for k in range(len(classes))}, False))
    is_by_name = _is_by_name(spec)
    if spec.class_map and spec.head == "softmax" and (is_by_name or spec.num_outputs != len(classes)):
        of_output: dict[int, int] = {}
        for k, outputs in enumerate(spec.class_map):
            of_output |= dict.fromkeys(outputs, k)
        tables.append((of_output, not is_by_name))
    return tables


def predictions(
    model: SegmentationModel, spec: ModelSpec, dataset: Dataset, native: NativeCase
) -> Iterator[tuple[str, Labels]]:
    """Yields the clean prediction of a case, `native` as its files hold it, on the grid of its file, by each way in
    which authors bring it there. `model` is the network of `spec`, whose space, or else that of `dataset`, it sees."""
    case = _prepared(spec, dataset, native)
    for way, labels, _ in _predicted(model, spec.space or dataset.space, case, native, LABELS):
        yield way, labels


def _prepared(spec: ModelSpec, dataset: Dataset, native: NativeCase) -> Case:
    case = prepare(native, spec.space or dataset.space, classes=dataset.classes)
    return replace(case, label=torch.zeros_like(case.label)) if dataset.reference == "prediction" else case


def _predicted(
    model: SegmentationModel, space: AnySpace, case: Case, native: NativeCase, wanted: Wanted
) -> Iterator[tuple[str, Labels, npt.NDArray[Any] | None]]:
    """Yields each way to the file, the labels there, and how far the largest logit is ahead, if that is wanted."""
    file = FileLabel(label=native.label, affine=native.affine, spacing=native.spacing)
    made, _ = memory.segment(model.drop_defence(), case, memory.INFERENCE_WINDOWS, wanted, to=(file, space))
    lead = made.scored.confidence
    yield INTERPOLATED, made.scored.labels.numpy(), None if lead is None else lead.numpy()
    if not isinstance(space, Pipeline) or space.kind == "monai":
        from scipy.ndimage import affine_transform

        to_case = np.linalg.inv(case.affine) @ file.affine
        shape = triple(file.label.shape[1:])
        way = affine_transform(made.labels.numpy(), to_case[:3, :3], to_case[:3, 3], shape, np.uint8, order=0)
        yield NEAREST, way, None


def hold(model: SegmentationModel, spec: ModelSpec, dataset: Dataset, ref: CaseRef, path: str) -> Held:
    """Predicts the case `ref` of a dataset clean by the `model` of `spec`, and compares it with the prediction in the
    file `path`, by the reading and the way that are most alike; see `readings` and `predictions`. Regions in a label
    map are compared as such a map can express them. Classes that a class map leads to are those of the labels."""
    native = dataset.native(ref)
    meant = readings(path, native, dataset, spec)
    case = _prepared(spec, dataset, native)
    space = spec.space or dataset.space
    classes = dataset.classes
    is_half = isinstance(space, Pipeline) and space.kind == "nnunet"
    wanted = Wanted(with_confidence=model.gives_scores, is_lead=True, is_half=is_half)
    found = []
    for way, labels, lead in _predicted(model, space, case, native, wanted):
        for ours in (labels, drawn(labels, classes)) if classes.stated else (labels,):
            for each in meant:
                alike, union = agreement(_settled(ours, each.labels, lead, HALF if is_half else SINGLE), each.labels)
                found.append((alike / max(1, union), alike, union, way, ours, each, lead))
    _, alike, union, way, ours, reading, lead = max(found, key=itemgetter(0))
    theirs = reading.labels
    counts = agreement_by_class(_settled(ours, theirs, lead, HALF), theirs, classes)
    of_class = {name: counts.get(k, (0, 0)) for k, name in enumerate(classes.names) if k}
    others = dict[str, str]()
    if reading.outputs is not None and dataset.reference == "label":
        others = dict(_other_outputs(reading.outputs, native, spec, classes))
        labelled = {classes.names[k] for k in classes.present(native.label[0])}
        of_class = {name: pair if name in labelled else (0, 0) for name, pair in of_class.items()}
        of_class |= {name: (0, max(1, of_class[name][1])) for name in others}
    told = frozenset(_told(model, spec, case, native, space))
    held = Held(case_id=ref.case_id, alike=alike, union=union, classes=of_class, way=way, told=told)
    if not held.is_other:
        return held
    why = Pattern(what=f"by labels {', '.join(others.values())}", causes="class_map") if others else None
    return replace(held, way=INTERPOLATED, pattern=why or pattern(ours, theirs, classes))


def _settled(ours: Labels, theirs: Labels, lead: npt.NDArray[Any] | None, tie: float) -> Labels:
    """Returns a map with the classes of another one where the lead of its own is a `tie`."""
    return ours if lead is None else np.where(lead < tie, theirs, ours)


def _other_outputs(
    outputs: npt.NDArray[Any], native: NativeCase, spec: ModelSpec, classes: Classes
) -> Iterator[tuple[str, str]]:
    """Yields the classes whose voxels in a case's label are other outputs than the class map's, by the Dice of all
    exchanges of one output, and the words on them."""
    label = native.label[0].numpy().astype(np.int64)
    count = spec.num_outputs
    common = np.bincount((label * count + outputs).ravel(), minlength=256 * count).reshape(256, count)
    groups = spec.class_map or tuple((k,) for k in range(count))
    for k in sorted(classes.present(native.label[0])):

        def dice(chosen: Collection[int], k: int = k) -> float:
            both = common[:, [*chosen]].sum() + common[k].sum()
            return float(2 * common[k, [*chosen]].sum() / max(1, both))

        own = {*groups[k]}
        changed = [{n} for n in range(1, count)] + [own ^ {n} for n in range(1, count)]
        best = max(changed, key=dice)
        if dice(best) > max(IS_ONE, dice(own) + AHEAD):
            is_own = f"not {sorted(own)} (Dice {dice(own):.2f})"
            yield (
                classes.names[k],
                f"{classes.names[k]} is {sorted(best)} of the outputs (Dice {dice(best):.2f}), {is_own}",
            )


def _told(model: SegmentationModel, spec: ModelSpec, case: Case, native: NativeCase, space: AnySpace) -> Iterator[str]:
    """Yields the settings without which a case would be predicted otherwise."""
    ref = native.ref
    is_stated = isinstance(space, Pipeline) and space.kind == "nnunet"
    sides = sorted(np.linalg.norm(case.affine[:3, :3], axis=0))
    if is_stated or not np.allclose(sides, sorted(native.spacing), rtol=1e-3):
        yield "spacing"
    if is_stated or (space.codes_of(ref.axes) if isinstance(space, Pipeline) else "RAS") != ref.axes:
        yield "axes"
    if is_stated or model.takes_volumes or num_windows(spec, triple(case.image.shape[1:]), ref) > 1:
        yield "overlap"


def assumed(
    held: Sequence[Held], own: Sequence[CaseRef], refs: Sequence[CaseRef], dataset: Dataset, spec: ModelSpec
) -> str:
    """Returns words on what predicted cases of a dataset do not tell of a network of `spec`, as others differ from all
    of them; empty if that is nothing. `own` are the cases that were `held`, `refs` those of the job."""
    told = frozenset[str]().union(*(each.told for each in held))
    facts: Mapping[str, Callable[[CaseRef], object]] = {
        "spacing": lambda ref: tuple(round(side, 2) for side in ref.grid[1]) if ref.grid else None,
        "axes": lambda ref: ref.axes,
        "overlap": lambda ref: num_windows(spec, dataset.shape_in(ref, spec.space), ref) > 1,
    }
    others: dict[str, list[str]] = {}
    for name, fact in facts.items():
        seen = {fact(ref) for ref in own}
        if name not in told and len(seen) == 1 and (new := [ref.case_id for ref in refs if fact(ref) not in seen]):
            others[name] = new
    first = sorted({case_id for found in others.values() for case_id in found})
    more = f" and {len(first) - 3} more" if len(first) > 3 else ""
    where = f"not seen, and other in {', '.join(first[:3])}{more}: predict one of them too"
    return f"; assumed: {', '.join(others)} ({where})" if others else ""


def verdict(name: str, held: Sequence[Held], rest: str = "") -> str:
    """Returns a line on the clean predictions of all cases by the model `name`, with each `held` against its own, and
    the `rest` that they do not tell."""
    alike = sum(each.alike for each in held)
    union = sum(each.union for each in held)
    figure = f"{percent(alike / max(1, union))} of the foreground's voxels alike"
    cases = amount(len(held), "case")
    unlike = {of for each in held for of in each.unlike}
    seen = {of for each in held for of, (_, count) in each.classes.items() if count} - unlike
    states = {"differing": unlike, "proven": seen, "not seen": {*held[0].classes} - seen - unlike}
    listed = "; ".join(f"{word}: {', '.join(sorted(names))}" for word, names in states.items() if names)
    wrong = [each for each in held if each.is_other]
    if not union:
        return f"{name}: {NOTHING} of {cases}, as both maps are empty: give one of a case with a finding{rest}"
    if not wrong:
        ways = "".join(f" ({way})" for way in sorted({each.way for each in held} - {INTERPOLATED}))
        if states["not seen"]:
            return f"{name}: {PARTLY} of {cases}: {figure}{ways}; {listed}{rest}"
        return f"{name}: {PROOF} of {cases}: {figure}{ways}{rest}"
    worst = min(wrong, key=lambda each: each.share)
    of_class = f" ({listed})" if unlike else ""
    return (
        f"{name}: expected its own prediction of {worst.case_id}, got {percent(worst.alike / worst.union)} of the "
        f"foreground's voxels alike ({percent(PROVEN)} is proof){of_class}: {worst.pattern}"
    )


def percent(share: float) -> str:
    """Returns a share as a percentage that never rounds up to a proof.

    >>> percent(0.99899), percent(1.0)
    ('99.89 %', '100.00 %')
    """
    return f"{int(share * 10_000) / 100:.2f} %"
