"""Starts and restarts the workers of a run on Ray, more or fewer as machines join and leave."""

import os
import platform
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import ray
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayError

from freqbench.core.errors import EngineLost, UserError
from freqbench.core.files import node_cache
from freqbench.core.terminal import amount
from freqbench.engine.progress import Clock, Listener
from freqbench.engine.ray import ray_cluster
from freqbench.engine.resources import Node, Pool
from freqbench.engine.retry import Attempt
from freqbench.engine.rows import Masks, Outcome
from freqbench.engine.worker import Worker, WorkerSpec
from freqbench.job.cells import Unit

STARTS = 3
CRASHES = 10
START_S = 300.0
WAITING_S = 10.0
WAITING_AGAIN_S = 60.0
ASIDE = "aside"

Ref = Any  # ray.ObjectRef
Room = Callable[[Sequence[Node]], int]


class RemoteWorker(Worker):
    """A worker that tells its machine, and the progress of its unit from a separate thread."""

    def __init__(self, spec: WorkerSpec) -> None:
        super().__init__(spec)
        os.environ |= {node_cache.LIMIT: "0"} if spec.fresh else {}  # of this process, which is the worker's alone
        self._passes: int | None = None
        self.advance = partial(setattr, self, "_passes")

    def run(self, unit: Unit, prefetch: Unit | None = None) -> tuple[Outcome, Masks | None]:
        """Runs a unit, as `Worker.run` does."""
        self._passes = None
        return super().run(unit, prefetch)

    def ready(self) -> tuple[str, str]:
        """Returns the id and the name of its machine, as soon as it can work."""
        return str(ray.get_runtime_context().get_node_id()), platform.node()

    @ray.method(concurrency_group=ASIDE)  # type: ignore[untyped-decorator]
    def progress(self) -> tuple[int | None, str | None]:
        """Returns the `Unit.passes` made by the last attack, None before it begins, and what the store refuses."""
        return self._passes, self.refusal


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """A unit that a worker received, and the references of its results."""

    attempt: Attempt
    outcome: Ref
    masks: Ref


@dataclass(kw_only=True)
class Slot:
    """A worker's slot, which stays when its actor moves."""

    clock: Clock  # with the worker's number, from 1
    actor: Any
    ready: Ref | None  # answers once the actor has started; None after that
    since: float  # time when it was asked to start, or its unit began
    refusals: int = 0  # consecutive failures of its constructor
    crashes: int = 0  # consecutive crashes before it had started
    node: str = ""  # id of the last machine on which it was ready
    assigned: deque[Assignment] = field(default_factory=deque)  # the unit at work, and those handed ahead
    took: float = float("inf")  # seconds of its last unit
    killed: bool = False  # killed because its current unit took too long
    heard: float = 0.0  # time of its last progress report

    @property
    def is_idle(self) -> bool:
        """True if the worker can receive a unit."""
        return self.ready is None and not self.assigned


