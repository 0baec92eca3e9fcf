"""Finds settings of a network that nobody stated, by agreement with its own code's predictions: no label is read. Best
first: of the best settings so far, all that differ in one are tried, until the prediction is its own."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from freqbench import models
from freqbench.core.errors import UserError
from freqbench.core.input_space import Preprocess, parse_intensity
from freqbench.core.types import CaseRef, NativeCase, Shape
from freqbench.data import Dataset
from freqbench.data.loaders.folder import ListedFolder
from freqbench.data.witnesses import Values, Witness, read
from freqbench.engine import witness
from freqbench.engine.witness import Labels, percent
from freqbench.metrics.agreement import PROVEN, agreement, exchange, renumber
from freqbench.models import Facts, ModelEntry, ModelSpec, facts_of, resolve
from freqbench.models.checkpoints.migrations import migrations_of
from freqbench.models.entry import DEFAULT_INFERENCE, DEFAULT_ROI
from freqbench.models.networks.inferring import open_args
from freqbench.models.sources import source_of
from freqbench.models.sources.checkpoint import shown_channels
from freqbench.ops.classes import Classes
from freqbench.ops.regions import code_of

Step = Mapping[str, Any]
Steps = dict[Any, Step | None]
Point = tuple[tuple[str, Any], ...]
Pairs = Mapping[int, Any]  # for each output, its number, channel or numbers in the prediction of its own code
Log = Callable[[str], None]
MOST_S = 240.0  # seconds of a core's time for a search: two minutes or more of two idle cores
MOST_CHANNELS = 4
FILE = "as in the file"
NO = "none"
INSTEAD = "in place of"
SIDES = (96, 64, 128, 32, 48, 160, 80, 112, 24, 40, 192, 16, 56)
FLAT = ((128, 128, 64), (96, 96, 64), (64, 64, 32), (96, 96, 32), (160, 160, 64), (192, 192, 64))
OVERLAPS = (0.5, 0.25, 0.625, 0.75, 0.0)
SPACINGS = ((1.0, 1.0, 1.0), (1.5, 1.5, 2.0), (1.5, 1.5, 1.5), (2.0, 2.0, 2.0), (1.0, 1.0, 2.0), (0.8, 0.8, 3.0))
ORIENTATIONS = ("RAS", "LPS", "LAS", "RPS", "SPL", "SAR", "RSA", "PIR", "ASR", "PLI")
WINDOWS = ((-175, 250), (-57, 164), (-1000, 1000), (-160, 240), (-200, 300), (-1024, 1024), (-1000, 400), (0, 80))
OPEN: Mapping[str, tuple[Any, ...]] = {  # values to try of arguments that leave no trace in weights
    "norm": (["instance", {"affine": True}], ["group", {"num_groups": 8}], "instance", "batch"),
    "norm_name": ("instance", ["instance", {"affine": True}], ["group", {"num_groups": 8}]),
    "act": ("RELU", "LEAKYRELU", ["LEAKYRELU", {"negative_slope": 0.2}], "ELU", "GELU", "SWISH"),
    "num_heads": (12, 4, 6, 8, 16, 2),
    "normalize": (True, False),
}


def _step(name: str, **given: Any) -> Step:
    return {"_target_": f"{name}d", "keys": "image", **given}


def _range(low: float, high: float, bottom: float = 0.0) -> Step:
    return _step("ScaleIntensityRange", a_min=low, a_max=high, b_min=bottom, b_max=1.0, clip=True)


def _percentiles(low: float, high: float, clip: bool = True) -> Step:
    ends = {"lower": low, "upper": high, "b_min": 0.0, "b_max": 1.0}
    return _step("ScaleIntensityRangePercentiles", **ends, clip=clip, channel_wise=True)


OF_MR: Mapping[str, Step | None] = {
    "z-scores of voxels that are not 0": _step("NormalizeIntensity", nonzero=True, channel_wise=True),
    "z-scores": _step("NormalizeIntensity", channel_wise=True),
    **{f"percentiles {low} to {high}": _percentiles(low, high) for low, high in ((0.5, 99.5), (1, 99), (0, 99.5))},
    "its own ends": _step("ScaleIntensity", channel_wise=True),
    NO: None,
}
_FROM_0: Mapping[str, Step] = {f"window {low} to {high}": _range(low, high) for low, high in WINDOWS}
_SIGNED = {f"window {low} to {high}, from -1 to 1": _range(low, high, -1.0) for low, high in WINDOWS[:3]}
OF_CT: Mapping[str, Step | None] = {**_FROM_0, **_SIGNED}
CROPS: Mapping[str, Step | None] = {NO: None, "to the foreground": _step("CropForeground", source_key="image")}


@dataclass(frozen=True, kw_only=True)
class FoundSettings:
    """Result of a search."""

    model: Mapping[str, Any]  # keys of its entry in a job, with the values that were found
    dataset: Mapping[str, Any]  # keys of its entry, likewise
    share: float  # of the foreground's voxels that are the network's own, over all its predictions
    words: tuple[str, ...]  # for each setting that was sought, its value, those that are alike, and what it replaces
    trials: int  # settings that were tried
    seconds: float  # of a core's time

    @property
    def is_proven(self) -> bool:
        """True if the prediction is the network's own."""
        return self.share >= PROVEN


