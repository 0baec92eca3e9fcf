"""Holds a network's clean predictions against those of its own code, not labels: the proof that it runs as meant."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from freqbench.core.errors import DataError
from freqbench.core.terminal import amount
from freqbench.core.types import CaseRef, FileLabel, NativeCase, triple
from freqbench.data import Dataset, ListedFolder
from freqbench.data.preprocess import prepare
from freqbench.data.witnesses import read
from freqbench.engine import memory
from freqbench.metrics.agreement import PROVEN, Pattern, agreement, pattern
from freqbench.models import ModelSpec, SegmentationModel
from freqbench.ops.regions import codes_of
from freqbench.pipelines import Pipeline

TIE = 0.01
PROOF = "proven by its own predictions"
INTERPOLATED = ""
NEAREST = "labels restored by the nearest voxel"
Labels = npt.NDArray[np.uint8]
Ties = npt.NDArray[np.bool_] | None


@dataclass(frozen=True, kw_only=True)
class Held:
    """A clean prediction of one case held against the network's own, on the file's grid."""

    case_id: str
    alike: int  # voxels, see `metrics.agreement.agreement`
    union: int
    way: str = INTERPOLATED  # how predictions go back to the file, if it is not as scores do
    pattern: Pattern | None = None  # the way in which they differ; None: they do not

    @property
    def share(self) -> float:
        """The share of alike voxels; 1 where both are empty."""
        return self.alike / self.union if self.union else 1.0

    @property
    def is_proven(self) -> bool:
        """True if nothing but rounding tells them apart."""
        return self.share >= PROVEN


def readings(path: str, native: NativeCase, dataset: Dataset, spec: ModelSpec) -> list[tuple[Labels, Ties]]:
    """Returns the maps `[H, W, D]` of the dataset's classes that a file may mean, each with its ties or None. Its
    numbers are those of the dataset's files, or of the network's outputs, if a class map by names or another count
    tells them; several channels are one an output. Raises DataError for another grid, or numbers that are neither.

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
    fitting = [table for table in tables if {*values} <= {0, *table}]
    if not fitting:
        known = sorted({*values} - {0, *(tables[0] if tables else ())})
        raise DataError(
            f"{path}: expected a label map of the classes of {dataset.name}, got the number {known[0]}: give "
            "the network's own label maps, with the numbers of the data set's files"
        )
    meant: list[tuple[Labels, Ties]] = []
    for table in fitting:
        labels = np.zeros(numbers.shape, np.uint8)
        for value in values:
            labels[numbers == value] = table.get(value, 0)
        meant.append((labels, None))
    return meant


def _likeliest(numbers: npt.NDArray[Any], spec: ModelSpec) -> tuple[Labels, Ties]:
    """Returns the label map of a network's probabilities `[outputs, H, W, D]`, and the voxels that are nearly ties."""
    groups = spec.class_map or tuple((k,) for k in range(len(numbers)))
    if spec.head == "sigmoid":
        kept = [outputs[0] for outputs in (groups[1:] if spec.class_map else groups)]
        ties = np.any(np.abs(numbers[kept] - 0.5) < TIE / 2, axis=0)
        return codes_of(torch.from_numpy(numbers[kept] > 0.5)).numpy(), np.asarray(ties)
    of_class = np.stack([numbers[[*outputs]].sum(axis=0) for outputs in groups])
    second, first = np.sort(of_class, axis=0)[-2:]
    return of_class.argmax(axis=0).astype(np.uint8), np.asarray(first - second < TIE)


def _tables(dataset: Dataset, spec: ModelSpec) -> list[dict[int, int]]:
    """Returns the label of each number in a file, by the dataset's files and perhaps by the network's outputs."""
    classes = dataset.classes
    tables: list[dict[int, int]] = []
    if isinstance(dataset, ListedFolder) and dataset.reference == "label":
        tables.append(dict(dataset.reading.of_value))
    elif classes.overlap:
        tables.append(dict(classes.stated))
    else:
        tables.append({k: k for k in range(len(classes))})
    is_by_name = any("by their names" in line for line in spec.found)
    if spec.class_map and spec.head == "softmax" and (is_by_name or spec.num_outputs != len(classes)):
        of_output: dict[int, int] = {}
        for k, outputs in enumerate(spec.class_map):
            of_output |= dict.fromkeys(outputs, k)
        tables.append(of_output)
    return tables


def predictions(
    model: SegmentationModel, spec: ModelSpec, dataset: Dataset, native: NativeCase
) -> Iterator[tuple[str, Labels]]:
    """Yields the clean prediction of a case, `native` as its files hold it, on the grid of its file, by each way in
    which authors bring it there. `model` is the network of `spec`, whose space, or else that of `dataset`, it sees."""
    space = spec.space or dataset.space
    case = prepare(native, space, classes=dataset.classes)
    case = replace(case, label=torch.zeros_like(case.label)) if dataset.reference == "prediction" else case
    file = FileLabel(label=native.label, affine=native.affine, spacing=native.spacing)
    made, _ = memory.segment(model.drop_defence(), case, memory.INFERENCE_WINDOWS, to=(file, space))
    yield INTERPOLATED, made.scored.labels.numpy()
    if not isinstance(space, Pipeline) or space.kind == "monai":
        from scipy.ndimage import affine_transform

        to_case = np.linalg.inv(case.affine) @ file.affine
        shape = triple(file.label.shape[1:])
        yield NEAREST, affine_transform(made.labels.numpy(), to_case[:3, :3], to_case[:3, 3], shape, np.uint8, order=0)


def hold(model: SegmentationModel, spec: ModelSpec, dataset: Dataset, ref: CaseRef, path: str) -> Held:
    """Predicts the case `ref` of a dataset clean by the `model` of `spec`, and compares it with the prediction in the
    file `path`, by the reading and the way that are most alike; see `readings` and `predictions`."""
    native = dataset.native(ref)
    meant = readings(path, native, dataset, spec)
    found = []
    for way, ours in predictions(model, spec, dataset, native):
        for theirs, ties in meant:
            alike, union = agreement(ours, theirs, ties)
            found.append((alike / max(1, union), alike, union, way, ours, theirs))
    _, alike, union, way, ours, theirs = max(found, key=lambda each: each[0])
    held = Held(case_id=ref.case_id, alike=alike, union=union, way=way)
    return held if held.is_proven else replace(held, way=INTERPOLATED, pattern=pattern(ours, theirs, dataset.classes))


def verdict(name: str, held: Sequence[Held]) -> str:
    """Returns a line on the clean predictions of all cases by the model `name`, with each `held` against its own."""
    alike = sum(each.alike for each in held)
    union = sum(each.union for each in held)
    figure = f"{percent(alike / max(1, union))} of the foreground's voxels alike"
    cases = amount(len(held), "case")
    wrong = [each for each in held if not each.is_proven]
    if not wrong:
        ways = sorted({each.way for each in held} - {INTERPOLATED})
        return f"{name}: {PROOF} of {cases}: {figure}{''.join(f' ({way})' for way in ways)}"
    worst = min(wrong, key=lambda each: each.share)
    return (
        f"{name}: expected its own prediction of {worst.case_id}, got {percent(worst.share)} of the foreground's "
        f"voxels alike ({percent(PROVEN)} is proof): {worst.pattern}"
    )


def percent(share: float) -> str:
    """Returns a share as a percentage that never rounds up to a proof.

    >>> percent(0.99899), percent(1.0)
    ('99.89 %', '100.00 %')
    """
    return f"{int(share * 10_000) / 100:.2f} %"
