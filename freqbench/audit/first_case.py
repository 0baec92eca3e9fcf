"""Looks at the first cases of a job to be written: their intensities, what is assumed, and the first clean Dice."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from freqbench import models
from freqbench.core.documents import object_of
from freqbench.core.types import CaseRef
from freqbench.data import Dataset
from freqbench.data.loaders.phantom import WINDOW_HU
from freqbench.engine import memory, scoring
from freqbench.job.fit import Assumption, assumptions, facts_on
from freqbench.job.schema import build_dataset
from freqbench.models import Facts, ModelEntry, ModelSpec, resolve

LOOKED_AT = 3  # cases whose intensities are read
HOUNSFIELD = -200.0  # percentile 0.5 of a CT, which has air and fat, is below


@dataclass(frozen=True, kw_only=True)
class FirstCase:
    """Result of `first_case`.

    Attributes:
        intensity: the job's for these files; None: the loader's, or the network's own.
        assumed: what nobody told of the network.
        verdict: the clean Dice of the first case, or why there is none, in a line.
        is_black_box: the network has no gradient.
    """

    intensity: dict[str, list[float]] | None
    assumed: tuple[Assumption, ...]
    verdict: str
    is_black_box: bool


def clean_dice(dataset: Dataset, spec: ModelSpec, ref: CaseRef) -> float:
    """Returns the foreground Dice of a network's clean prediction of a case on the grid that is attacked; NaN: none."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, case = models.load(spec, device), dataset.load(ref, spec.space)
    predict = partial(models.predict, model.for_case(case), case.image)
    pred, _ = memory.fit_memory(predict, memory.INFERENCE_WINDOWS)
    (overlap,) = scoring.score_prediction(scoring.label_maps(pred, case, dataset), ["dsc"])
    return float(overlap.record["dsc_foreground"])


def modality_of(root: str) -> str:
    """Returns the modalities that the list of a folder names, such as `CT`; empty if it names none."""
    path = Path(root) / "dataset.json"
    if not path.is_file():
        return ""
    content = object_of(path.read_bytes(), str(path))
    named = content.get("modality", content.get("channel_names"))
    return " ".join(map(str, named.values())) if isinstance(named, dict) else str(named or "")


def first_case(entry: Mapping[str, Any], model: ModelEntry, is_trained: bool) -> FirstCase:
    """Reads the intensities that suit a dataset's files, what is assumed of a network, and its first clean Dice.

    Nothing is fitted to the Dice: a value that hides another fault would pass for the right one. A network that states
    its own space, and an entry that states its `intensity`, need none; CT (by the folder's list, or by percentile 0.5
    below HOUNSFIELD) gets the papers' abdominal window, all else the loader's default.
    """
    place = str(entry["name"])
    dataset = build_dataset(entry, place)
    refs = dataset.refs()
    facts = facts_on(model, dataset, refs)
    spec = resolve(model, len(dataset.classes), dataset.num_channels, facts=facts)
    found = assumptions(model, facts, dataset, entry)
    is_free = spec.space is None and "intensity" in type(dataset).model_fields and "intensity" not in entry
    intensity: dict[str, list[float]] | None = None
    if is_free and (reason := _why_ct(dataset, refs, modality_of(str(entry["root"])))):
        intensity, why = {"window": list(WINDOW_HU)}, f"{reason}: the papers' abdominal window"
        dataset = build_dataset({**entry, "intensity": intensity}, place)
        found = tuple(replace(each, value=intensity, why=why) if each.key == "intensity" else each for each in found)
    return FirstCase(
        intensity=intensity,
        assumed=found,
        verdict=_verdict(dataset, model, facts, refs[0], found, is_trained),
        is_black_box=spec.black_box is not None,
    )


def _why_ct(dataset: Dataset, refs: Sequence[CaseRef], modality: str) -> str | None:
    """Returns why the files look like CT; None if they do not."""
    if dataset.num_channels > 1:
        return None
    if modality:
        return f"CT, as its list says {modality}" if "ct" in re.split(r"\W+", modality.lower()) else None
    low = max(float(np.percentile(dataset.native(ref).image[0].numpy(), 0.5)) for ref in refs[:LOOKED_AT])
    return f"CT, as percentile 0.5 is {low:.0f}" if low < HOUNSFIELD else None


def _verdict(
    dataset: Dataset, model: ModelEntry, facts: Facts, ref: CaseRef, assumed: Sequence[Assumption], is_trained: bool
) -> str:
    if dataset.reference == "prediction" or not is_trained:
        return f"no clean Dice: {'the weights are untrained' if not is_trained else 'there are no labels'}"
    spec = resolve(model, len(dataset.classes), dataset.num_channels, facts=facts)
    dice = clean_dice(dataset, spec, ref)
    if math.isnan(dice):
        return f"no clean Dice: the label of {ref.case_id} has no class of the foreground"
    said = f"clean Dice of {ref.case_id}: {dice:.3f} (foreground)"
    if dice >= model.floor or not assumed:
        return said
    return f"{said} is low: {', '.join(each.key for each in assumed)} are assumed: set what the training used"
