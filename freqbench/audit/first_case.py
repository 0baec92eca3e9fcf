"""Looks at the first cases of a job to be written: their intensities, what is open of the network, its clean Dice."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from freqbench import models
from freqbench.audit import unstated
from freqbench.audit.unstated import FoundSettings, Log
from freqbench.core.documents import object_of, yaml_line
from freqbench.core.errors import UserError
from freqbench.core.types import CaseRef
from freqbench.data import Dataset, witnesses
from freqbench.data.loaders.phantom import WINDOW_HU
from freqbench.data.witnesses import NoPredictionsError, Witness
from freqbench.engine import memory, scoring
from freqbench.engine.witness import Held, hold, percent, verdict
from freqbench.job.fit import CAUSES, assumptions, facts_on, shortfall
from freqbench.job.schema import build_dataset
from freqbench.models import Facts, ModelEntry, ModelSpec, facts_of, resolve, source_of
from freqbench.models.checkpoints.migrations import migrations_of
from freqbench.models.entry import COMMAND, advice_on_classes, seed_of
from freqbench.models.networks.inferring import open_args
from freqbench.models.sources.checkpoint import shown_channels

Entry = Literal["model", "dataset"]
Keys = Mapping[str, Any]  # of an entry of a job
LOOKED_AT = 3  # cases whose intensities are read
HOUNSFIELD = -200.0  # percentile 0.5 of a CT, which has air and fat, is below


@dataclass(frozen=True, kw_only=True)
class FirstCase:
    """Result of `first_case`."""

    model: Keys  # its entry, with what was found
    dataset: Keys  # its entry, likewise
    beside: Mapping[Entry, Mapping[str, str]]  # by entry, comments on keys that were found
    open: Mapping[Entry, Sequence[str]]  # by entry, lines to write for what nobody states
    verdict: str  # the clean Dice of the first case, or why there is none, in a line
    proof: str = ""  # a line on the network's own predictions, if some were given
    matched: Sequence[str] = ()  # by setting that was found, its value and those that make no difference
    is_black_box: bool = False  # the network has no gradient


def clean_dice(dataset: Dataset, spec: ModelSpec, ref: CaseRef) -> float:
    """Returns the foreground Dice in [0, 1] of the clean prediction of the network of a `spec`, of the case `ref` of a
    `dataset`, on the grid that is attacked; NaN: its label has no class of the foreground."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = models.load(spec, device)
    case = dataset.load(ref, spec.space)
    pred, _ = memory.fit_memory(partial(models.predict, model.for_case(case), case.image), memory.INFERENCE_WINDOWS)
    (overlap,) = scoring.score_prediction(scoring.label_maps(pred, case, dataset), ["dsc"])
    return float(overlap.record["dsc_foreground"])


def modality_of(root: str) -> str:
    """Returns the modalities that the list of the folder `root` (dataset.json) names, such as `CT`; empty if it names
    none."""
    if not (path := Path(root) / "dataset.json").is_file():
        return ""
    content = object_of(path.read_bytes(), str(path))
    named = content.get("modality", content.get("channel_names"))
    return " ".join(map(str, named.values())) if isinstance(named, dict) else str(named or "")