@dataclass(kw_only=True)
class _Trial:
    """Predicts one case under settings, and compares."""

    entry: ModelEntry
    dataset: Dataset
    native: NativeCase
    theirs: Values
    pieces: "Pieces"
    log: Log
    started: float  # a core's time in seconds, as `time.process_time`
    seen: dict[Point, tuple[float, Pairs]] = field(default_factory=dict)
    refusal: Exception | None = None

    @property
    def seconds(self) -> float:
        """Seconds of a core's time since the start."""
        return time.process_time() - self.started

    @property
    def best(self) -> Point:
        """The first of the points of most alike voxels."""
        return max(self.seen, key=self.share)

    def share(self, point: Point) -> float:
        """Returns the share of alike voxels at a `point`, the value of each setting, in [0, 1]; -1 if the network
        cannot be run so."""
        if point not in self.seen:
            try:
                self.seen[point] = self._compare(point)
            except (UserError, RuntimeError, ValueError) as error:
                self.seen[point] = (-1.0, {})
                self.refusal = error
        return self.seen[point][0]

    def look(self, point: Point) -> bool:
        """Tries a `point` that is new; true if it is the network's own, or time is over."""
        if point in self.seen:
            return False
        found = self.share(point)
        usual = self.pieces.usual
        changed = ", ".join(f"{name} {_spell(value)}" for name, value in point if value != usual[name])
        self.log(f"{len(self.seen):>4}  {percent(found) if found >= 0 else 'cannot be run'}  {changed or 'as usual'}")
        return found >= PROVEN or self.seconds > MOST_S

    def descend(self, point: Point) -> bool:
        """Tries all values of one setting after the other, from `point` and each time from the best; true as `look`."""
        for name, values in self.pieces.values.items():
            tried = [_change(point, name, value) for value in values]
            if any(map(self.look, tried)):
                return True
            point = max([point, *tried], key=self.share)
        return False

    def alike(self, best: Point) -> dict[str, list[Any]]:
        """Returns the other values of each setting with which as many voxels are alike as at the `best` point, if those
        are the network's own."""
        found: dict[str, list[Any]] = {}
        for name, values in self.pieces.values.items():
            for value in values:
                other = _change(best, name, value)
                is_sought = other != best and self.share(best) >= PROVEN and self.seconds < MOST_S
                if is_sought and self.share(other) == self.share(best):
                    found.setdefault(name, []).append(value)
        return found

    def _compare(self, point: Point) -> tuple[float, Pairs]:
        pieces = self.pieces
        keys = pieces.keys_of(self.entry, dict(point))
        asked = self.entry.model_copy(update={"class_map": None, "classes": None, **keys})  # those of the network
        classes = (pieces.outputs or 2) + (asked.outputs == "sigmoid")
        spec = resolve(asked, classes, pieces.num_channels, self.dataset.space)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        made = witness.predictions(models.load(spec, device), spec, self.dataset, self.native)
        return max((_explain(spec, ours, self.theirs) for _, ours in made), key=lambda found: found[0])