class Fleet:
    """All workers of a run: starts and restarts them, more or fewer as machines join and leave. It knows no units."""

    def __init__(self, spec: WorkerSpec, pool: Pool, listener: Listener, room: Room | None) -> None:
        self._pool = pool
        self._listener = listener
        self._room = room
        self._machines = ray_cluster.machines()
        actor = ray.remote(concurrency_groups={ASIDE: 1})(RemoteWorker).options(
            num_cpus=pool.threads, num_gpus=pool.gpus, max_restarts=0, max_task_retries=0
        )
        self._start: Callable[[], Any] = partial(actor.remote, spec)
        self._given_up = 0
        self._free = [Clock(worker=number) for number in range(pool.workers, 0, -1)]
        self._head = ray_cluster.HeadWatch()
        self._said_waiting = time.monotonic()
        self.slots: list[Slot] = []
        self._resize(pool.workers)

    @property
    def spare_cores(self) -> float:
        """Cores of the machines that the workers do not take."""
        return sum(node.cores for node in self._machines.values()) - len(self.slots) * self._pool.threads

    def awaited_workers(self) -> dict[Ref, Slot]:
        """Returns starting and busy workers by the reference of their answer; raises UserError for none."""
        if not self.slots:
            raise UserError("no worker starts: see the warnings above and the logs of Ray, usually in /tmp/ray")
        pairs = ((slot.ready or (slot.assigned[0].outcome if slot.assigned else None), slot) for slot in self.slots)
        return {ref: slot for ref, slot in pairs if ref is not None}

    def handle_start(self, slot: Slot) -> None:
        """Handles a worker that is ready or failed to start; a failed one is restarted or given up."""
        clock = slot.clock
        ready = slot.ready
        slot.ready = None
        try:
            slot.node, name = ray.get(ready)
        except RayError as error:
            is_refusal = isinstance(error, ActorDiedError) and error.actor_init_failed
            slot.refusals += is_refusal
            slot.crashes += not is_refusal
            if slot.crashes == 1 and isinstance(error, OutOfMemoryError):
                self._listener.warn(f"worker {clock.worker} died while it started: {ray_cluster.cause(error)}")
            if slot.refusals <= STARTS and not (slot.crashes >= CRASHES and time.monotonic() - slot.since > START_S):
                self.restart(slot)
                return
            number = clock.worker
            why = ray_cluster.cause(error)
            self._listener.warn(f"worker {number} does not start, and the run goes on without it: {why}")
            self._remove(slot)
            self._given_up += 1
        else:
            slot.refusals = slot.crashes = 0
            clock.start(name)

    def restart(self, slot: Slot) -> None:
        """Restarts a worker; Ray itself would do so without a word, also where it ends each one for lack of memory."""
        ray.kill(slot.actor)
        slot.actor = self._start()
        slot.ready = slot.actor.ready.remote()

    def follow_machines(self, num_units: int) -> None:
        """Requests workers on machines that joined, at most one for each of `num_units` left, gives up those of lost
        machines, and reports those without room. Raises EngineLost if the head is gone, or the only machine is and none
        can join."""
        slots = self.slots
        if not self._head.answers():
            return
        before = self._machines.keys()
        machines = ray_cluster.machines()
        self._machines = machines
        now = time.monotonic()
        waiting = [slot for slot in slots if slot.ready is not None and now - slot.since > WAITING_S]
        if waiting and now >= self._said_waiting:
            sharers = None if self._room else len(slots)  # on a Ray of this process nobody else is
            lack = ray_cluster.shortage({"CPU": self._pool.threads, "GPU": self._pool.gpus}, sharers)
            if lack:
                self._said_waiting = now + WAITING_AGAIN_S
                self._listener.tell(
                    f"waiting for Ray: {len(waiting)} of {amount(len(slots), 'worker')} have not started: {lack}"
                )
        if self._room is None:
            if not machines:
                raise EngineLost(ray_cluster.NO_NODE)
            return
        room = max(1, self._room(list(machines.values()))) - self._given_up
        workers = len(slots)
        self._resize(max(room, 1) if room < workers else max(workers, min(room, num_units)))
        joined = machines.keys() - before
        gone = before - machines.keys()
        for count, what in ((len(joined), "joined"), (len(gone), "gone")):
            if count:
                self._listener.tell(
                    f"{amount(count, 'machine')} {what}: {amount(len(slots), 'worker')} on {len(machines)} from now on"
                )

    def facts(self) -> list[dict[str, Any]]:
        """Returns the use of each worker's time so far."""
        waits = {slot.clock.worker: slot.is_idle for slot in self.slots}
        clocks = sorted([*(slot.clock for slot in self.slots), *self._free], key=lambda clock: clock.worker)
        return [clock.facts(waits=waits.get(clock.worker, False)) for clock in clocks if clock.node]

    def close(self) -> None:
        """Ends the workers."""
        for slot in self.slots:
            ray.kill(slot.actor)

    def _resize(self, wanted: int) -> None:
        """Requests more workers, or ends some that have not started, those of lost machines first."""
        slots = self.slots
        waiting = [slot for slot in slots if slot.ready is not None]
        waiting.sort(key=lambda slot: slot.node in self._machines)
        for slot in waiting[: max(0, len(slots) - wanted)]:
            self._remove(slot)
        while len(slots) < wanted:
            clock = self._free.pop() if self._free else Clock(worker=len(slots) + self._given_up + 1)
            actor = self._start()
            slots.append(Slot(clock=clock, actor=actor, ready=actor.ready.remote(), since=time.monotonic()))

    def _remove(self, slot: Slot) -> None:
        ray.kill(slot.actor)
        self.slots.remove(slot)
        self._free.append(slot.clock)
