"""The Ray engine: workers as actors, one unit in flight on each, surface distances as tasks beside them.

Ray places, starts and restarts the workers. What is tried again is decided here, with Ray's own retries off: only
because a worker has one unit at a time is it known which unit a dying worker had.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError

from freqbench.engine import cluster, rows
from freqbench.engine.attempt import Attempt
from freqbench.engine.listener import Listener
from freqbench.engine.masks import score_masks
from freqbench.engine.resources import Pool
from freqbench.engine.rows import Outcome
from freqbench.engine.schedule import Schedule
from freqbench.engine.worker import Worker, WorkerSpec
from freqbench.errors import UserError
from freqbench.grid import Unit
from freqbench.interrupt import Interrupt, deferred_interrupt

STARTS, START_S = 3, 300.0
TICK_S = 1.0
STOP_S = 60.0
WAITING_S, WAITING_AGAIN_S = 10.0, 60.0
SCORINGS_A_WORKER = 2

Ref = Any  # ray.ObjectRef


def run(
    units: Sequence[Unit],
    spec: WorkerSpec,
    pool: Pool,
    listener: Listener,
    case_timeout: float | None = None,
) -> None:
    """Carry out units on the Ray that this process is connected to.

    The first Ctrl-C (or SIGTERM) lets what is in flight come to its end, for a minute at most; the second one does not.

    Args:
        units: in any order.
        spec: of the workers.
        pool: how many workers, and what each takes.
        listener: told of every unit, and given what came of it.
        case_timeout: seconds after which a unit's worker is killed; None: never.

    Raises:
        UserError: no worker starts.
        KeyboardInterrupt: it was interrupted; what came through before has been handed over.
    """
    driver = _Driver(Schedule(units), spec, pool, listener, case_timeout)
    try:
        with deferred_interrupt() as interrupt:
            driver.carry_out(interrupt)
    finally:
        driver.close()


class RemoteWorker(Worker):
    """A worker that says where it is."""

    def ready(self) -> str:
        """Once it answers it can work; returns the id of its machine."""
        return str(ray.get_runtime_context().get_node_id())


@dataclass(kw_only=True)
class _Slot:
    """A worker's place: its actor, and what that is waited for."""

    number: int
    actor: Any
    ready: Ref | None
    since: float
    starts: int = 0
    node: str = ""
    attempt: Attempt | None = None
    outcome: Ref | None = None
    masks: Ref | None = None
    killed: bool = False

    @property
    def is_idle(self) -> bool:
        return self.ready is None and self.outcome is None


@dataclass(kw_only=True)
class _Scoring:
    """An outcome that waits for its surface distances."""

    attempt: Attempt
    outcome: Outcome
    masks: Ref


