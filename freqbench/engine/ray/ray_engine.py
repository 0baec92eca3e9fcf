"""Runs units on Ray: workers are actors with one unit each; tasks beside them score surfaces and components. Retries
are decided here, Ray's own are off: a worker does its units in their order, so that the unit of a dying one is known.
If units are short, a worker has the next one ahead; if it dies then, each of the two is tried again alone."""

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

import ray
from ray.exceptions import NodeDiedError, ObjectLostError, RayError, RayTaskError
from ray.util.metrics import Counter

from freqbench.core.interrupt import Interrupt, deferred_interrupt
from freqbench.engine import rows
from freqbench.engine.progress import Listener
from freqbench.engine.ray import ray_cluster
from freqbench.engine.ray.ray_workers import Assignment, Fleet, Ref, Room, Slot
from freqbench.engine.resources import Pool
from freqbench.engine.retry import Attempt, StoreRefuses
from freqbench.engine.rows import Masks, Outcome, score_masks
from freqbench.engine.schedule import Schedule
from freqbench.engine.scoring import shapes_of
from freqbench.engine.worker import WorkerSpec
from freqbench.job.cells import Unit

TICK_S = 1.0
STOP_S = 60.0
# age of a unit whose worker is asked for its progress; most workers asked per tick
LONG_S = 3.0
MOST_ASKED = 20
SCORINGS_A_WORKER = 2
SHORT_S = 2.0  # after a unit this short, a worker receives one ahead


def run(
    schedule: Schedule,
    spec: WorkerSpec,
    pool: Pool,
    listener: Listener,
    case_timeout: float | None = None,
    room: Room | None = None,
) -> None:
    """Carries out the units of a schedule on the Ray that this process is connected to. The first Ctrl-C (or SIGTERM)
    lets units in flight finish, for a minute at most, the second stops at once.

    Args:
        schedule: the units, in the order in which workers take them.
        spec: settings of the workers.
        pool: number of workers, and threads and GPUs of each.
        listener: gets each unit, and stores its rows.
        case_timeout: seconds after which a unit ends; None: never.
        room: gives the number of workers that fit on machines, if these may join and leave; None: they stay.

    Raises UserError if no worker starts.
    """
    driver = _Driver(schedule, spec, Fleet(spec, pool, listener, room), listener, case_timeout)
    try:
        with deferred_interrupt() as interrupt:
            driver.run_rounds(interrupt)
    finally:
        driver.close()


class Meters:
    """Counts per attack, exported by Ray's metrics to Prometheus, for example as `ray_freqbench_records_total`."""

    def __init__(self) -> None:
        self._records = Counter("freqbench_records", "records that were stored, failed ones too", ("attack",))
        self._failures = Counter("freqbench_failures", "failed records, which have no scores", ("attack",))
        spent = "seconds of workers on records, without loading"
        self._seconds = Counter("freqbench_device_seconds", spent, ("attack",))

    def count(self, outcome: Outcome) -> None:
        """Counts the records of a unit, failed ones too, and the seconds that a worker spent on them."""
        for record in outcome.records:
            self._records.inc(1, {"attack": record["attack"]})
            if record["status"] == "failed":
                self._failures.inc(1, {"attack": record["attack"]})
        if outcome.records and outcome.device_seconds > 0:  # Ray refuses to add 0
            self._seconds.inc(outcome.device_seconds, {"attack": outcome.records[0]["attack"]})


