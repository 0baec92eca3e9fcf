"""Chooses how a first job scales intensities, by the files and by the clean Dice of the first case under each way."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from freqbench import models
from freqbench.core.documents import object_of
from freqbench.core.types import NO_LABEL, CaseRef
from freqbench.data import Dataset
from freqbench.data.loaders.phantom import WINDOW_HU
from freqbench.engine import memory, scoring
from freqbench.job.schema import build_dataset
from freqbench.models import ModelEntry, ModelSpec, resolve

LOOKED_AT = 3  # cases whose intensities are read
HOUNSFIELD = -200.0  # percentile 0.5 of a CT, which has air and fat, is below
MARGIN = 0.01  # Dice by which a later way must be better to be taken: the first is the usual one

Intensity = str | dict[str, list[float]]


@dataclass(frozen=True, kw_only=True)
class Found:
    """Result of `intensity_for`.

    Attributes:
        intensity: the way for the job; None: the loader's, or the network's own.
        reason: why this one, in a line.
        verdict: the clean Dice of the first case, or why there is none, in a line.
        is_black_box: the network has no gradient.
    """

    intensity: Intensity | None
    reason: str
    verdict: str
    is_black_box: bool


def clean_dice(dataset: Dataset, spec: ModelSpec, ref: CaseRef) -> float:
    """Returns the foreground Dice of a network's clean prediction of a case on the grid that is attacked; NaN: none."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, case = models.load(spec, device), dataset.load(ref, spec.space)
    predict = partial(models.predict, model.for_case(case), case.image)
    pred, _ = memory.within_memory(predict, memory.INFERENCE_WINDOWS)
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


def intensity_for(entry: Mapping[str, Any], model: ModelEntry, modality: str, is_trained: bool) -> Found:
    """Chooses the scaling of intensities for a dataset's entry of a job and a network.

    A network that states its own space needs none. Else the ways that suit the files are tried, the usual one first: of
    CT (by `modality`, or by percentile 0.5 below HOUNSFIELD) the papers' abdominal window, then the range inside the
    labels, which nnU-Net takes; of MR the loader's default, then z-scores. The best clean Dice of the first case
    decides. Without trained weights or labels the first way stays.
    """
    place = str(entry["name"])
    dataset = build_dataset(entry, place)
    refs = dataset.refs()
    first = refs[0].case_id
    spec = resolve(model, dataset.num_classes, dataset.num_channels)
    untried = "there are no labels" if dataset.reference == "prediction" else ""
    untried = untried or ("" if is_trained else "the weights are untrained")
    if spec.space is not None or "intensity" not in type(dataset).model_fields or "intensity" in entry:
        whose = "the network's own" if spec.space is not None else "the loader's own"
        ways = [Way(intensity=None, reason=whose)]
    else:
        ways = list(_ways(dataset, refs, modality))

    def found(way: Way, verdict: str, beside: str = "") -> Found:
        reason = way.reason + beside
        return Found(intensity=way.intensity, reason=reason, verdict=verdict, is_black_box=spec.black_box is not None)

    if untried:
        return found(ways[0], f"no clean Dice: {untried}")
    scores = []
    for way in ways:
        changed = build_dataset({**entry, **way.key}, place)
        scores.append(clean_dice(changed, resolve(model, changed.num_classes, changed.num_channels), refs[0]))
    if any(math.isnan(score) for score in scores):
        verdict = f"no clean Dice: the label of {first} has no class of the foreground"
        return found(ways[0], verdict)
    best = next(i for i, score in enumerate(scores) if score >= max(scores) - MARGIN)
    tried = ", ".join(f"{way} {score:.3f}" for way, score in zip(ways, scores, strict=True))
    beside = f"; clean Dice of {first} by intensity: {tried}" if len(ways) > 1 else ""
    verdict = f"clean Dice of {first}: {scores[best]:.3f} (foreground)"
    return found(ways[best], verdict, beside)


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way to scale intensities: a job's value (None: the loader's default), and why it may be right."""

    intensity: Intensity | None
    reason: str

    @property
    def key(self) -> dict[str, Intensity]:
        """The key of a dataset's entry; empty for the default."""
        return {} if self.intensity is None else {"intensity": self.intensity}

    def __str__(self) -> str:
        return "default" if self.intensity is None else str(self.intensity).translate(str.maketrans("", "", "{}'"))


def _ways(dataset: Dataset, refs: Sequence[CaseRef], modality: str) -> Iterator[Way]:
    """Yields the ways that suit the files, the usual one first."""
    inside, lows = [], []
    for native in map(dataset.native, refs[:LOOKED_AT]):
        voxels, label = native.image[0].numpy(), native.label[0].numpy()
        lows.append(float(np.percentile(voxels, 0.5)))
        inside.append(voxels[(label > 0) & (label < NO_LABEL)])
    labelled = np.concatenate(inside)
    is_named = "ct" in re.split(r"\W+", modality.lower())
    if dataset.num_channels > 1 or not (is_named or (not modality and max(lows) < HOUNSFIELD)):
        yield Way(intensity=None, reason="the range of each volume, as for MR")
        yield Way(intensity="zscore", reason="z-scores, with which the network predicts best")
        return
    why = f"CT ({f'its list says {modality}' if is_named else f'percentile 0.5 is {max(lows):.0f}'})"
    yield Way(intensity={"window": list(WINDOW_HU)}, reason=f"{why}: the papers' abdominal window")
    if labelled.size:
        low, high = (float(round(float(bound))) for bound in np.percentile(labelled, (0.5, 99.5)))
        if low < high:
            yield Way(intensity={"window": [low, high]}, reason=f"{why}: percentiles 0.5 and 99.5 inside the labels")
    yield Way(intensity=None, reason="the range of each volume, with which the network predicts best")
