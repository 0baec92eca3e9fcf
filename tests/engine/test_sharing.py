"""Several runs on one store, and a store that refuses for a while."""

import io
import itertools
import math
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_job import class_rows, execute, rows, small

from freqbench.core.errors import UserError
from freqbench.core.files import storage
from freqbench.engine import retry, run, saved_volumes
from freqbench.results import Lease, Shard, Store
from freqbench.results.status import facts, tables
from freqbench.results.writer import Writer

TWO = {"attacks": [{"name": "fgsm", "eps": ["4/255", "8/255"]}], "metrics": ["dsc"]}
MANY = small(
    metrics=["dsc"],
    attacks=[{"name": "gn", "std": [0.02 * number for number in range(1, 10)]}],
    datasets=[{"name": "phantom", "shape": [16, 16, 16], "cases": 1}],
)


def test_a_second_run_is_refused_before_it_computes(tmp_path: Path) -> None:
    Lease(str(tmp_path), "other").take()
    with pytest.raises(UserError, match=r"expected no other run on these cells, got run other on shard 1/1 \(host "):
        execute(small(**TWO), tmp_path)
    assert not Store(str(tmp_path)).runs()
    assert len(Store(str(tmp_path)).records()) == 0


def test_a_forced_second_run_doubles_no_row(tmp_path: Path) -> None:
    first = Lease(str(tmp_path / "shared"), "other")
    first.take()
    execute(small(**TWO), tmp_path / "shared", force=True)
    execute(small(**TWO), tmp_path / "alone")
    assert rows(tmp_path / "shared") == rows(tmp_path / "alone")
    first.take(force=True)
    assert execute(small(**TWO), tmp_path / "shared").num_done == 2, "a finished store needs no lease"


def test_shards_run_beside_each_other_and_together_are_the_grid(tmp_path: Path) -> None:
    """The store knows the whole grid from the first of them on."""
    out, parts = tmp_path / "parts", []
    for number in (1, 2, 3):
        other = Lease(str(out), "other", Shard.parse(f"{number % 3 + 1}/3"))
        assert other.take() is None
        parts.append(execute(MANY, out, shard=Shard.parse(f"{number}/3")))
        other.release()
        assert str(tables(facts(str(out)))[0].title).endswith(f"{sum(part.num_new for part in parts)} of 9 records")
    execute(MANY, tmp_path / "whole")
    assert all(part.num_new > 0 for part in parts), "a shard is empty: this tests little"
    assert [part.num_done for part in parts] == [0, 0, 0]
    assert (rows(out), class_rows(out)) == (rows(tmp_path / "whole"), class_rows(tmp_path / "whole"))


LEARNING = {"name": "universal", "eps": 0.1, "steps": 1, "learn_cases": 1}
RUN = {**MANY, "attacks": [{"name": "gn", "std": [0.02, 0.04, 0.06, 0.08]}, LEARNING]}
Rows = dict[tuple[str, ...], dict[str, Any]]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    out = tmp_path_factory.mktemp("undisturbed")
    execute(RUN, out)
    return rows(out)


def refuse(patch: pytest.MonkeyPatch, part: str, error: OSError, times: float = math.inf) -> None:
    """Has the store refuse to write files of a part so many times."""
    real, refused = storage.write_atomic, list[str]()

    def write_atomic(path: str, data: bytes) -> None:
        if part in path and len(refused) < times:
            refused.append(path)
            raise error
        real(path, data)

    patch.setattr(storage, "write_atomic", write_atomic)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "COMMIT_EVERY_S", 0.0)
    monkeypatch.setattr(retry, "AGAIN_S", 0.0)


@pytest.mark.integration
@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("part", ["records/", "volumes/", "learned/"])
def test_refusing_store_gets_all(part: str, undisturbed: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second time, as between two commits, the writer writes nothing, which is no answer of the store."""
    turns, due = itertools.cycle([True, False]), Writer.flush_due
    monkeypatch.setattr(Writer, "flush_due", lambda writer: due(writer) if next(turns) else 0)
    said = io.StringIO()
    refuse(monkeypatch, part, OSError(28, "No space left on device"), times=5)
    summary = execute({**RUN, "save_adversarial": "nifti"}, tmp_path, said)
    assert (summary.num_new, summary.num_failed, rows(tmp_path)) == (5, 0, undisturbed)
    refusal = "the store refuses files (OSError: No space left on device): they wait and are tried again"
    assert said.getvalue().count(refusal) == said.getvalue().count("the store answers again") == 1


@pytest.mark.usefixtures("hasty")
def test_ctrl_c_gives_up_what_waits_for_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()

    def press(seconds: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        refuse(patch, "records/", OSError(28, "No space left on device"))
        patch.setattr(run, "time", SimpleNamespace(sleep=press, monotonic=time.monotonic))
        summary = execute(small(**TWO), tmp_path, said)
    assert (summary.interrupted, summary.num_new) == (True, 0)
    assert "2 records wait for room or an answer: Ctrl-C gives them up" in said.getvalue()
    assert execute(small(**TWO), tmp_path).num_new == 2


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("part", ["records/", "volumes/"])
def test_store_that_refuses_for_good_ends_run(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, part, PermissionError(13, "Permission denied"))
    monkeypatch.setattr(retry, "PATIENCE_S", 0.1)
    with pytest.raises(UserError, match=r"expected a store that takes files, got none for 0 s \(PermissionError: Perm"):
        execute(small(**TWO, save_adversarial="nifti"), tmp_path)
    assert (len(Store(str(tmp_path)).records()), Store(str(tmp_path)).runs()[0]["status"]) == (0, "died")
    assert not storage.list_files(str(tmp_path / "leases"), ".json")


@pytest.mark.parametrize(
    ("root", "nodes", "is_refused"),
    [("runs/a/volumes", 2, True), ("runs/a/volumes", 1, False), ("file:///nfs/a", 2, False), (None, 2, False)],
)
def test_volumes_are_not_left_on_each_of_several_machines(root: str | None, nodes: int, is_refused: bool) -> None:
    with pytest.raises(UserError, match=r"^save_adversarial: expected --out as a URI") if is_refused else nullcontext():
        saved_volumes.require_shared(root, nodes)
