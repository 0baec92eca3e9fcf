"""A run or a compaction that dies at any moment: nothing reported is lost, nothing stands twice."""

import io
import multiprocessing
import os
import random
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
from results.test_compaction import Killed, filled, names, seen
from tiny_job import class_rows, execute, execute_aloud, job, rows, small

from freqbench.core.files import storage
from freqbench.engine import run
from freqbench.results import Store, compaction
from freqbench.results.compaction import MIB

JOINT = {"name": "fgsm", "eps": ["4/255", "8/255"], "scope": "joint"}
CONTENT = job(attacks=[{"name": "gn", "std": [0.01, 0.02, 0.03]}, JOINT])


def reported(said: str) -> int:
    """Records that were said to be stored."""
    return max(map(int, re.findall(r"^(\d+) of \d+ records? stored", said, re.MULTILINE)), default=0)


def is_part(out: Path, whole: Path) -> bool:
    """True if a store has rows of another one and no others."""
    return rows(out).items() <= rows(whole).items() and class_rows(out).items() <= class_rows(whole).items()


@pytest.mark.integration
def test_run_that_dies_at_any_write_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`kill -9` leaves the files from just before the next write."""
    tiny = [{"name": "phantom", "shape": [16, 16, 16], "cases": 1}]
    content = small(attacks=[{"name": "gn", "std": [0.01, 0.02]}], metrics=["dsc"], datasets=tiny)
    monkeypatch.setattr(run, "COMMIT_EVERY_S", 0.0)
    whole = tmp_path / "whole"
    said = io.StringIO()
    left = list[tuple[Path, int]]()
    productive = 0
    whole.mkdir()
    with monkeypatch.context() as patch:
        for name in ("write_atomic", "create", "remove"):
            real = getattr(storage, name)

            def step(*arguments: Any, real: Callable[..., Any] = real) -> Any:
                left.append((shutil.copytree(whole, tmp_path / str(len(left))), reported(said.getvalue())))
                return real(*arguments)

            patch.setattr(storage, name, step)
        execute(content, whole, said)
    for out, stored in left:
        assert len(rows(out)) >= stored
        assert is_part(out, whole)
        productive += 0 < len(rows(out)) < 2
        execute(content, out, force=True)
        assert (rows(out), class_rows(out)) == (rows(whole), class_rows(whole))
    assert len(left) > 8
    assert productive > 0


@pytest.fixture(scope="module")
def forks() -> Iterator[ForkServerContext]:
    """Processes that have everything imported, and one thread."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # the server itself is not told where modules are
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(
            ["tiny_job", "torch._dynamo", "monai.networks.nets", "monai.inferers.utils", "scipy.ndimage"]
        )
        yield context


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a run that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole")
    execute(CONTENT, out)
    assert len(rows(out)) == 2 * 2 * 5 * 2
    return out


@pytest.mark.parametrize(
    ("seed", "saved", "kills"),
    [
        pytest.param(1, "none", 3, marks=pytest.mark.integration),
        *(pytest.param(seed, saved, 10, marks=pytest.mark.chaos) for seed in range(6) for saved in ("none", "nifti")),
    ],
)
def test_a_killed_process(
    forks: ForkServerContext, tmp_path: Path, whole: Path, seed: int, saved: str, kills: int
) -> None:
    """Up to 0.4 seconds after it has begun; of few kills the k-th not before it has reported 8 k records."""
    rng = random.Random(seed)
    out = tmp_path / "out"
    log = tmp_path / "log"
    productive = 0
    content = {**CONTENT, "save_adversarial": saved}
    least = 8 if kills == 3 else 0

    def told() -> int:
        return reported(log.read_text()) if log.exists() else 0

    for number in range(kills):
        before = len(Store(str(out)).covered())
        runs = len(list(out.glob("runs/2*.json")))
        process = forks.Process(target=execute_aloud, args=(content, str(out), str(log)))
        process.start()
        end = time.monotonic() + 60
        while process.is_alive() and time.monotonic() < end:
            if len(list(out.glob("runs/2*.json"))) > runs and told() >= number * least:
                break
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.4))
        process.kill()
        process.join()
        assert process.exitcode in (-9, 0)
        assert len(rows(out)) >= max(told(), before)
        assert is_part(out, whole)
        productive += len(rows(out)) > before
    assert productive >= 1 or kills > 3, "the kills hit before anything was stored: this tests nothing"
    execute(content, out)
    assert (rows(out), class_rows(out)) == (rows(whole), class_rows(whole))


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
    rng = random.Random(seed)
    before = seen(store)

    def twice() -> None:
        store.compact(above=0)
        store.compact(above=0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compaction, "FULL_BYTES", rng.choice([1, 64 * MIB]))
        patch.setattr(compaction, "choose", lambda pairs: rng.sample(pairs, rng.randint(1, len(pairs))))
        turns = Turns(patch, rng)
        present = None
        for _ in turns.play([twice] * 3, kill=0.01):
            former = present
            present = names(store)
            if present != former:
                assert seen(store) == before
    store.compact()
    assert seen(store) == before


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 60))])
def test_compactions_at_any_pace_lose_and_double_nothing(filled: Callable[[str], Store], seed: int) -> None:
    interleaved(filled("out"), seed)
