"""kill -9 at random moments: nothing that was reported is lost, nothing stands twice, and the rerun ends as if it had
never been killed."""

import multiprocessing
import os
import random
import re
import sys
import time
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
from tiny import class_rows, execute, execute_aloud, job, rows

from freqbench.results import Store

CONTENT = job(attacks=[{"name": "gn", "std": [0.01, 0.02, 0.03]}, {"name": "fgsm", "eps": ["4/255", "8/255"]}])
NUM_RECORDS = 2 * 2 * 5 * 2


@pytest.fixture(scope="module")
def forks() -> Iterator[ForkServerContext]:
    """Processes that have everything imported, and one thread."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # the server itself is not told where modules are
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(
            ["tiny", "torch._dynamo", "monai.networks.nets", "monai.inferers.utils", "scipy.ndimage"]
        )
        yield context


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a run that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole")
    execute(CONTENT, out)
    assert len(rows(out)) == NUM_RECORDS
    return out


def kill_again_and_again(
    forks: ForkServerContext,
    out: Path,
    whole: Path,
    rng: random.Random,
    kills: int,
    longest: float,
    records: int = 0,
    **changes: str,
) -> int:
    """Runs that are killed one after another, each checked; returns how many had stored something new.

    A run is killed up to `longest` seconds after it has begun, the k-th not before it has reported k * `records`.
    """
    log, expected, productive = out.with_suffix(".log"), rows(whole), 0
    content = {**CONTENT, **changes}
    for number in range(kills):
        before, runs = len(Store(str(out)).covered()), len(list(out.glob("runs/2*.json")))
        process = forks.Process(target=execute_aloud, args=(content, str(out), str(log)))
        process.start()
        end = time.monotonic() + 60
        while len(list(out.glob("runs/2*.json"))) == runs and process.is_alive() and time.monotonic() < end:
            time.sleep(0.01)
        while max(reported(log), default=0) < number * records and process.is_alive() and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, longest))
        process.kill()
        process.join()
        assert process.exitcode in (-9, 0)
        found = rows(out)
        assert len(found) >= max(reported(log), default=before)
        assert found.items() <= expected.items()
        assert class_rows(out).items() <= class_rows(whole).items()
        productive += len(found) > before
    execute(content, out)
    assert rows(out) == expected
    assert class_rows(out) == class_rows(whole)
    return productive


def reported(log: Path) -> list[int]:
    """Numbers of records that were said to be stored."""
    text = log.read_text() if log.exists() else ""
    return [int(count) for count in re.findall(r"^(\d+) of \d+ records stored", text, re.MULTILINE)]


def test_a_killed_run_goes_on_as_if_nothing_had_been(forks: ForkServerContext, tmp_path: Path, whole: Path) -> None:
    """Also on a machine so slow that nothing would be stored by a moment of the clock."""
    productive = kill_again_and_again(forks, tmp_path / "out", whole, random.Random(1), kills=3, longest=0.3, records=8)
    assert productive >= 1, "the kills hit before anything was stored: this tests nothing"


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("saved", ["none", "nifti"])
def test_killed_many_times(forks: ForkServerContext, tmp_path: Path, whole: Path, seed: int, saved: str) -> None:
    rng = random.Random(seed)
    kill_again_and_again(forks, tmp_path / "out", whole, rng, kills=10, longest=0.4, save_adversarial=saved)