def find(
    entry: ModelEntry, dataset: Dataset, own: Witness, modality: str = "", log: Log = lambda line: None
) -> FoundSettings:
    """Finds settings under which a network's clean prediction is its own. Of a network whose files bring a pipeline
    only windows, channels and classes are sought.

    Args:
        entry: of the network, as in a job; what it states is tried first.
        dataset: it is looked at under each setting.
        own: predictions of the network's own code; those of the smallest case are compared.
        modality: CT or another; says which intensities come first.
        log: gets a line for each trial.

    Raises:
        UserError: it runs under no setting.
    """
    started = time.process_time()
    first = min(own.refs, key=lambda ref: np.prod(ref.shape))
    native = dataset.native(first)
    theirs = read(own.files[first.case_id], native)
    pieces = Pieces.build(entry, facts_of(entry, None, dataset.num_channels), dataset, first, modality, theirs)
    trial = _Trial(entry=entry, dataset=dataset, native=native, theirs=theirs, pieces=pieces, log=log, started=started)
    begun = set[Point]()
    done = trial.look(tuple(pieces.usual.items()))
    while not done and (waiting := trial.seen.keys() - begun):
        point = max(waiting, key=trial.share)
        begun.add(point)
        done = trial.descend(point)
    best = trial.best
    share = trial.share(best)
    if share < 0:
        raise UserError(f"{entry.name}: expected to run under one of {len(trial.seen)} settings, got: {trial.refusal}")
    settings = dict(best)
    words = tuple(_words(settings, pieces.usual, trial.alike(best)))
    _, pairs = trial.seen[best]
    model, of_dataset = pieces.job_keys(entry, dataset, native, settings, theirs, pairs)
    return FoundSettings(
        model=model, dataset=of_dataset, share=share, words=words, trials=len(trial.seen), seconds=trial.seconds
    )


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """The settings that are sought, each with its values, the entry's or the usual first, and what they make."""

    values: Mapping[str, tuple[Any, ...]]  # by setting
    slots: Mapping[str, Mapping[Any, Step | None]]  # for each place of the transforms, the step of each value
    outputs: int | None  # of the network; None: not known
    sliding: Mapping[str, Any]  # keys of `Inference` that stay
    key: str  # of the image in the transforms
    num_channels: int  # of the data

    @property
    def usual(self) -> dict[str, Any]:
        """The first value of each setting."""
        return {name: values[0] for name, values in self.values.items()}

    @classmethod
    def build(
        cls, entry: ModelEntry, facts: Facts, dataset: Dataset, ref: CaseRef, modality: str, theirs: Values
    ) -> "Pieces":
        """Returns what is sought of a network for one case, and `theirs`, its own prediction."""
        words = _parse(entry.transforms)
        source = source_of(facts.arch)
        is_bare = words is not None or facts.space is None
        inferred = shown_channels(facts) if source.is_checkpoint else None
        outputs = facts.num_classes or (inferred and inferred.out_channels) or entry.classes
        values: dict[str, tuple[Any, ...]] = {}
        slots = _slots(words or (), entry, dataset, ref, modality) if is_bare else {}
        if inferred:
            for name in open_args(facts.arch, entry.args, inferred):
                values[f"args.{name}"] = tuple(map(json.dumps, OPEN.get(name, ())))  # as a list is no key
            if entry.migration is None and len(known := migrations_of(facts.arch)) > 1:
                values["migration"] = (None, *known)
        values["outputs"] = _heads(entry, facts, dataset, outputs, theirs)
        count = dataset.num_channels
        if 2 <= count <= MOST_CHANNELS and (is_bare or entry.bundle):
            values["channels"] = _orders(entry, count)
        sliding = {**facts.inference} if entry.inference is None else entry.inference.model_dump(exclude_unset=True)
        trained = entry.roi or (facts.input.volume_order(facts.roi) if facts.roi else None)
        if is_bare:
            values["roi"] = _windows(entry, trained, max(ref.shape))
        values |= {name: tuple(steps) for name, steps in slots.items() if len(steps) > 1}
        values["overlap"] = _distinct(sliding.get("overlap", DEFAULT_INFERENCE.overlap), *OVERLAPS)
        weighting = sliding.get("weighting", "gaussian")
        values["weighting"] = _distinct(weighting, "gaussian", "constant") if is_bare else (weighting,)
        if sliding.get("mirror"):
            values["mirror"] = sliding["mirror"], ""
        key = next((str(step["keys"]) for step in words or () if isinstance(step.get("keys"), str)), "image")
        kept = {name: values[name] for name in sorted(values, key=_place) if values[name]}
        return cls(values=kept, slots=slots, outputs=outputs, sliding=sliding, key=key, num_channels=count)

    def keys_of(self, entry: ModelEntry, point: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the keys of an entry that state the settings of a point."""
        made: dict[str, Any] = {"outputs": point["outputs"]}
        if args := {name[5:]: json.loads(value) for name, value in point.items() if name.startswith("args.")}:
            made["args"] = {**entry.args, **args}
        if "migration" in point:
            made["migration"] = point["migration"]
        if self.slots:
            steps = [steps[point.get(name, next(iter(steps)))] for name, steps in self.slots.items()]
            keyed = [{**step, "keys": self.key} if step["keys"] == "image" else dict(step) for step in steps if step]
            made["transforms"] = keyed or [{"_target_": "Identityd", "keys": self.key}]
            made |= {"preprocess": None, "input": None}
        if order := point.get("channels"):
            made["channels"] = None if order == tuple(sorted(order)) else {self.key: order}
        sliding = {**self.sliding, "overlap": point["overlap"], "weighting": point["weighting"]}
        if "mirror" in point:
            sliding["mirror"] = point["mirror"]
        if "roi" in point:
            made["roi"] = (entry.roi or DEFAULT_ROI) if point["roi"] == "whole" else point["roi"]
            sliding |= {"whole": "HWD"} if point["roi"] == "whole" else {}
        made["inference"] = models.Inference(**sliding)
        return made

    def job_keys(
        self,
        entry: ModelEntry,
        data: Dataset,
        native: NativeCase,
        point: Mapping[str, Any],
        theirs: Values,
        pairs: Pairs,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns the keys of a model's and a dataset's entry.

        Args:
            entry: of the model, before.
            data: the dataset.
            native: its case on the file's grid.
            point: the settings that were found.
            theirs: the network's own prediction of the case.
            pairs: for each output, its number, channel or numbers in that.
        """
        made = {key: value for key, value in self.keys_of(entry, point).items() if value is not None}
        made["inference"] = made["inference"].model_dump(exclude_unset=True)
        if "roi" in made:
            made["roi"] = [*made["roi"]]
        if point["outputs"] == "softmax":
            made.pop("outputs")
            return made | self._class_map(data, pairs), {}
        labels = native.file_numbers()[0].numpy() if theirs.ndim == 4 else theirs
        inside = [theirs[pairs[k + 1] - 1] > 0.5 for k in range(len(pairs))] if theirs.ndim == 4 else None
        regions = _regions(labels, inside) if inside else dict(pairs)
        return made | self._region_map(data, regions), {} if data.classes.overlap else _name_regions(data, regions)

    def _class_map(self, dataset: Dataset, pairs: Mapping[int, int]) -> dict[str, Any]:
        """Returns `classes` and `class_map` for a network whose outputs are these numbers of the dataset's files."""
        found = dict[int, list[int]]()
        for output, number in sorted(pairs.items()):
            if k := _classes_by_number(dataset).get(number, 0):
                found.setdefault(k, []).append(output)
        count = self.outputs or len(dataset.classes)
        if count == len(dataset.classes) and all(of == [k] for k, of in found.items()):
            return {}
        return {"classes": count, "class_map": dict(sorted(found.items()))}

    def _region_map(self, dataset: Dataset, regions: Mapping[int, list[int]]) -> dict[str, Any]:
        """Returns `class_map` for outputs that are these labels each, on a dataset that has regions already."""
        if not dataset.classes.overlap:
            return {}
        found = {}
        for k in range(1, len(dataset.classes)):
            mine = sorted(value for value, code in dataset.classes.stated.items() if code >> (k - 1) & 1)
            found[k] = [of for of, labels in regions.items() if sorted(labels) == mine]
        if not all(found.values()) or all(of == [k] for k, of in found.items()):
            return {}
        return {"classes": len(regions), "class_map": found}


def _distinct(*values: Any) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(values))


