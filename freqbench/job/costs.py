"""Estimates the seconds of each unit, from rows of its store, from earlier runs on this machine, or from operations."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from time import perf_counter
from typing import Any, NamedTuple

import pyarrow.compute as pc
import torch

from freqbench.attacks import ATTACKS
from freqbench.core.code import steady
from freqbench.core.files.kept import Kept
from freqbench.core.machine import available_cores, core_seconds, slowdown
from freqbench.core.types import CaseRef
from freqbench.job.cells import Unit
from freqbench.models import ModelSpec, forward_flops, num_windows, step_bytes
from freqbench.results import Store

GPU_FLOPS = 10e12
OPERATIONS_A_BYTE = 100  # of a pass's tensors; fitted to eight networks on a CPU, each right to a factor of four
TRIALS = 10
SCORING_S = 1e-6  # seconds a voxel of a usual set of metrics
MEASURED = ("run_id", "finished_at", "status", "metrics", "source_model_id", "attack", "num_forwards", "num_backwards")
SECONDS = ("attack_seconds", "score_seconds")
RECORD = "a record: "  # before a record's metrics, beside the names of attacks in PACES; "" is any attack
BASIS = "from rows of the store or of earlier runs here"
ROUGH = "rough: counted operations, at this machine's speed now"
Place = tuple[str, str]  # ids of cell and case
Paces = dict[tuple[str, str | None], float]  # seconds a pass by source model and attack; None: by any attack
Scoring = dict[str, float]  # seconds a record by target model
Predicted = set[tuple[CaseRef, str]]  # clean predictions that are paid for: a case and a target
# Seconds a pass by attack, and a record by metrics.
PACES = Kept[Scoring](name="record of seconds", depends=("host", "model", "on_gpu"), place="networks/{key}.json")


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Estimated seconds of units on one worker."""

    attack: Mapping[Place, float]  # with its cell's learning, in its first unit
    scoring: Mapping[Place, float]  # and of predicting
    basis: str | None  # what they were estimated from; None without a unit

    @property
    def total(self) -> float:
        """Seconds of all units."""
        return sum(self.attack.values()) + sum(self.scoring.values())


def place(unit: Unit) -> Place:
    """Returns the ids of a unit's cell and case."""
    return unit.cell.key(unit.ref, unit.targets[0])[:2]


@steady()
def estimate_costs(units: Sequence[Unit], metrics: Sequence[str], store: Store | None) -> Costs:
    """Estimates what units cost one worker that scores them by `metrics`. Seconds per pass of each source model and
    attack, and seconds to score a record of each target by these metrics, are those of earlier runs on this machine
    (`Spent`), times the factor by which other processes slow it down now; else those of the latest run in the store, as
    an older run may have used another machine. Models without any are estimated by the operations and bytes of a pass,
    at the rate that the others reach; if there are no others, at the rate of a worker now, beside the other load, or of
    a usual GPU: right to a factor of about three."""
    a_pass, a_record = measured_paces(store, metrics) if store else ({}, {})
    rate, slower = _speed() if units else (GPU_FLOPS, 1.0)
    models: dict[str, ModelSpec] = {}
    for unit in units:
        models |= {model.model_id: model for model in (*unit.cell.models, *unit.targets)}
    for model_id in models:
        _add_earlier_runs(model_id, _record(metrics), slower, a_pass, a_record)
    operations = {name: forward_flops(model) + OPERATIONS_A_BYTE * step_bytes(model) for name, model in models.items()}
    rate = _rate_reached(a_pass, operations) or rate
    is_rough = False
    learning: set[str] = set()
    predicted = Predicted()
    attack: dict[Place, float] = {}
    scoring: dict[Place, float] = {}
    for unit in units:
        cell = unit.cell
        source = cell.source.model_id
        passes = unit.passes_on(cell.source)
        if cell.cell_id not in learning:
            learning.add(cell.cell_id)
            passes += cell.learning_passes
        seconds_a_pass = a_pass.get((source, cell.attack.name)) or a_pass.get((source, None))
        if seconds_a_pass:
            attack[place(unit)] = passes * seconds_a_pass
        else:
            beside = sum(unit.passes_on(model) * operations[model.model_id] for model in cell.surrogates)
            attack[place(unit)] = (passes * operations[source] + beside) / rate
        scoring[place(unit)] = _scoring_seconds(unit, a_record, operations, rate, predicted)
        is_rough |= passes > 0 and seconds_a_pass is None
        is_rough |= any(target.model_id not in a_record for target in unit.targets)
    return Costs(attack=attack, scoring=scoring, basis=(ROUGH if is_rough else BASIS) if units else None)


def _add_earlier_runs(model_id: str, record: str, slower: float, a_pass: Paces, a_record: Scoring) -> None:
    """Adds the seconds of a model's passes and records in earlier runs here, times the factor that slows it now."""
    kept = PACES.get(dict, lambda: False, model=model_id, on_gpu=torch.cuda.is_available())
    for name, seconds in kept.items():
        if name == record:
            a_record[model_id] = seconds * slower
        elif not name.startswith(RECORD):
            a_pass[model_id, name or None] = seconds * slower


def _rate_reached(a_pass: Paces, operations: Mapping[str, float]) -> float | None:
    """Returns the operations per second of models whose seconds a pass, by any attack, are known; None without one."""
    number: float = 0
    spent: float = 0
    for (model_id, attack), seconds in a_pass.items():
        if not attack and model_id in operations:
            number += operations[model_id]
            spent += seconds
    return number / spent if spent else None


