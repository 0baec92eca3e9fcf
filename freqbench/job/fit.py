"""Says what nobody told of the way a network was trained, and if its clean Dice is far below what is expected."""

import json
import math
import re
import statistics
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from freqbench.core.errors import UserError
from freqbench.core.input_space import Preprocess
from freqbench.core.plugins import is_foreign, path_of
from freqbench.core.terminal import amount
from freqbench.core.types import CaseRef, NativeCase
from freqbench.data import Dataset, channel_names
from freqbench.models import Facts, ModelEntry, ModelSpec, facts_of, source_of
from freqbench.models.entry import DEFAULT_INFERENCE, DEFAULT_ROI
from freqbench.models.resolving import are_strangers, match_channels, plain_name, require_head, shown_channels
from freqbench.ops.classes import Classes
from freqbench.ops.regions import members
from freqbench.ops.voxels import counted
from freqbench.pipelines import AnySpace
from freqbench.pipelines.monai import MonaiPipeline

# patients that have a standard error; cases whose labels `matching` compares
FIRST = 3
LAST = 10
# Dice: a difference that says something, and the least of a network of which none is expected
FAR = 0.05
LOW = 0.5
CAUSES = (
    "usual causes: another order of channels, classes or axes than in its training, another intensity, roi or spacing, "
    "other args, a checkpoint of an older MONAI without its migration"
)
Clean = Mapping[tuple[str, str], float]
"""Clean foreground Dice by patient and case."""


@dataclass(frozen=True)
class Assumption:
    """A setting that neither the job nor a network's files state, with its value and the reason."""

    of: Literal["model", "dataset"]  # the entry of the job that the key belongs to
    key: str
    value: object
    why: str

    def __str__(self) -> str:
        value = self.value if isinstance(self.value, str) else json.dumps(self.value).replace('"', "")
        return f"{self.key}: {value} ({self.why})"


def assumptions(
    entry: ModelEntry, facts: Facts, dataset: Dataset | None = None, stated: Collection[str] = ()
) -> tuple[Assumption, ...]:
    """Lists what is assumed of a network that its files (`facts`) do not tell, such as a state dict of MONAI. `stated`
    are the keys of the dataset's entry in the job; without a dataset, the model's settings alone are listed. Nothing is
    assumed of untrained weights, of a command, and of what freqbench trained."""
    if facts.is_settled:
        return ()
    return (*_assume_model(entry, facts, dataset), *(_assume_space(entry, facts, dataset, stated) if dataset else ()))


def require_possible(found: Sequence[Assumption], dataset: Dataset) -> None:
    """Refuses an assumption, of those `found`, that contradicts what a `dataset` says: CT by list or header, and
    percentiles as for MR."""
    is_ct = any("ct" in re.split(r"\W+", name.casefold()) for name in channel_names(dataset))
    if is_ct and any(each.key == "intensity" and each.value == Preprocess().intensity for each in found):
        raise UserError(
            f"{dataset.name}: expected the intensities that the network was trained on, as the data are CT (channel "
            f"{', '.join(channel_names(dataset))}), got none, where percentiles of each volume would be assumed: write "
            "intensity: {window: [-175, 250]} for its window, or transforms of the model"
        )


def facts_on(entry: ModelEntry, dataset: Dataset, refs: Sequence[CaseRef]) -> Facts:
    """Returns the facts of a model's `entry` on a dataset, its channels and classes paired with the dataset's, by the
    labels of the first `refs` if need be."""
    facts = facts_of(entry, len(dataset.classes), dataset.num_channels, dataset.class_names)
    require_head(entry, facts, dataset.name, dataset.classes)
    named = channel_names(dataset)
    bound = match_channels(entry.name, facts.path, facts.channel_names, named, facts.space)
    if entry.channels is None and are_strangers(facts.channel_names, named):
        which = f"{', '.join(facts.channel_names)} of {facts.path}, {', '.join(named)} of {dataset.name}"
        note = f"no channel of the network is one of the data by name, and they are taken in order: {which}"
        facts = replace(facts, notes=(*facts.notes, note))
    if bound and isinstance(facts.space, MonaiPipeline):
        said = f"channels are paired by their names, as channels: {shown_channels(bound)} would"
        facts = replace(facts, space=replace(facts.space, channels=bound), found=(*facts.found, said))
    return match_classes(entry, facts, dataset, refs)


