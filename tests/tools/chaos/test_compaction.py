"""Compactions that pass each other at the storage in any order, of which one may die: no row is lost or doubled."""

import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from results.test_compaction import Killed, filled, names, seen

from freqbench.core.files import storage
from freqbench.results import Store, compaction
from freqbench.results.compaction import MIB

__all__ = ["filled"]

STEPS = ("list_files", "list_sizes", "read_bytes", "read_range", "write_atomic", "remove")


class Turns:
    """Compactions in threads, of which one takes a step at the storage at a time, in the order that a seed says."""

    def __init__(self, patch: pytest.MonkeyPatch, rng: random.Random) -> None:
        self._rng = rng
        self._waiting: dict[threading.Thread, threading.Event] = {}
        self._arrived = threading.Condition()
        self._dead: set[threading.Thread] = set()
        for name in STEPS:
            patch.setattr(storage, name, self._stepwise(getattr(storage, name)))

    def _stepwise(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any) -> Any:
            thread = threading.current_thread()
            if thread in self.threads:
                go = threading.Event()
                with self._arrived:
                    self._waiting[thread] = go
                    self._arrived.notify()
                assert go.wait(60)
                if thread in self._dead:
                    raise Killed
            return real(*arguments)

        return step

    def play(self, works: list[Callable[[], None]], kill: float) -> Iterator[None]:
        """Start the works and yield before each step and at the end; with probability `kill` a step is a death."""

        def run(work: Callable[[], None]) -> None:
            try:
                work()
            except Killed:
                pass
            finally:
                with self._arrived:
                    live.discard(threading.current_thread())
                    self._arrived.notify()

        self.threads = {threading.Thread(target=run, args=(work,)): None for work in works}
        live = set(self.threads)
        for thread in self.threads:
            thread.start()
        while True:
            with self._arrived:
                assert self._arrived.wait_for(lambda: live <= self._waiting.keys(), 60)
            yield
            if not live:
                return
            thread = self._rng.choice([thread for thread in self.threads if thread in live])
            if self._rng.random() < kill:
                self._dead.add(thread)
            with self._arrived:
                self._waiting.pop(thread).set()


def interleaved(store: Store, seed: int) -> None:
    """Three drivers that compact twice each, some of the files, at each other's pace; one may die."""
    rng, before = random.Random(seed), seen(store)

    def twice() -> None:
        store.compact(above=0)
        store.compact(above=0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compaction, "FULL_BYTES", rng.choice([1, 64 * MIB]))
        patch.setattr(compaction, "choose", lambda pairs: rng.sample(pairs, rng.randint(1, len(pairs))))
        turns, present = Turns(patch, rng), None
        for _ in turns.play([twice] * 3, kill=0.01):
            former, present = present, names(store)
            if present != former:
                assert seen(store) == before
    store.compact()
    assert seen(store) == before


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 60))])
def test_compactions_at_any_pace_lose_and_double_nothing(filled: Callable[[str], Store], seed: int) -> None:
    interleaved(filled("out"), seed)