def _orders(entry: ModelEntry, count: int) -> tuple[Any, ...]:
    """Returns the orders of so many channels, the one that an entry states first."""
    channels = [*(entry.channels or {}).values()]
    stated = [tuple(each) for each in channels if not isinstance(each, int)] if len(channels) == 1 else []
    return _distinct(*stated, *permutations(range(count)))


def _change(point: Point, name: str, value: Any) -> Point:
    return tuple((key, value if key == name else own) for key, own in point)


def _parse(transforms: object) -> tuple[Step, ...] | None:
    """Returns the words of transforms on one image; None: they are other transforms, or there are none."""
    if not isinstance(transforms, list | tuple):
        return None
    keys = set[str]().union(*(np.atleast_1d(step.get("keys", [])).tolist() for step in transforms))
    return tuple(transforms) if len(keys - {"label"}) <= 1 else None


_SLOTS = {
    **{"axes": ("Orientation",), "spacing": ("Spacing",)},
    "intensity": ("NormalizeIntensity", "ScaleIntensity", "ScaleIntensityRange", "ScaleIntensityRangePercentiles"),
    "crop": ("CropForeground",),
}


def _slots(words: Sequence[Step], entry: ModelEntry, dataset: Dataset, ref: CaseRef, modality: str) -> dict[str, Steps]:
    """Returns the places of transforms and their candidates: those that are stated first, in their order."""
    space = entry.preprocess or (Preprocess(intensity="percentile", crop_foreground=False) if words else dataset.space)
    codes = dict.fromkeys((*ORIENTATIONS, ref.axes[::-1], ref.axes.translate(str.maketrans("RLAPSI", "LRPAIS"))))
    axes: Steps = {"RAS": _step("Orientation", axcodes="RAS"), FILE: None}
    axes |= {each: _step("Orientation", axcodes=each) for each in codes}
    spacings: Steps = {space.spacing: _spacing(space.spacing)} if space.spacing else {}
    spacings[FILE] = None
    spacings |= {each: _spacing(each) for each in SPACINGS}
    crops = [*CROPS.items()]
    if space.crop_foreground and not words:
        crops.reverse()
    intensities = _intensities(space, modality)
    usual: dict[str, Steps] = {"axes": axes, "spacing": spacings, "intensity": intensities, "crop": dict(crops)}
    if not words:
        return usual
    made: dict[str, Steps] = {}
    for number, step in enumerate(words):
        name = str(step["_target_"]).rpartition(".")[2].removesuffix("d")
        slot = next((slot for slot, names in _SLOTS.items() if name in names and slot not in made), None)
        others = usual.get(slot or "", {})
        made[slot or f"step {number}"] = {_state_of(step, others): step, **others}
    for slot, steps in usual.items():
        unchanged = next((label for label, step in steps.items() if step is None), None)
        made.setdefault(slot, {unchanged: None, **steps})
    return made