class _Driver:
    def __init__(
        self, schedule: Schedule, spec: WorkerSpec, fleet: Fleet, listener: Listener, case_timeout: float | None
    ) -> None:
        self._schedule = schedule
        self._spec = spec
        self._fleet = fleet
        self._listener = listener
        self._meters = Meters()
        self._timeout = case_timeout
        self._attempts: dict[int, Attempt] = {}  # by identity of the unit; only units that were put back
        self._scorings: dict[Ref, tuple[Attempt, Outcome, Ref]] = {}  # the last reference is that of the masks
        # Units whose worker died, and the reason, by the machine's sign of life: if it answers, the unit is at fault.
        self._doubts: dict[Ref, tuple[Attempt, str]] = {}
        self._asked: dict[Ref, tuple[Slot, Attempt]] = {}  # workers asked for their progress
        self._refusals: set[str] = set()  # of the store, as workers report them; each is shown once
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._writes: deque[Future[None]] = deque()
        self._ticked = time.monotonic()
        self._score = ray.remote(score_masks)
        self._scores_shapes = bool(shapes_of(spec.metrics))

    def run_rounds(self, interrupt: Interrupt) -> None:
        stop_at = None
        if self._scores_shapes:  # a process that has imported what it needs when the first masks come
            self._score.options(num_cpus=0).remote(Masks(pairs=(), metrics=()))
        while self._count_in_flight() or (len(self._schedule) and not stop_at):
            if interrupt.requested and not stop_at:
                stop_at = time.monotonic() + STOP_S
                self._listener.tell(
                    f"stopping after the attacks in flight ({self._count_in_flight()}, {STOP_S:.0f} s at most); "
                    "another Ctrl-C stops now"
                )
            if stop_at and (time.monotonic() > stop_at or not self._count_in_flight()):
                break
            self._round(feed=not stop_at)
        if stop_at:
            raise KeyboardInterrupt

    def close(self) -> None:
        """Hands over all finished outcomes and ends the workers."""
        self._write(partial(self._listener.tick, self._fleet.facts()))
        self._fleet.close()
        self._writer.shutdown(wait=True)
        while self._writes:
            self._writes.popleft().result()

    def _count_in_flight(self) -> int:
        return sum(len(slot.assigned) for slot in self._fleet.slots) + len(self._scorings) + len(self._doubts)

    def _round(self, feed: bool) -> None:
        fleet = self._fleet
        for slot in fleet.slots if feed else ():
            if slot.is_idle:
                self._feed(slot)
        slots = fleet.awaited_workers()
        awaited = [*slots, *self._scorings, *self._doubts, *self._asked]
        ready, others = ray.wait(awaited, timeout=TICK_S, fetch_local=False)
        if ready and others:  # take all ready ones: with hundreds of workers a round per answer costs too much
            ready += ray.wait(others, num_returns=len(others), timeout=0, fetch_local=False)[0]
        for ref in ready:
            if ref in self._scorings:
                self._handle_scores(ref)
            elif ref in self._doubts:
                self._judge(ref)
            elif ref in self._asked:
                self._handle_answer(ref)
            elif slots[ref].ready is not None:
                fleet.handle_start(slots[ref])
            else:
                self._handle_end(slots[ref], feed)
        now = time.monotonic()
        if now - self._ticked >= TICK_S:
            self._ticked = now
            self._write(partial(self._listener.tick, fleet.facts()))
            for slot in fleet.slots:  # a hung kernel cannot be ended in another way
                if self._timeout and slot.assigned and not slot.killed and now - slot.since > self._timeout:
                    slot.killed = True
                    ray.kill(slot.actor, no_restart=False)
            self._ask(now)
            fleet.follow_machines(len(self._schedule) + self._count_in_flight() if feed else 0)
        while self._writes and self._writes[0].done():
            self._writes.popleft().result()

    def _feed(self, slot: Slot) -> None:
        """Gives a worker a unit if it has none, and one ahead if its last was short and the end is far."""
        assigned = slot.assigned
        schedule = self._schedule
        worker = slot.clock.worker
        ahead = slot.took <= SHORT_S and not schedule.is_ending
        while len(assigned) < 1 + ahead and len(self._scorings) < SCORINGS_A_WORKER * len(self._fleet.slots):
            following = schedule.next_unit(worker)
            # A unit that was put back is alone with its worker, so that a death is its own.
            if assigned and (assigned[0].attempt.is_retry or id(following) in self._attempts):
                return
            unit = schedule.take(worker)
            if unit is None:
                return
            attempt = self._attempts.pop(id(unit), None) or Attempt(unit=unit)
            run = slot.actor.run.options(num_returns=2)
            following = schedule.next_unit(worker)
            if following and following.ref is unit.ref and following.cell.source is unit.cell.source:
                following = None  # it has the same case, and sending a unit is the most expensive step
            outcome, masks = run.remote(unit, prefetch=following)
            assigned.append(Assignment(attempt=attempt, outcome=outcome, masks=masks))
            if len(assigned) == 1:
                self._begins(slot)

    def _begins(self, slot: Slot) -> None:
        slot.since = time.monotonic()
        self._listener.begin(slot.assigned[0].attempt.unit)

    def _handle_end(self, slot: Slot, feed: bool) -> None:
        assigned = slot.assigned
        task = assigned.popleft()
        attempt = task.attempt
        killed = slot.killed
        slot.killed = False
        try:
            outcome: Outcome = ray.get(task.outcome)
        except RayTaskError as error:
            if isinstance(error.cause, StoreRefuses):
                raise error.cause from None
            self._give_up(attempt, f"the worker could not run it: {ray_cluster.cause(error)}")
            if assigned:
                self._begins(slot)
            return
        except RayError as error:
            self._handle_death(slot, attempt, error, killed)
            return
        slot.took = outcome.load_seconds + outcome.device_seconds
        slot.clock.add(outcome)
        if assigned:
            self._begins(slot)
        if feed:
            self._feed(slot)
        if outcome.failed or not self._scores_shapes:
            self._take(attempt.unit, outcome)
        else:
            score = self._score.options(num_cpus=1 if self._fleet.spare_cores >= 1 else 0, max_retries=0)
            self._scorings[score.remote(task.masks)] = attempt, outcome, task.masks

    def _ask(self, now: float) -> None:
        """Asks the workers of long units for their progress, in turns."""
        asked = {id(slot) for slot, _ in self._asked.values()}
        long = [slot for slot in self._fleet.slots if slot.assigned and now - slot.since > LONG_S]
        for slot in sorted(long, key=lambda slot: slot.heard)[:MOST_ASKED]:
            if id(slot) not in asked:
                self._asked[slot.actor.progress.remote()] = slot, slot.assigned[0].attempt

    def _handle_answer(self, ref: Ref) -> None:
        slot, attempt = self._asked.pop(ref)
        slot.heard = time.monotonic()
        with suppress(RayError):  # it died; the outcome reports that too
            passes, refusal = ray.get(ref)
            if slot.assigned and slot.assigned[0].attempt is attempt:
                if passes is not None:
                    self._write(partial(self._listener.advance, attempt.unit, passes))
                if refusal:
                    slot.since = slot.heard  # waiting is not work that takes too long
                if refusal and refusal not in self._refusals:
                    self._refusals.add(refusal)
                    self._listener.warn(refusal)

    def _handle_scores(self, ref: Ref) -> None:
        attempt, outcome, masks = self._scorings.pop(ref)
        try:
            try:
                scores = ray.get(ref)
            except RayTaskError as error:
                if not isinstance(error.cause, RayError):
                    raise
                # The process could not read the masks, as after a broken import: others may fail too, so score here.
                scores = score_masks(ray.get(masks))
            self._take(attempt.unit, outcome.add_scores(scores))
        except RayTaskError as error:
            self._give_up(attempt, ray_cluster.cause(error), outcome.measured_values())
        except RayError as error:
            reason = f"its masks or the process that scored them were lost ({ray_cluster.cause(error)})"
            self._handle_loss(attempt, reason, node_loss=isinstance(error, NodeDiedError | ObjectLostError))

    def _handle_death(self, slot: Slot, attempt: Attempt, error: RayError, killed: bool) -> None:
        """Restarts the worker, and finds out if its unit or its machine is at fault."""
        self._schedule.leave(slot.clock.worker)
        ahead = [task.attempt for task in slot.assigned]
        slot.assigned.clear()
        for other in reversed(ahead):
            self._put_back(other)
        slot.since = time.monotonic()
        self._fleet.restart(slot)
        reason = f"its worker died ({ray_cluster.cause(error)})"
        if killed:
            self._handle_loss(attempt, f"it took longer than case_timeout = {self._timeout:g} s")
        elif ahead:  # begun or not, before the first one's outcome came: this counts as a try of neither
            names = " or ".join(each.unit.name for each in (attempt, *ahead))
            self._listener.warn(f"{names}: {reason}: each is tried again, alone")
            self._put_back(attempt)
        else:
            self._doubts[ray_cluster.sign_of_life(slot.node)] = attempt, reason

    def _judge(self, ref: Ref) -> None:
        """Blames the unit or the machine: the machine answered after the death of its worker, or is gone."""
        attempt, reason = self._doubts.pop(ref)
        try:
            ray.get(ref)
        except RayError:
            self._handle_loss(attempt, "its machine is gone", node_loss=True)
        else:
            self._handle_loss(attempt, reason)

    def _handle_loss(self, attempt: Attempt, reason: str, node_loss: bool = False) -> None:
        """Puts back a unit whose outcome is lost, or gives it up."""
        attempt.node_losses += node_loss
        attempt.deaths += not node_loss
        if attempt.is_hopeless:
            self._give_up(attempt, f"{reason}, {attempt.deaths + attempt.node_losses} times")
            return
        self._listener.warn(f"{attempt.unit.name}: {reason}: it is tried again")
        self._put_back(attempt)

    def _put_back(self, attempt: Attempt) -> None:
        attempt.is_retry = True
        self._attempts[id(attempt.unit)] = attempt
        self._schedule.put_back(attempt.unit)

    def _give_up(self, attempt: Attempt, reason: str, measured: dict[str, Any] | None = None) -> None:
        empty = {"run_id": self._spec.run_id, "finished_at": datetime.now(UTC), "threads": self._spec.threads}
        self._take(attempt.unit, rows.failure(attempt.unit, reason, measured or empty))

    def _take(self, unit: Unit, outcome: Outcome) -> None:
        self._meters.count(outcome)
        self._write(partial(self._listener.take, outcome))
        while unit.is_clean and self._writes:  # it is judged before an attack may begin
            self._writes.popleft().result()
        self._schedule.end(unit)

    def _write(self, action: Callable[[], None]) -> None:
        """Queues an action for the writer's thread: storing may take seconds, and no worker should wait."""
        self._writes.append(self._writer.submit(action))