def first_case(
    entry: Keys, model: Keys, is_trained: bool, predictions: str | None = None, log: Log = lambda line: None
) -> FirstCase:
    """Reads what suits a dataset's files, what is open of a network, and its first clean Dice, to which nothing is
    fitted. A stated `intensity` stays; CT (by the folder's list, or percentile 0.5 below HOUNSFIELD) gets the papers'
    abdominal window, all else the loader's default. Facts of the data stand whatever is wrong with the network.

    Args:
        entry: of the dataset, as in a job.
        model: its entry, likewise.
        is_trained: its weights are; else there is no clean Dice.
        predictions: place of those of the network's own code: what is open is found by them; None: there are none.
        log: gets a line for each trial of that search.
    """
    place = str(entry["name"])
    dataset = build_dataset(entry, place)
    beside: dict[Entry, dict[str, str]] = {"model": {}, "dataset": {}}
    refs = dataset.refs()
    why = _why_ct(dataset, refs, modality_of(str(entry["root"])))
    if "intensity" in type(dataset).model_fields and "intensity" not in entry and why:
        entry = {**entry, "intensity": {"window": list(WINDOW_HU)}}
        beside["dataset"]["intensity"] = f"assumed: the papers' abdominal window, as this is {why}"
        dataset = build_dataset(entry, place)
    found: FoundSettings | None = None
    proof = ""
    if predictions:
        model = {**model, "predictions": predictions}
        try:
            found, proof = _match(model, entry, dataset, "CT" if why else "", log)
        except NoPredictionsError:
            raise
        except UserError as error:
            proof = f"nothing is found by predictions: {error}"
    if found:
        model = {**model, **found.model}
        entry = {**entry, **found.dataset}
        by = f"by its predictions, {percent(found.share)} alike at least"
        said = f"matched {by}" if found.is_proven else f"the nearest that was found {by}: state what the training used"
        beside["model"] |= dict.fromkeys(found.model, said)
        beside["dataset"] |= dict.fromkeys(found.dataset, said)
        dataset = build_dataset(entry, place)
    open_of: dict[Entry, list[str]] = {"model": [], "dataset": []}
    said = ""
    is_black_box = COMMAND in model
    try:
        written = ModelEntry(**model)
        for of, line in _open_lines(written, dataset, None if found and found.is_proven else entry):
            open_of[of].append(line)
        spec = _spec(written, dataset)
        is_black_box = spec.black_box is not None
        said = _verdict(dataset, spec, written.expected_dice, refs[0], is_trained)
    except UserError as error:  # a job that must be corrected is written all the same
        said = f"no clean Dice of the first case: {error}"
    return FirstCase(
        model=model,
        dataset=entry,
        beside=beside,
        open=open_of,
        verdict=said,
        proof=proof,
        matched=found.words if found else (),
        is_black_box=is_black_box,
    )


def _open_lines(model: ModelEntry, dataset: Dataset, entry: Keys | None) -> Iterator[tuple[Entry, str]]:
    """Yields lines on what nobody states, and on what is assumed beside a dataset's `entry`; None: nothing is."""
    facts = facts_of(model, len(dataset.classes), dataset.num_channels, dataset.class_names)
    yield from questions(model, facts, dataset)
    for each in () if entry is None else assumptions(model, facts, dataset, entry):
        key, _, part = each.key.partition(".")
        value = list(each.value) if isinstance(each.value, tuple) else each.value
        yield each.of, f"{yaml_line(key, {part: value} if part else value)}    # assumed: {each.why}"


def _match(model: Keys, entry: Keys, dataset: Dataset, modality: str, log: Log) -> tuple[FoundSettings | None, str]:
    """Returns the settings under which a network's predictions are its own (None: the predictions are empty), and a
    line on how well they fit."""
    written = ModelEntry(**model)
    own = witnesses.find(str(written.predictions), dataset, written.name)
    held, found = held_and_found(written, dataset, own, log, modality)
    if found is None and not any(each.union for each in held):  # nothing tells one setting from another
        return None, verdict(written.name, held)
    if found is None:
        found = FoundSettings(model={}, dataset={}, share=1.0, words=(), trials=1, seconds=0.0)
    else:
        changed = build_dataset({**entry, **found.dataset}, str(entry["name"]))
        held = _compare(ModelEntry(**{**model, **found.model}), changed, own)
    return replace(found, share=min(each.share for each in held)), verdict(written.name, held)