def _place(name: str) -> int:
    """Returns the place of a setting in the search: without it nothing runs, then few values, then many."""
    order = ("outputs", "migration", "crop", "roi", "intensity", "axes", "channels", "spacing", "overlap", "weighting")
    return order.index(name) if name in order else -1


def _state_of(step: Step, usual: Mapping[Any, Step | None]) -> Any:
    """Returns the word for a step that is stated: its own in a table, else what it sets."""
    plain = {key: value for key, value in step.items() if key != "keys" and value is not False}
    for label, other in usual.items():
        if other and plain == {key: value for key, value in other.items() if key != "keys"}:
            return label
    if "axcodes" in plain:
        return plain["axcodes"]
    if "pixdim" in plain:
        return tuple(np.atleast_1d(plain["pixdim"]).tolist())
    return ", ".join(str(value) if key == "_target_" else f"{key} {value}" for key, value in plain.items())


def _windows(entry: ModelEntry, trained: Shape | None, longest: int) -> tuple[Any, ...]:
    """Returns the windows to try on volumes of this longest side: those that are stated, that fit, and a few others."""
    fitting = [(side,) * 3 for side in SIDES if side <= longest] + [sides for sides in FLAT if max(sides) <= longest]
    others = [(side,) * 3 for side in sorted(SIDES) if longest < side <= 1.5 * longest]
    stated = [trained] if trained and (entry.roi or trained != DEFAULT_ROI) else []
    return _distinct(*stated, *fitting, *others, "whole", *([trained] if trained else []))


def _spacing(sides: Sequence[float]) -> Step:
    return _step("Spacing", pixdim=[*sides], mode="bilinear")


def _intensities(space: Preprocess, modality: str) -> Steps:
    scaling = parse_intensity(space.intensity)
    is_window = scaling.kind == "window"
    ends = (scaling.low, scaling.high)
    both = [OF_CT, OF_MR] if (is_ct := modality == "CT" or is_window) else [OF_MR, OF_CT]
    if scaling.kind == "zscore" or (is_ct and not is_window):
        return {**both[0], **both[1]}
    word, step = ("window", _range(*ends)) if is_window else ("percentiles", _percentiles(*ends))
    return {f"{word} {scaling.low:g} to {scaling.high:g}": step, **both[0], **both[1]}