def match_classes(entry: ModelEntry, facts: Facts, dataset: Dataset, refs: Sequence[CaseRef]) -> Facts:
    """Returns the facts with the class map that `matching` finds by cases `refs` of a `dataset`, unless the entry
    states one."""
    outputs = None if entry.class_map is not None else matching(entry.name, facts.space, dataset, refs)
    if outputs is None:
        return facts
    found, count, why = outputs
    count = max(count, facts.num_classes or 0)
    if count == len(found) + (not dataset.classes.overlap) and all(pair == (k,) for k, pair in found.items()):
        return replace(facts, class_map={})
    pairs = ", ".join(f"{k}: {[*each]}" for k, each in found.items())
    alike = f"outputs {why} as the classes of {dataset.name} are what its transforms make of labels"
    return replace(facts, class_map=found, num_classes=count, found=(*facts.found, f"class_map: {{{pairs}}}: {alike}"))


def matching(
    name: str, space: AnySpace | None, dataset: Dataset, refs: Sequence[CaseRef]
) -> tuple[dict[int, tuple[int, ...]], int, str] | None:
    """Returns the outputs that each class is, the number of outputs and the evidence; None unless transforms of MONAI's
    change labels.

    Args:
        name: the model's, for messages.
        space: the model's own pipeline, or None.
        dataset: classes are paired by their names, else by equal voxels.
        refs: its cases, of which the first LAST are compared.

    Raises UserError if a class is none of the outputs, or several.
    """
    if not isinstance(space, MonaiPipeline) or dataset.reference == "prediction":
        return None
    names = [*map(plain_name, dataset.class_names)]
    theirs = space.region_names
    if theirs and {*names[1:]} <= {*theirs}:
        return {k: (1 + theirs.index(each),) for k, each in enumerate(names[1:], 1)}, len(theirs), "of the same names"
    compared = [_same_voxels(space, native, dataset.classes) for native in map(dataset.native, refs[:LAST])]
    found = [*filter(None, compared)]
    if not found:
        return None
    count = max(number for number, _ in found)
    alike: dict[int, tuple[int, ...]] = {}
    for k in range(1, len(names)):
        seen = [pairs[k] for _, pairs in found if k in pairs]
        alike[k] = tuple(sorted(set.intersection(*seen))) if seen else ()
    why = f"with the same voxels in {amount(len(found), 'case')}"
    shown = ", ".join(f"{k}: {[*each]}" for k, each in alike.items())
    for k, each in alike.items():
        if len(each) != 1:
            raise UserError(
                f"{name}: expected one of the {count} outputs that its transforms make of labels {why} as "
                f"{dataset.class_names[k]!r} of {dataset.name}, got {len(each)}: set classes: {count} and class_map of "
                f"the model, such as {{{shown}}}"
            )
    return alike, count, why


def _same_voxels(space: MonaiPipeline, native: NativeCase, classes: Classes) -> tuple[int, dict[int, set[int]]] | None:
    """Returns the number of outputs that transforms make of a case's labels, and by class that it has the outputs of
    the same voxels; None if labels stay."""
    overlap = classes.overlap
    made = space.relabel(native)
    if made is None:
        return None
    label = native.label[0]
    first = int(overlap)
    is_split = overlap or len(made) > 1  # a channel an output, no background of regions
    number = len(made) if is_split else int(made.max()) + 1
    outputs = {j: made[j - first] > 0.5 if is_split else made[0] == j for j in range(1, number + first)}
    marked = counted(label)
    counts = ... if marked is None else marked
    pairs: dict[int, set[int]] = {}
    for k in range(1, len(classes)):
        voxels = members(label, k) if overlap else label == k
        if voxels.any():  # else the case tells nothing of it
            pairs[k] = {j for j, mask in outputs.items() if bool((mask == voxels)[counts].all())}
    return number, pairs


def _assume_model(entry: ModelEntry, facts: Facts, dataset: Dataset | None) -> Iterator[Assumption]:
    written = entry.input
    own_roi = facts.roi
    space = facts.space
    stated = entry.inference
    is_bare = source_of(facts.arch).is_checkpoint
    adapter = facts.input.merge_input(written)
    told = {*(written.model_fields_set if written else ())}
    told |= {*(() if is_bare else facts.input.model_fields_set)}  # of a bare one, its architecture's alone
    if not entry.roi and (is_bare or not own_roi):
        roi = adapter.volume_order(own_roi) if own_roi else DEFAULT_ROI
        yield Assumption("model", "roi", roi, "the default, as weights do not show their window")
    is_told = (facts.class_map, entry.class_map) != (None, None) or facts.metadata.class_names
    if dataset and isinstance(space, MonaiPipeline) and not is_told and len(names := dataset.class_names) > 2:
        yield Assumption("model", "class_map", f"outputs in the order {', '.join(names[1:])}", "they have no names")
    if space is None and not facts.knows_axes and "axes" not in told:
        yield Assumption("model", "input.axes", adapter.axes, f"towards {adapter.codes}")
    if space is None and told <= {"axes"}:
        why = "the dataset's intensities from 0 to 1, and no z-scores of them"
        yield Assumption("model", "input.scale", adapter.scale, why)
    inference = {**facts.inference} if stated is None else stated.model_fields_set
    if stated or not inference:  # files that state a sliding window mean its defaults too
        for key, why in (("overlap", "as in the papers; MONAI's is 0.25"), ("weighting", "as in the papers and MONAI")):
            if key not in inference:
                yield Assumption("model", f"inference.{key}", getattr(DEFAULT_INFERENCE, key), why)


