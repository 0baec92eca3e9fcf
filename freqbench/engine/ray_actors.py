"""The workers of the Ray engine as actors: asked for, started again, more or fewer as machines come and go.

Knows no units but the one that is at each worker; what is done, and tried again, is the driver's (`distributed`).
"""

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayError

from freqbench.core.errors import UserError
from freqbench.engine import ray_cluster
from freqbench.engine.attempt import Attempt
from freqbench.engine.listener import Listener
from freqbench.engine.resources import Node, Pool
from freqbench.engine.timing import Clock
from freqbench.engine.worker import Worker, WorkerSpec

STARTS, CRASHES, START_S = 3, 10, 300.0
WAITING_S, WAITING_AGAIN_S = 10.0, 60.0
FOLLOW_S = 5.0

Ref = Any  # ray.ObjectRef


class RemoteWorker(Worker):
    """A worker that says where it is."""

    def ready(self) -> tuple[str, str]:
        """Once it answers it can work; returns the id and the name of its machine."""
        return str(ray.get_runtime_context().get_node_id()), platform.node()


@dataclass(kw_only=True)
class Slot:
    """A worker's place: its actor, and what that is waited for.

    Attributes:
        number: of the worker, from 1; it stays when the actor goes elsewhere.
        clock: of the worker.
        actor: that does the work.
        ready: answers once the actor has started; None when it has.
        since: when it was asked to start, or given its unit.
        refusals: how often in a row its constructor raised.
        crashes: how often in a row its process died before it had started.
        node: id of the machine that it was last ready on.
        attempt: the unit that it is at.
        outcome: of that.
        masks: of that.
        killed: whether it was killed over that.
    """

    number: int
    clock: Clock
    actor: Any
    ready: Ref | None
    since: float
    refusals: int = 0
    crashes: int = 0
    node: str = ""
    attempt: Attempt | None = None
    outcome: Ref | None = None
    masks: Ref | None = None
    killed: bool = False

    @property
    def is_idle(self) -> bool:
        """Whether it can be given a unit."""
        return self.ready is None and self.outcome is None