def held_and_found(
    model: ModelEntry, dataset: Dataset, own: Witness, log: Log, modality: str = ""
) -> tuple[list[Held], FoundSettings | None]:
    """Returns a `model` held against its `own` predictions of a `dataset` as stated, if it runs, and what is found if
    it is another. `modality` and `log` are those of `unstated.find`."""
    held = list[Held]()
    with suppress(UserError):
        held = _compare(model, dataset, own)
        if not any(each.is_other for each in held):
            return held, None
    return held, unstated.find(model, dataset, own, modality, log)


def _compare(model: ModelEntry, dataset: Dataset, own: Witness) -> list[Held]:
    spec = _spec(model, dataset)
    network = models.load(spec, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    return [hold(network, spec, dataset, ref, own.files[ref.case_id]) for ref in own.refs]


def _spec(model: ModelEntry, dataset: Dataset) -> ModelSpec:
    facts = facts_on(model, dataset, dataset.refs())
    return resolve(model, len(dataset.classes), dataset.num_channels, dataset.space, facts=facts)


def questions(entry: ModelEntry, facts: Facts, dataset: Dataset) -> Iterator[tuple[Entry, str]]:
    """Yields all that a job has to say of the network of an `entry`, of which `facts` are known, before it can be run
    on a dataset, as lines to write."""
    if not source_of(facts.arch).is_checkpoint or seed_of(facts.path) is not None or facts.is_own:
        return
    shown = shown_channels(facts)
    for name in open_args(facts.arch, entry.args, shown):
        values = ", ".join(map(json.dumps, unstated.OPEN.get(name, ())))
        yield "model", f"args: {{{name}: ...}}    # asked: its weights load with any: {values}"
    known = migrations_of(facts.arch)
    if entry.migration is None and any(migration.extra for migration in known.values()):
        why = f"asked: by the release of MONAI that trained it: {', '.join(known)}"
        yield "model", f"migration: {next(iter(known))}    # {why}"
    outputs = shown.out_channels
    classes = dataset.classes
    wanted = entry.num_outputs(len(classes), entry.head(facts.outputs)) or outputs
    if outputs and outputs != wanted:
        yield "model", f"# {outputs} outputs for {len(classes)} classes: {advice_on_classes(outputs, wanted or 0)}"
        if outputs == len(classes) - 1:
            regions = {name: [k] for k, name in enumerate(classes.names) if k}
            yield "model", "outputs: sigmoid    # if each output is a region, as for BraTS"
            yield "dataset", f"{yaml_line('regions', regions)}    # then: the labels of each output, in their order"
    if shown.in_channels and shown.in_channels != dataset.num_channels and facts.arch != "slices":
        counts = f"{shown.in_channels} channels go in, the data has {dataset.num_channels}"
        yield "dataset", f"# {counts}: `loader: pairs` takes a file a channel"


def _verdict(dataset: Dataset, spec: ModelSpec, expected: float | None, ref: CaseRef, is_trained: bool) -> str:
    if dataset.reference == "prediction" or not is_trained:
        return f"no clean Dice: {'the weights are untrained' if not is_trained else 'there are no labels'}"
    if math.isnan(dice := clean_dice(dataset, spec, ref)):
        return f"no clean Dice: the label of {ref.case_id} has no class of the foreground"
    said = f"clean Dice of {ref.case_id}: {dice:.3f} (foreground)"
    return f"{said} is low: {CAUSES}" if shortfall(expected, {(ref.patient_id, ref.case_id): dice}) else said


def _why_ct(dataset: Dataset, refs: Sequence[CaseRef], modality: str) -> str | None:
    """Returns why the files look like CT; None if they do not."""
    if dataset.num_channels > 1:
        return None
    if modality:
        return f"CT, as its list says {modality}" if "ct" in re.split(r"\W+", modality.lower()) else None
    low = max(float(np.percentile(dataset.native(ref).image[0].numpy(), 0.5)) for ref in refs[:LOOKED_AT])
    return f"CT, as percentile 0.5 is {low:.0f}" if low < HOUNSFIELD else None