def _scoring_seconds(
    unit: Unit, a_record: Scoring, operations: Mapping[str, float], rate: float, predicted: Predicted
) -> float:
    """Returns the seconds to predict and score a unit by all targets, and notes its clean predictions."""
    total = 0.0
    ref = unit.ref
    for target in unit.targets:
        model_id = target.model_id
        is_clean_new = (ref, model_id) not in predicted
        predicted.add((ref, model_id))
        shape = unit.cell.dataset.shape_in(ref, target.space)
        windows = num_windows(target, shape, ref) * target.predictions * (1 + is_clean_new)
        predicting = windows * 2 ** len(target.inference.mirror) * operations[model_id] / rate
        total += a_record.get(model_id, predicting + SCORING_S * math.prod(shape))
    return total


@cache
def _speed() -> tuple[float, float]:
    """Returns a worker's operations per second, by a convolution (of a GPU usual ones), and how much others slow it."""
    if torch.cuda.is_available():
        return GPU_FLOPS, 1.0
    images = torch.rand(1, 32, 32, 32, 32)
    kernel = torch.rand(32, 32, 3, 3, 3)
    threads = torch.get_num_threads()
    torch.set_num_threads(2 if available_cores() >= 4 else 1)
    with torch.inference_mode():
        for trial in range(TRIALS + 1):
            if trial == 1:  # the first one also sets up
                started = perf_counter()
                before = core_seconds()
            torch.nn.functional.conv3d(images, kernel, padding=1)
    seconds = perf_counter() - started
    slower = slowdown(before)
    torch.set_num_threads(threads)
    return TRIALS * 2 * kernel.numel() * images[0, 0].numel() / seconds, slower


def measured_paces(store: Store, metrics: Sequence[str]) -> tuple[Paces, Scoring]:
    """Returns a store's seconds per pass, of each attack and of any, and per record of each target by these metrics."""
    if store.is_empty:
        return {}, {}
    rows = store.records((*MEASURED, "target_model_id", *SECONDS))
    rows = rows.filter(pc.equal(rows["status"], "ok"))
    rows = rows.append_column("passes", pc.fill_null(pc.add(rows["num_forwards"], rows["num_backwards"]), 0))
    sums = [("finished_at", "max"), *((name, "sum") for name in (*SECONDS, "passes")), ("score_seconds", "count")]

    def latest_last(*keys: str) -> list[dict[str, Any]]:
        grouped = rows.group_by(["run_id", *keys]).aggregate(sums)
        return sorted(grouped.to_pylist(), key=lambda row: row["finished_at_max"])

    a_pass = Paces()
    a_record = Scoring()
    by_surrogates = _surrogate_attacks()
    for row in latest_last("source_model_id", "attack"):
        if row["passes_sum"] and row["attack_seconds_sum"]:
            seconds = row["attack_seconds_sum"] / row["passes_sum"]
            a_pass[row["source_model_id"], row["attack"]] = seconds
            if row["attack"] not in by_surrogates:  # whose seconds include other networks
                a_pass[row["source_model_id"], None] = seconds
    for row in latest_last("target_model_id", "metrics"):
        if row["score_seconds_count"] and _record((row["metrics"] or "").split(",")) == _record(metrics):
            a_record[row["target_model_id"]] = row["score_seconds_sum"] / row["score_seconds_count"]
    return a_pass, a_record


def _surrogate_attacks() -> set[str]:
    """Returns the names of attacks whose seconds include networks beside the source."""
    return {name for name, attack in ATTACKS.items() if attack.needs_surrogates}


class _Pace(NamedTuple):
    """The place of a pace: a model, its device, and an attack or, after RECORD, metrics."""

    model_id: str
    on_gpu: bool
    name: str


@dataclass
class _Sum:
    """Seconds, and the passes or records that they were spent on."""

    seconds: float = 0.0
    number: int = 0


class Spent:
    """Adds up the seconds of a run, without other load, and keeps them per pass and record in the node's cache."""

    def __init__(self) -> None:
        self._spent = defaultdict[_Pace, _Sum](_Sum)

    def add(self, record: Mapping[str, Any], slower: float = 1.0) -> None:
        """Adds a row of RECORDS, made by a worker that others slowed down by the factor `slower`; a `record` that
        failed has no seconds."""
        if record["status"] != "ok":
            return
        on_gpu = record.get("device") not in (None, "cpu")
        passes = (record.get("num_forwards") or 0) + (record.get("num_backwards") or 0)
        attacked = _Pace(record["source_model_id"], on_gpu, record["attack"])
        scored = _Pace(record["target_model_id"], on_gpu, _record((record["metrics"] or "").split(",")))
        for kind, pace, number in (("attack", attacked, passes), ("score", scored, 1)):
            if (seconds := record.get(f"{kind}_seconds")) and number:
                self._spent[pace].seconds += seconds / slower
                self._spent[pace].number += number

    def remember(self) -> None:
        """Keeps all by model and device; what earlier runs left of other attacks and metrics stays."""
        by_surrogates = _surrogate_attacks()
        paces = defaultdict[tuple[str, bool], dict[str, float]](dict)
        alone = defaultdict[tuple[str, bool], _Sum](_Sum)  # of any attack that follows no surrogates
        for (model_id, on_gpu, name), spent in self._spent.items():
            paces[model_id, on_gpu][name] = spent.seconds / spent.number
            if name not in by_surrogates and RECORD not in name:
                alone[model_id, on_gpu].seconds += spent.seconds
                alone[model_id, on_gpu].number += spent.number
        for place, spent in alone.items():
            paces[place][""] = spent.seconds / spent.number
        for (model_id, on_gpu), found in paces.items():
            asked: dict[str, Any] = {"model": model_id, "on_gpu": on_gpu}
            PACES.put(PACES.get(dict, lambda: False, **asked) | found, **asked)


def _record(metrics: Sequence[str]) -> str:
    return RECORD + ",".join(sorted(metrics))