def _assume_space(entry: ModelEntry, facts: Facts, dataset: Dataset, stated: Collection[str]) -> Iterator[Assumption]:
    """Yields what is assumed of preprocessing: of the model's own space, if it has one, else of the dataset's."""
    if own := entry.preprocess:
        space = own
        told = own.model_fields_set
    elif facts.space:  # its files or its transforms tell it
        return
    else:  # what is no key of a loader is its own matter
        space = dataset.space
        told = {*stated} | (Preprocess.model_fields.keys() - type(dataset).model_fields)
    usual = "the range of each volume, as for MR" if space.intensity == Preprocess().intensity else "the loader's own"
    grid = "the loader's own" if space.spacing else "that of each file"
    crop = "to the box of voxels above the lowest intensity, as in the papers" if space.crop_foreground else "none"
    for key, why in (("intensity", usual), ("spacing", grid), ("crop_foreground", crop)):
        if key not in told:
            yield Assumption("model" if own else "dataset", key, getattr(space, key), why)


def space_notes(dataset: Dataset) -> Iterator[str]:
    """Yields a line on what is done to the cases of another package's class, which has no keys of preprocessing."""
    if is_foreign(cls := type(dataset)) and "intensity" not in cls.model_fields:
        if dataset.is_as_given:
            told = "states no `space`: its volumes, from 0 to 1, are neither scaled nor cropped"
        else:
            keys = dataset.space.model_dump(mode="json", exclude_none=True, exclude={"axes"})
            told = f"states what is done to its volumes, as `space`: {json.dumps(keys)[1:-1]}".replace('"', "")
        yield f"{dataset.name}: {path_of(cls)} {told}"


def note_of(name: str, found: Sequence[Assumption]) -> Iterator[str]:
    """Yields one line on all that was `found` to be assumed of the model `name`, if anything is."""
    if found:
        all_of = "; ".join(map(str, found))
        yield f"{name}: assumed, as neither job nor files say it: {all_of}: set what its training used"


def words_on_clean(model: ModelSpec, dataset: str, assumed: Mapping[tuple[str, str], Sequence[Assumption]]) -> str:
    """Returns what a model's clean number rests on before a run: `stated`, or `assumed` by dataset and model."""
    nets = model.members or (model,)
    found: dict[str, None] = {}
    for net in nets:
        found |= dict.fromkeys(each.key for each in assumed.get((dataset, net.name), ()))
    return f"{amount(len(found), 'value')} assumed ({', '.join(found)})" if found else "stated"


def mean_error(values: Clean) -> tuple[float, float]:
    """Returns the mean over patients' means of `values` and its standard error, infinite for fewer than FIRST
    patients."""
    patients = defaultdict[str, list[float]](list)
    for (patient, _), value in values.items():
        patients[patient].append(value)
    means = [*map(statistics.fmean, patients.values())]
    error = statistics.stdev(means) / math.sqrt(len(means)) if len(means) >= FIRST else math.inf
    return statistics.fmean(means), error


def figure(expected: float | None, clean: Clean) -> str:
    """Words the clean foreground Dice, the mean over patients, and the one that is expected."""
    wanted = "" if expected is None else f", expected_dice {expected:g}"
    return f"clean foreground Dice {mean_error(clean)[0]:.3f} ({amount(len(clean), 'case')}){wanted}"


def shortfall(expected: float | None, clean: Clean) -> str | None:
    """Returns a line if the mean clean Dice is lower than is expected of a network that fits. That is LOW if nothing is
    `expected`; else `expected` less two standard errors, or half of it where fewer than FIRST patients have no standard
    error to speak of, but FAR at least. Where `expected` is the truth, a mean over 3 to 10 patients is so low in 0.4,
    4, 7 and 3 % of all runs at most, if patients have a standard deviation of 0.03, 0.05, 0.1 and 0.2 (simulated from
    beta distributions of mean 0.87, judged after each patient)."""
    if not clean:
        return None
    mean, error = mean_error(clean)
    few = math.isinf(error)
    if expected is None:
        is_short = mean < LOW
        why = f"below {LOW}, and no expected_dice says that it is the network's own"
    else:
        is_short = round(expected - mean, 9) > max(expected / 2 if few else 2 * error, FAR)
        why = "below half of it" if few else f"lower by more than two standard errors (each {error:.3f}) and {FAR}"
    return f"{figure(expected, clean)}: {why}: {CAUSES}" if is_short else None