class Fleet:
    """All workers of a run.

    Args:
        spec: of the workers.
        pool: how many are asked for at first, and what each takes.
        listener: is told of what is waited for, and of machines that come and go.
        room: how many workers some machines have room for; None where no machine can join.
    """

    def __init__(
        self, spec: WorkerSpec, pool: Pool, listener: Listener, room: Callable[[Sequence[Node]], int] | None
    ) -> None:
        self._pool = pool
        self._listener = listener
        self._room = room
        self._machines = ray_cluster.machines()
        actor = ray.remote(RemoteWorker).options(
            num_cpus=pool.threads, num_gpus=pool.gpus, max_restarts=-1, max_task_retries=0
        )
        self._start: Callable[[], Any] = partial(actor.remote, spec)
        self._given_up = 0
        self._free = [Clock(worker=number) for number in range(pool.workers, 0, -1)]
        self._followed = self._said_waiting = time.monotonic()
        self.slots: list[Slot] = []
        self._resize(pool.workers)

    @property
    def spare_cores(self) -> float:
        """What the machines have beside what the workers take."""
        return sum(node.cores for node in self._machines.values()) - len(self.slots) * self._pool.threads

    def awaited(self) -> dict[Ref, Slot]:
        """The workers that something is waited of, by what that is.

        Raises:
            UserError: none is left.
        """
        if not self.slots:
            raise UserError("no worker starts: see the warnings above and the logs of Ray, as a rule in /tmp/ray")
        pairs = ((slot.ready or slot.outcome, slot) for slot in self.slots)
        return {ref: slot for ref, slot in pairs if ref is not None}

    def started(self, slot: Slot) -> None:
        """A worker is ready, or failed to become so."""
        ready, slot.ready = slot.ready, None
        try:
            slot.node, name = ray.get(ready)
        except RayError as error:
            self._not_started(slot, error)
        else:
            slot.refusals = slot.crashes = 0
            slot.clock.start(name)

    def restart(self, slot: Slot, error: RayError) -> None:
        """Ray starts a process that died again, and answers that it is unavailable meanwhile; a constructor that raised
        ends an actor for good."""
        if isinstance(error, ActorDiedError):
            slot.actor = self._start()
        slot.ready = slot.actor.ready.remote()

    def follow_machines(self, num_units: int) -> None:
        """Now and then: workers for machines that joined, and none that waits for one that is gone.

        Args:
            num_units: what is left to do; nothing is asked for beyond it.
        """
        now = time.monotonic()
        if self._room is None or now - self._followed < FOLLOW_S:
            return
        self._followed, before, self._machines = now, self._machines, ray_cluster.machines()
        room = max(1, self._room(list(self._machines.values()))) - self._given_up
        self._resize(max(room, 1) if room < len(self.slots) else max(len(self.slots), min(room, num_units)))
        for count, what in (
            (len(self._machines.keys() - before.keys()), "joined"),
            (len(before.keys() - self._machines.keys()), "gone"),
        ):
            if count:
                self._listener.tell(
                    f"{count} {'machine' if count == 1 else 'machines'} {what}: {len(self.slots)} workers on "
                    f"{len(self._machines)} from now on"
                )

    def say_what_is_waited_for(self) -> None:
        """A line on workers that have not started for long."""
        now = time.monotonic()
        waiting = [slot for slot in self.slots if slot.ready is not None and now - slot.since > WAITING_S]
        if waiting and now >= self._said_waiting:
            lack = ray_cluster.shortage({"CPU": self._pool.threads, "GPU": self._pool.gpus})
            if lack:
                self._said_waiting = now + WAITING_AGAIN_S
                self._listener.tell(
                    f"waiting for Ray: {len(waiting)} of {len(self.slots)} workers have not started: {lack}"
                )

    def facts(self) -> list[dict[str, Any]]:
        """What the time of each worker went to so far."""
        waits = {slot.number: slot.is_idle for slot in self.slots}
        clocks = [*(slot.clock for slot in self.slots), *self._free]
        clocks.sort(key=lambda clock: clock.worker)
        return [clock.facts(waits=waits.get(clock.worker, False)) for clock in clocks if clock.node]

    def close(self) -> None:
        """The workers go."""
        for slot in self.slots:
            ray.kill(slot.actor)

    def _resize(self, wanted: int) -> None:
        """So many workers: new ones are asked for; ones that wait, those of lost machines first, are done without."""
        waiting = [slot for slot in self.slots if slot.ready is not None]
        waiting.sort(key=lambda slot: slot.node in self._machines)
        for slot in waiting[: max(0, len(self.slots) - wanted)]:
            self._remove(slot)
        while len(self.slots) < wanted:
            clock = self._free.pop() if self._free else Clock(worker=len(self.slots) + self._given_up + 1)
            actor = self._start()
            ready, now = actor.ready.remote(), time.monotonic()
            self.slots.append(Slot(number=clock.worker, clock=clock, actor=actor, ready=ready, since=now))

    def _remove(self, slot: Slot) -> None:
        ray.kill(slot.actor)
        self.slots.remove(slot)
        self._free.append(slot.clock)

    def _not_started(self, slot: Slot, error: RayError) -> None:
        slot.refusals += isinstance(error, ActorDiedError)
        slot.crashes += not isinstance(error, ActorDiedError)
        is_hopeless = slot.refusals > STARTS or (slot.crashes >= CRASHES and time.monotonic() - slot.since > START_S)
        if not is_hopeless:
            self.restart(slot, error)
            return
        self._listener.warn(f"worker {slot.number} does not start, and is done without: {ray_cluster.cause(error)}")
        self._remove(slot)
        self._given_up += 1