class _Driver:
    def __init__(
        self, schedule: Schedule, spec: WorkerSpec, pool: Pool, listener: Listener, case_timeout: float | None
    ) -> None:
        self._schedule = schedule
        self._spec = spec
        self._pool = pool
        self._listener = listener
        self._timeout = case_timeout
        self._attempts: dict[int, Attempt] = {}  # by identity of the unit, of those that were put back
        self._scorings: dict[Ref, _Scoring] = {}
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._writes: deque[Future[None]] = deque()
        self._ticked = self._said_waiting = time.monotonic()
        actor = ray.remote(RemoteWorker).options(
            num_cpus=pool.threads, num_gpus=pool.gpus, max_restarts=-1, max_task_retries=0
        )
        self._start: Callable[[], Any] = partial(actor.remote, spec)
        spare = sum(node.cores for node in cluster.nodes()) - pool.workers * pool.threads
        self._score = ray.remote(score_masks).options(num_cpus=1 if spare >= 1 else 0, max_retries=0)
        self._slots = [self._slot(number) for number in range(1, pool.workers + 1)]

    def carry_out(self, interrupt: Interrupt) -> None:
        stop_at = None
        while self._in_flight() or (len(self._schedule) and not stop_at):
            if interrupt.requested and not stop_at:
                stop_at = time.monotonic() + STOP_S
                self._listener.tell(
                    f"stopping when what is in flight is finished ({self._in_flight()} units, {STOP_S:.0f} s at most); "
                    "the same again stops now"
                )
            if stop_at and (time.monotonic() > stop_at or not self._in_flight()):
                break
            self._round(feed=not stop_at)
        if stop_at:
            raise KeyboardInterrupt

    def close(self) -> None:
        """Everything that came through is handed over; the workers go."""
        for slot in self._slots:
            ray.kill(slot.actor)
        self._writer.shutdown(wait=True)
        while self._writes:
            self._writes.popleft().result()

    def _in_flight(self) -> int:
        return len(self._scorings) + sum(slot.outcome is not None for slot in self._slots)

    def _round(self, feed: bool) -> None:
        """Give work, wait for something to happen, and see to it."""
        if not self._slots:
            raise UserError("no worker starts: see the warnings above and the logs of Ray, as a rule in /tmp/ray")
        if feed:
            for slot in self._slots:
                self._feed(slot)
        by_ref: dict[Ref, _Slot] = {}
        for slot in self._slots:
            if (awaited := slot.ready or slot.outcome) is not None:
                by_ref[awaited] = slot
        found, _ = ray.wait([*by_ref, *self._scorings], timeout=TICK_S, fetch_local=False)
        for ref in found:
            if ref in self._scorings:
                self._scored(ref)
            elif by_ref[ref].ready is not None:
                self._started(by_ref[ref])
            else:
                self._came_through(by_ref[ref], feed)
        now = time.monotonic()
        if now - self._ticked >= TICK_S:
            self._ticked = now
            self._write(self._listener.tick)
            self._kill_overdue(now)
            self._say_what_is_waited_for(now)
        while self._writes and self._writes[0].done():
            self._writes.popleft().result()

    def _feed(self, slot: _Slot) -> None:
        """The next unit of an idle worker, unless scoring lags behind."""
        if not slot.is_idle or len(self._scorings) >= SCORINGS_A_WORKER * self._pool.workers:
            return
        unit = self._schedule.take(slot.number)
        if unit is None:
            return
        slot.attempt = self._attempts.pop(id(unit), None) or Attempt(unit=unit)
        run = slot.actor.run.options(num_returns=2)
        slot.outcome, slot.masks = run.remote(unit, prefetch=self._schedule.next_unit(slot.number))
        slot.since = time.monotonic()
        self._listener.begin(unit)

    def _came_through(self, slot: _Slot, feed: bool) -> None:
        attempt, outcome_ref, masks = slot.attempt, slot.outcome, slot.masks
        if attempt is None:
            raise RuntimeError(f"worker {slot.number} answered without having been asked")
        killed, slot.killed = slot.killed, False
        slot.attempt = slot.outcome = slot.masks = None
        try:
            outcome: Outcome = ray.get(outcome_ref)
        except RayTaskError as error:
            self._give_up(attempt, f"the worker could not run it: {cluster.cause(error)}")
            return
        except RayError as error:
            self._died(slot, attempt, error, killed)
            return
        if feed:
            self._feed(slot)
        if outcome.failed or "hd95" not in self._spec.metrics:
            self._take(outcome)
        else:
            self._scorings[self._score.remote(masks)] = _Scoring(attempt=attempt, outcome=outcome, masks=masks)

    def _scored(self, ref: Ref) -> None:
        scoring = self._scorings.pop(ref)
        try:
            self._take(scoring.outcome.with_scores(ray.get(ref)))
        except RayTaskError as error:
            self._give_up(scoring.attempt, cluster.cause(error), scoring.outcome.measured())
        except RayError as error:
            self._lost(scoring.attempt, f"its masks or the process that scored them were lost ({cluster.cause(error)})")

    def _died(self, slot: _Slot, attempt: Attempt, error: RayError, killed: bool) -> None:
        """A worker died over a unit: begin it anew, and see whose fault it was."""
        self._schedule.leave(slot.number)
        slot.since = time.monotonic()
        self._restart(slot, error)
        reason = f"its worker died ({cluster.cause(error)})"
        if killed:
            reason = f"it took longer than case_timeout = {self._timeout:g} s"
        preempted = getattr(error, "preempted", False) or not cluster.is_alive(slot.node)
        self._lost(attempt, "its machine is gone" if preempted else reason, node_loss=preempted)

    def _lost(self, attempt: Attempt, reason: str, node_loss: bool = False) -> None:
        """What a unit was about to give is lost: it waits again, or is given up."""
        attempt.lose(node_loss)
        if attempt.is_hopeless:
            self._give_up(attempt, f"{reason}, {attempt.losses} times")
            return
        self._listener.warn(f"{attempt.name}: {reason}: it is tried again")
        self._attempts[id(attempt.unit)] = attempt
        self._schedule.put_back(attempt.unit)

    def _give_up(self, attempt: Attempt, reason: str, measured: dict[str, Any] | None = None) -> None:
        empty = {"run_id": self._spec.run_id, "finished_at": datetime.now(UTC), "threads": self._spec.threads}
        self._take(rows.failed(attempt.unit, reason, measured or empty))

    def _take(self, outcome: Outcome) -> None:
        self._write(partial(self._listener.take, outcome))

    def _write(self, action: Callable[[], None]) -> None:
        """Storing may take seconds, which no worker is to wait for."""
        self._writes.append(self._writer.submit(action))

    def _slot(self, number: int) -> _Slot:
        actor = self._start()
        return _Slot(number=number, actor=actor, ready=actor.ready.remote(), since=time.monotonic())

    def _started(self, slot: _Slot) -> None:
        ready, slot.ready = slot.ready, None
        try:
            slot.node = ray.get(ready)
            slot.starts = 0
        except RayError as error:
            waited = time.monotonic() - slot.since
            if slot.starts < STARTS and waited < START_S:
                self._restart(slot, error)
                return
            self._listener.warn(f"worker {slot.number} does not start, and is done without: {cluster.cause(error)}")
            ray.kill(slot.actor)
            self._slots.remove(slot)

    def _restart(self, slot: _Slot, error: RayError) -> None:
        """Ray starts a process that died again, and answers that it is unavailable meanwhile; a constructor that raised
        ends an actor for good."""
        if isinstance(error, ActorDiedError):
            slot.actor = self._start()
            slot.starts += 1
        slot.ready = slot.actor.ready.remote()

    def _kill_overdue(self, now: float) -> None:
        """A hung kernel cannot be ended in another way."""
        for slot in self._slots:
            if self._timeout and slot.outcome is not None and not slot.killed and now - slot.since > self._timeout:
                slot.killed = True
                ray.kill(slot.actor, no_restart=False)

    def _say_what_is_waited_for(self, now: float) -> None:
        waiting = [slot for slot in self._slots if slot.ready is not None and now - slot.since > WAITING_S]
        if waiting and now >= self._said_waiting:
            lack = cluster.shortage({"CPU": self._pool.threads, "GPU": self._pool.gpus})
            if lack:
                self._said_waiting = now + WAITING_AGAIN_S
                self._listener.tell(
                    f"waiting for Ray: {len(waiting)} of {len(self._slots)} workers have not started: {lack}"
                )