def _heads(entry: ModelEntry, facts: Facts, dataset: Dataset, outputs: int | None, theirs: Values) -> tuple[str, ...]:
    """Returns the heads that a network may have: as it is stated, else as the numbers of outputs and classes tell."""
    if stated := entry.outputs or facts.outputs:
        return (stated,)
    if dataset.classes.overlap:
        return ("sigmoid",)
    if theirs.ndim == 4 and len(theirs) == outputs:
        return ("softmax",) if bool(np.allclose(theirs.sum(axis=0), 1, atol=1e-2)) else ("sigmoid", "softmax")
    return ("sigmoid", "softmax") if outputs == len(dataset.classes) - 1 else ("softmax", "sigmoid")


def _explain(spec: ModelSpec, ours: Labels, theirs: Values) -> tuple[float, dict[int, Any]]:
    """Returns the share of alike voxels under the best pairing, and for each output its number, channel or numbers."""
    count = spec.num_outputs
    if spec.head == "softmax":
        if (numbers := theirs.argmax(axis=0) if theirs.ndim == 4 else theirs).max() > 255:
            raise ValueError("numbers beyond a label map's")
        numbers = numbers.astype(np.uint8)
        classes = Classes(names=("",) * max(count, int(numbers.max()) + 1))
        pairs = exchange(ours, numbers, classes)
        alike, union = agreement(renumber(ours, pairs, classes), numbers)
        return alike / max(union, 1), {output: number for output, number in pairs.items() if output < count}
    classes = Classes(names=("",) * (count + 1), overlap=True)
    codes = np.zeros(ours.shape, np.uint8)
    if theirs.ndim == 4:
        for k, channel in enumerate(theirs):
            codes |= (channel > 0.5).astype(np.uint8) << k
        pairs = exchange(ours, codes, classes)
        alike, union = agreement(renumber(ours, pairs, classes), codes)
        return alike / max(union, 1), pairs
    regions = _regions(theirs, [(ours >> k) & 1 == 1 for k in range(count)])
    for value in {*np.unique(theirs).tolist()} - {0}:
        codes[theirs == value] = code_of(k for k, of in regions.items() if value in of)
    in_either = (ours > 0) | (theirs > 0)
    fits = (ours == codes) & in_either & ((codes > 0) | (theirs == 0))
    return int(np.count_nonzero(fits)) / max(int(np.count_nonzero(in_either)), 1), regions


def _regions(numbers: Values, inside: Sequence[npt.NDArray[np.bool_]]) -> dict[int, list[int]]:
    """Returns for each output, counted from 1, the numbers of a label map most of whose voxels lie in it."""
    values = sorted({*np.unique(numbers).tolist()} - {0})
    found = {}
    for k, mask in enumerate(inside, 1):
        found[k] = [int(value) for value in values if mask[numbers == value].mean() > 0.5]
    return found


def _name_regions(dataset: Dataset, regions: Mapping[int, list[int]]) -> dict[str, Any]:
    """Returns the dataset's key `regions`, each called by its classes."""
    by_number = _classes_by_number(dataset)
    named = {}
    for labels in filter(None, regions.values()):
        name = " and ".join(dataset.class_names[by_number.get(label, 0)] for label in labels)
        named[name] = sorted({by_number[label] for label in labels})
    return {"regions": named}


def _classes_by_number(dataset: Dataset) -> Mapping[int, int]:
    if isinstance(dataset, ListedFolder) and dataset.reference == "label" and not dataset.classes.overlap:
        return dataset.reading.of_value
    return {k: k for k in range(len(dataset.class_names))}


def _words(best: Mapping[str, Any], start: Mapping[str, Any], alike: Mapping[str, Sequence[Any]]) -> Iterator[str]:
    for name, value in best.items():
        before = "" if value == start[name] else f" {INSTEAD} {_spell(start[name])}"
        same = f"; {', '.join(map(_spell, alike[name]))} make no difference" if name in alike else ""
        yield f"{name}: {_spell(value)}{before}{same}"


def _spell(value: object) -> str:
    return "x".join(f"{each:g}" for each in value) if isinstance(value, tuple) else str(value)
