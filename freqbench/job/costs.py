"""Estimates the seconds of each unit, from rows of its store, from earlier runs on this machine, or from operations."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from time import perf_counter
from typing import Any

import pyarrow.compute as pc
import torch

from freqbench.attacks import ATTACKS
from freqbench.core.files.kept import Kept
from freqbench.core.machine import available_cores, core_seconds, slowdown
from freqbench.core.types import CaseRef
from freqbench.job.cells import Unit
from freqbench.models import forward_flops, num_windows, step_bytes
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


def estimate_costs(units: Sequence[Unit], metrics: Sequence[str], store: Store | None) -> Costs:
    """Estimates what units cost one worker that scores them by `metrics`. Seconds per pass of each source model and
    attack, and seconds to score a record of each target by these metrics, are those of earlier runs on this machine
    (`Spent`), times the factor by which other processes slow it down now; else those of the latest run in the store, as
    an older run may have used another machine. Models without any are estimated by the operations and bytes of a pass,
    at the rate that the others reach; if there are no others, at the rate of a worker now, beside the other load, or of
    a usual GPU: right to a factor of about three."""
    a_pass, a_record = measured_paces(store, metrics) if store else ({}, {})
    rate, slower = _speed() if units else (GPU_FLOPS, 1.0)
    models = {model.model_id: model for unit in units for model in (*unit.cell.models, *unit.targets)}
    for model_id in models:
        for name, seconds in PACES.get(dict, lambda: False, model=model_id, on_gpu=torch.cuda.is_available()).items():
            if name == _record(metrics):
                a_record[model_id] = seconds * slower
            elif not name.startswith(RECORD):
                a_pass[model_id, name or None] = seconds * slower
    operations = {name: forward_flops(model) + OPERATIONS_A_BYTE * step_bytes(model) for name, model in models.items()}
    known = [(operations[name], seconds) for (name, any_), seconds in a_pass.items() if not any_ and name in operations]
    rate = sum(number for number, _ in known) / sum(seconds for _, seconds in known) if known else rate
    is_rough = False
    learning = set[str]()
    predicted = set[tuple[CaseRef, str]]()
    attack = dict[Place, float]()
    scoring = dict[Place, float]()
    for unit in units:
        source = unit.cell.source.model_id
        passes = unit.passes_on(unit.cell.source)
        if unit.cell.cell_id not in learning:
            learning.add(unit.cell.cell_id)
            passes += unit.cell.learning_passes
        seconds_a_pass = a_pass.get((source, unit.cell.attack.name)) or a_pass.get((source, None))
        is_rough |= passes > 0 and seconds_a_pass is None
        if seconds_a_pass:
            attack[place(unit)] = passes * seconds_a_pass
        else:
            beside = sum(unit.passes_on(model) * operations[model.model_id] for model in unit.cell.surrogates)
            attack[place(unit)] = (passes * operations[source] + beside) / rate
        scoring[place(unit)] = 0.0
        for target in unit.targets:
            is_clean_new = (unit.ref, target.model_id) not in predicted
            predicted.add((unit.ref, target.model_id))
            is_rough |= target.model_id not in a_record
            shape = unit.cell.dataset.shape_in(unit.ref, target.space)
            windows = num_windows(target, shape, unit.ref) * target.predictions * (1 + is_clean_new)
            predicting = windows * 2 ** len(target.inference.mirror) * operations[target.model_id] / rate
            scoring[place(unit)] += a_record.get(target.model_id, predicting + SCORING_S * math.prod(shape))
    return Costs(attack=attack, scoring=scoring, basis=(ROUGH if is_rough else BASIS) if units else None)


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
    by_surrogates = {name for name, attack in ATTACKS.items() if attack.needs_surrogates}
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


class Spent:
    """Adds up the seconds of a run, without other load, and keeps them per pass and record in the node's cache."""

    def __init__(self) -> None:
        # Seconds and passes by source, device and attack; seconds and records by target, device and metrics.
        self._spent = defaultdict[tuple[str, bool, str], list[float]](lambda: [0.0, 0.0])

    def add(self, record: Mapping[str, Any], slower: float = 1.0) -> None:
        """Adds a row of RECORDS, made by a worker that others slowed down; one that failed has no seconds."""
        if record["status"] != "ok":
            return
        passes = (record.get("num_forwards") or 0) + (record.get("num_backwards") or 0)
        device = record.get("device")
        attacked = record["source_model_id"], record["attack"], passes
        scored = record["target_model_id"], _record((record["metrics"] or "").split(",")), 1
        for kind, (model_id, name, number) in {"attack": attacked, "score": scored}.items():
            if (seconds := record.get(f"{kind}_seconds")) and number:
                spent = self._spent[model_id, device not in (None, "cpu"), name]
                spent[0], spent[1] = spent[0] + seconds / slower, spent[1] + number

    def remember(self) -> None:
        """Keeps all by model and device; what earlier runs left of other attacks and metrics stays."""
        by_surrogates = {name for name, attack in ATTACKS.items() if attack.needs_surrogates}
        for model_id, on_gpu in {whose[:2] for whose in self._spent}:
            own = {whose[2]: spent for whose, spent in self._spent.items() if whose[:2] == (model_id, on_gpu)}
            paces = {name: seconds / number for name, (seconds, number) in own.items()}
            if alone := [spent for name, spent in own.items() if name not in by_surrogates and RECORD not in name]:
                paces[""] = sum(seconds for seconds, _ in alone) / sum(passes for _, passes in alone)
            asked: dict[str, Any] = {"model": model_id, "on_gpu": on_gpu}
            PACES.put(PACES.get(dict, lambda: False, **asked) | paces, **asked)


def _record(metrics: Sequence[str]) -> str:
    return RECORD + ",".join(sorted(metrics))
