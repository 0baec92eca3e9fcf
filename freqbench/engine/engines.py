"""Chooses the engine of a run, and carries units out: one after another in this process, or on Ray."""

import importlib.util
import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from threading import Event
from typing import Literal

import torch

from freqbench.core.errors import UserError
from freqbench.core.interrupt import alongside
from freqbench.core.machine import available_cores, available_memory, available_threads, pause_gc, stated_threads
from freqbench.core.terminal import amount
from freqbench.engine import saved_volumes
from freqbench.engine.progress import Clock, Listener
from freqbench.engine.resources import Node, Pool, room, share
from freqbench.engine.rows import add_surfaces
from freqbench.engine.schedule import Schedule
from freqbench.engine.worker import Worker, WorkerSpec
from freqbench.job.cells import Unit
from freqbench.job.plan import Plan
from freqbench.job.schema import Resources
from freqbench.models import GRAPH_BYTES, ModelSpec, step_bytes

Engine = Literal["auto", "ray", "serial"]
SHORT_S = 90.0  # of one worker: Ray takes 20 s to start its own, which two of them do not win back
HANGS_S = 60.0  # without a pass, after which a unit of the serial engine is reported


def run_plan(
    plan: Plan, engine: Engine, address: str | None, spec: WorkerSpec, listener: Listener, seconds: float = math.inf
) -> None:
    """Carries out a plan with the requested engine, or the one that pays off, after telling it to the listener.

    Args:
        plan: the units, clean ones first.
        engine: `ray`, `serial`, or `auto`, which starts no Ray for less than SHORT_S `seconds` of one worker, unless
            the job states its workers.
        address: place of a Ray cluster; None: that of RAY_ADDRESS, else a Ray that this process starts.
        spec: settings of the workers.
        listener: gets the engine and each unit.
        seconds: estimated seconds of all units on one worker.
    """
    units = (*plan.clean, *plan.units)
    resources = plan.grid.job.resources
    address = address or os.environ.get("RAY_ADDRESS")
    if not address and resources.threads == "auto" and (threads := stated_threads()):
        resources = resources.model_copy(update={"threads": min(threads, available_cores())})
    has_ray = importlib.util.find_spec("ray") is not None
    if engine == "ray" and not has_ray:
        raise UserError("the ray engine needs the package ray: pip install ray, or take --engine serial")
    is_auto = engine == "auto" and not address
    is_serial = engine == "serial" or not has_ray or (is_auto and resources.workers == "auto" and seconds < SHORT_S)
    if not is_serial:
        model_bytes = _bytes_of_models(units, spec, listener)
        one = Node(cores=available_cores(), gpus=torch.cuda.device_count(), memory=available_memory())
        pool = share(resources, [one], len(plan.units), model_bytes)
        is_serial = is_auto and pool.workers == 1
    if is_serial:
        spec = replace(spec, threads=available_threads() if resources.threads == "auto" else resources.threads)
        listener.use({"name": "serial", "workers": 1, "threads": spec.threads})
        serial(units, spec, listener)
    else:
        _run_on_ray(plan, resources, address, spec, listener, pool, model_bytes)


def _bytes_of_models(units: Sequence[Unit], spec: WorkerSpec, listener: Listener) -> int:
    """Returns the bytes that a step of the largest network takes, with the graphs of an attack on a prediction."""
    models: dict[str, ModelSpec] = {}
    for unit in units:
        models |= {model.model_id: model for model in (*unit.cell.models, *unit.targets)}
    listener.wait(f"waiting for {amount(len(models), 'network')} to be measured")
    with pause_gc():  # imports networks
        model_bytes = (spec.window_batch or 1) * max(map(step_bytes, models.values()))
    if any(unit.cell.attack.follows_prediction for unit in units):
        model_bytes += GRAPH_BYTES
    return model_bytes


def _run_on_ray(
    plan: Plan,
    resources: Resources,
    address: str | None,
    spec: WorkerSpec,
    listener: Listener,
    pool: Pool,
    model_bytes: int,
) -> None:
    """Carries out a plan on the Ray cluster at `address`, which gets a pool of its own, or on one started here."""
    from freqbench.engine.ray import ray_cluster

    def use(pool: Pool) -> None:
        workers = {"workers": pool.workers, "threads": pool.threads, "gpus_per_worker": pool.gpus}
        listener.use({"name": "ray", **workers})

    if not address:
        use(pool)
    listener.wait("waiting for Ray to start" if not address else f"waiting for the Ray cluster at {address}")
    schedule = Schedule((*plan.clean, *plan.units))
    cpus = pool.workers * pool.threads + 1
    with ray_cluster.existing(address) if address else ray_cluster.own(cpus):
        from freqbench.engine.ray import ray_engine  # only after Ray has its environment

        following = None
        if address:
            nodes = list(ray_cluster.machines().values())
            saved_volumes.require_shared(spec.volumes, len(nodes))
            if len(nodes) > 1 and "://" not in (spec.learned or ""):
                spec = replace(spec, learned=None)  # nodes do not share the folder: each learns separately
            pool = share(resources, nodes, len(plan.units), model_bytes, grows=True)
            following = partial(room, resources, pool, model_bytes)
            use(pool)
        listener.wait(f"waiting for {amount(pool.workers, 'worker')} to start, and the first network and case to load")
        spec = replace(spec, threads=pool.threads, gpu_share=pool.memory_share)
        ray_engine.run(schedule, spec, pool, listener, plan.grid.job.case_timeout, following)


def hangs_told(worker: Worker, unit: Unit, tell: Callable[[str], None]) -> AbstractContextManager[None]:
    """Returns a context that gives `tell` a line on its unit if no network of `worker` has made a pass for HANGS_S
    seconds, and again after twice as many."""
    worker.passed = began = time.monotonic()

    def watch(ended: Event) -> None:
        said = worker.passed, HANGS_S
        while not ended.wait(HANGS_S / 10):
            passed = worker.passed
            now = time.monotonic()
            due = said[1] if passed == said[0] else HANGS_S
            if now - passed >= due:
                said = passed, 2 * due
                tell(
                    f"waiting for {unit.name} of {unit.cell.dataset.name} (cell {unit.cell.cell_id}), begun "
                    f"{now - began:.0f} s ago: no network has made a pass for {now - passed:.0f} s: it loads, scores "
                    "or hangs. Ctrl-C ends the run; with --engine ray and case_timeout: SECONDS in the job, an "
                    "attack that hangs is given up"
                )

    return alongside(watch, "hangs")


def serial(units: Sequence[Unit], spec: WorkerSpec, listener: Listener) -> None:
    """Carries out units in the schedule's order by one worker of `spec`; the listener gets each and its outcome."""
    listener.wait("waiting for the first network and case to load")
    worker = Worker(spec)
    schedule = Schedule(units)
    clock = Clock(worker=1)
    worker.keep = listener.keep
    clock.start(platform.node())
    while unit := schedule.take("serial"):
        listener.begin(unit)
        worker.advance = partial(listener.advance, unit)
        started = time.monotonic()
        with hangs_told(worker, unit, listener.tell):
            made, masks = worker.run(unit, prefetch=schedule.next_unit("serial"))
            outcome = add_surfaces(unit, made, masks)
            loaded = made.load_seconds
        outcome = replace(outcome, load_seconds=loaded, device_seconds=time.monotonic() - started - loaded)
        clock.add(outcome)
        listener.tick([clock.facts(waits=False)])
        listener.take(outcome)
        schedule.end(unit)
