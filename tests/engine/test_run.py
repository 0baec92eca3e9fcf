"""A run adds what is missing, says what it does, shares its store, and counts nothing that is not stored."""

import importlib.util
import io
import itertools
import json
import math
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from operator import itemgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from engine.cases import CUBE, grid_of, row_keys, stored
from tiny_job import class_rows, execute, expanded, fail_below, job, rows, small

from freqbench.core import machine
from freqbench.core.errors import UserError
from freqbench.core.files import storage
from freqbench.engine import attacking, engines, provenance, retry, run, saved_volumes
from freqbench.engine import run as runner
from freqbench.engine.rows import Outcome
from freqbench.engine.run import Summary
from freqbench.metrics import METRICS
from freqbench.ops import compiled
from freqbench.reporting.contents import keys_of
from freqbench.reporting.report import report
from freqbench.results import KEY, Lease, Shard, Store, index_keys
from freqbench.results.status import facts, tables
from freqbench.results.writer import Writer

JOB = job(datasets=[CUBE])
TWO = {"attacks": [{"name": "fgsm", "eps": ["4/255", "8/255"]}], "metrics": ["dsc"]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Summary]:
    """The store of a whole run of the job, only to be read, and how the run ended."""
    out = tmp_path_factory.mktemp("whole")
    return out, execute(JOB, out)


def test_keys_are_the_same_before_a_run_and_in_its_rows(whole: tuple[Path, Summary]) -> None:
    planned = {*row_keys(grid_of(JOB))}
    out, summary = whole
    assert (set(rows(out)), summary.num_new, summary.num_failed, summary.num_done) == (planned, 12, 0, 0)
    assert len(class_rows(out)) == 12 * 6


def test_a_run_that_ends_writes_its_classes_flat(whole: tuple[Path, Summary]) -> None:
    flat = pq.read_table(whole[0] / "class_records").to_pylist()
    assert flat == Store(str(whole[0])).class_records().to_pylist()
    assert len(flat) == 6 * len(rows(whole[0]))


def test_a_finished_store_computes_nothing_and_says_so(tmp_path: Path, attacked: list[str]) -> None:
    execute(small(**TWO), tmp_path)
    before = rows(tmp_path)
    attacked.clear()
    files = storage.list_files(str(tmp_path / "runs"), ".json")
    summary = execute(small(**TWO), tmp_path)
    assert (summary.run_id, summary.num_new, summary.num_done, attacked) == (None, 0, 2, [])
    assert (rows(tmp_path), storage.list_files(str(tmp_path / "runs"), ".json")) == (before, files)


def removed(out: Path) -> None:
    shutil.rmtree(out)


def replaced(out: Path) -> None:
    out.rename(out.with_name("elsewhere"))
    out.mkdir()


def a_file_removed(out: Path) -> None:
    next((out / "records").glob("*.parquet")).unlink()


@pytest.mark.parametrize(
    ("vanish", "engine"),
    [
        (removed, "serial"),
        *(pytest.param(vanish, "serial", marks=pytest.mark.integration) for vanish in (replaced, a_file_removed)),
        *(pytest.param(vanish, "ray", marks=pytest.mark.slow) for vanish in (removed, replaced, a_file_removed)),
    ],
)
def test_vanished_rows_are_missed_and_computed_again(
    vanish: Callable[[Path], None], engine: runner.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One record is stored by an earlier run and two by this one, each in a file of its own, before the last two."""
    monkeypatch.setattr(runner, "COMMIT_EVERY_S", 0.0)
    out = tmp_path / "out"
    whole = small(attacks=[{"name": "fgsm", "eps": [0.01, 0.02, 0.03, 0.04, 0.05]}])
    execute({**whole, "attacks": [{"name": "fgsm", "eps": 0.01}]}, out)
    real = runner.Recorder.take

    def take(self: runner.Recorder, outcome: Outcome) -> None:
        if self.summary.num_new == 2:
            vanish(out)
        real(self, outcome)

    with monkeypatch.context() as patch:
        patch.setattr(runner.Recorder, "take", take)
        with pytest.raises(UserError) as caught:
            execute(whole, out, engine=engine)
    lost = 5 - len(rows(out))
    assert lost == (3 if vanish in (removed, replaced) else 1)
    expected = f"expected the 5 records that were stored by now, got {lost} fewer: their files were removed or replaced"
    assert str(caught.value) == f"{out}: {expected} while this ran: the same command computes them anew"
    assert (execute(whole, out).num_new, len(rows(out))) == (lost, 5)


def test_files_that_another_run_merged_are_no_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "COMMIT_EVERY_S", 0.0)
    real = runner.Recorder.take

    def take(self: runner.Recorder, outcome: Outcome) -> None:
        real(self, outcome)
        Store(str(tmp_path)).compact()

    monkeypatch.setattr(runner.Recorder, "take", take)
    assert execute(JOB, tmp_path).num_new == len(rows(tmp_path)) == 12


def test_a_further_model_is_scored_on_what_there_is_no_row_for(tmp_path: Path, whole: tuple[Path, Summary]) -> None:
    execute({**JOB, "models": JOB["models"][:1]}, tmp_path)
    summary = execute(JOB, tmp_path)
    assert (summary.num_done, summary.num_new, rows(tmp_path)) == (3, 9, rows(whole[0]))


def test_further_metrics_are_computed_and_keep_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(small(**TWO), tmp_path)
    before = rows(tmp_path)
    further = small(**{**TWO, "metrics": ["psnr"]})
    with monkeypatch.context() as patch:
        patch.setattr(attacking, "attack_case", lambda *args: 1 / 0)
        assert execute(further, tmp_path).num_failed == 2
    assert rows(tmp_path) == before, "a failed attempt takes no good row away"
    assert execute(further, tmp_path).num_new == 2
    assert {row["metrics"] for row in rows(tmp_path).values()} == {"'psnr,dsc'"}
    for key, row in rows(tmp_path).items():
        assert row["dsc"] == before[key]["dsc"] != "None"
        assert row["psnr"] != "None"
    assert [execute(small(**TWO), tmp_path).num_new, execute(further, tmp_path).num_new] == [0, 0]


def test_failed_rows_are_counted_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    with monkeypatch.context() as patch:
        fail_below(patch, 0.02)
        summary = execute(small(**TWO), tmp_path, said)
    assert (summary.num_new, summary.num_failed) == (2, 1)
    assert "failed: OSError: disk on fire" in said.getvalue()
    assert execute(small(**TWO), tmp_path).num_new == 1
    execute(small(**TWO), tmp_path / "clean")
    assert rows(tmp_path) == rows(tmp_path / "clean")


def test_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: tuple[Path, Summary]) -> None:
    real = attacking.attack_case
    calls = []
    with monkeypatch.context() as patch:

        def interrupt(*args: Any) -> Any:
            calls.append(args)
            if len(calls) == 5:
                raise KeyboardInterrupt
            return real(*args)

        patch.setattr(attacking, "attack_case", interrupt)
        first = execute(JOB, tmp_path)
    assert first.interrupted
    assert first.num_new == len(rows(tmp_path)) == 8
    (run,) = Store(str(tmp_path)).runs()
    assert (run["status"], run["records"]) == ("interrupted", 8)
    second = execute(JOB, tmp_path)
    assert (second.num_done, second.num_new, second.interrupted) == (8, 4, False)
    assert (rows(tmp_path), class_rows(tmp_path)) == (rows(whole[0]), class_rows(whole[0]))


def test_dying_run_stores_what_was_ready_and_says_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "add_surfaces", lambda unit, outcome, masks: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        execute(small(metrics=["dsc", "hd95"]), tmp_path)
    (run,) = Store(str(tmp_path)).runs()
    assert run["status"] == "died"
    assert not storage.list_files(str(tmp_path / "leases"), ".json")


def test_a_fault_in_surface_distances_is_a_failed_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("freqbench.engine.rows.score_masks", lambda masks: 1 / 0)
    summary = execute(small(metrics=["dsc", "hd95"]), tmp_path)
    assert summary.num_failed == summary.num_new > 0
    row = stored(tmp_path)[0]
    assert (row["status"], row["error"], row["dsc"]) == ("failed", "ZeroDivisionError: division by zero", None)


@pytest.mark.parametrize(
    ("worth", "scope", "named"), [(1, "window", True), (1, "volume", False), (1e9, "window", False)]
)
def test_runs_file_names_functions_of_long_attacks_by_window(
    worth: float, scope: str, named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"KINDS": ["cpu"], "FORMS": {}, "WORTH": worth, "_compile": lambda plain: plain}.items():
        monkeypatch.setattr(compiled, name, value)
    compiled.form_of.cache_clear()
    execute(small(attacks=[{"name": "pgd", "eps": "8/255", "steps": 2, "scope": scope}], metrics=["dsc"]), tmp_path)
    compiled.form_of.cache_clear()
    assert Store(str(tmp_path)).runs()[-1]["compiled"] == ({"losses.dice_ce": "compiled"} if named else {})


def test_machine_without_ray_runs_serially_or_names_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ray" else find(name))
    with pytest.raises(UserError, match="needs the package ray: pip install ray, or take --engine serial"):
        execute(small(**TWO), tmp_path, engine="ray")
    execute(small(**TWO), tmp_path, engine="auto")
    assert Store(str(tmp_path)).runs()[-1]["engine"] == {"name": "serial", "workers": 1, "threads": 1}


@pytest.mark.usefixtures("no_lpips")
def test_missing_lpips_weights_give_null_columns(tmp_path: Path) -> None:
    content = small(**{**TWO, "metrics": ["dsc", "lpips"]})
    said = io.StringIO()
    summary = execute(content, tmp_path, said)
    assert (summary.num_new, summary.num_failed) == (2, 0)
    (warning,) = [line for line in said.getvalue().splitlines() if "lpips" in line]
    assert warning.endswith("the columns of LPIPS stay empty")
    for row in stored(tmp_path):
        assert row["status"] == "ok"
        assert [row[column] for column in METRICS["lpips"].columns] == [None] * 3
        reasons = json.loads(row["null_reasons"])
        assert set(reasons) == set(METRICS["lpips"].columns)
        assert "FREQBENCH_OFFLINE is set" in reasons["lpips_distance"]
    assert execute(content, tmp_path).num_new == 0


def test_a_run_s_file_says_what_went_in(tmp_path: Path) -> None:
    execute(small(**TWO), tmp_path)
    store = Store(str(tmp_path))
    (run,) = store.runs()
    _, grid = expanded(small(**TWO))
    assert (run["status"], run["records"], run["failed"], run["warnings"]) == ("done", 2, 0, [])
    assert run["models"][grid.cells[0].source.model_id]["name"] == "a"
    ref = grid.cases["phantom"][0]
    assert run["datasets"]["phantom"]["cases"] == {ref.case_id: ref.fingerprint}
    assert torch.__version__.startswith(run["versions"]["torch"])  # a wheel of an index says "+cu130" there alone
    assert {run["run_id"]} == set(store.records()["run_id"].to_pylist())
    assert json.loads((tmp_path / "run.json").read_text())["runs"] == [run["run_id"]]


def test_the_job_s_file_holds_the_keys_of_the_present_job(tmp_path: Path) -> None:
    execute(small(**TWO), tmp_path)
    execute(small(**{**TWO, "attacks": [{"name": "fgsm", "eps": "8/255"}]}), tmp_path)
    keys = {itemgetter(*KEY)(row) for row in stored(tmp_path)}
    own = index_keys(Store(str(tmp_path)).job()["index"])
    assert own < keys
    assert (len(own), len(keys)) == (1, 2)
    assert str(tables(facts(str(tmp_path)))[0].title).endswith("1 of 1 record")


def test_a_store_may_be_the_uri_of_a_folder(tmp_path: Path) -> None:
    """One in object storage is in `tests/core/test_uris.py`."""
    out = f"file://{tmp_path}/uri"
    execute(small(**TWO, save_adversarial="nifti"), out)
    assert execute(small(**TWO), out).num_done == 2
    execute(small(**TWO), tmp_path / "folder")
    assert (rows(out), class_rows(out)) == (rows(tmp_path / "folder"), class_rows(tmp_path / "folder"))


@pytest.fixture
def other_monai(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Metadata of another release in front of the installed one's."""
    facts = tmp_path / "libraries" / "monai-1.4.9.dist-info" / "METADATA"
    facts.parent.mkdir(parents=True)
    facts.write_text("Metadata-Version: 2.1\nName: monai\nVersion: 1.4.9\n")
    machine.releases.cache_clear()
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(facts.parents[1]))
        yield
    machine.releases.cache_clear()


def test_run_warns_before_adding_rows_to_another_release(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    said = [io.StringIO(), io.StringIO(), io.StringIO()]
    for number, eps in enumerate(("4/255", "6/255", "8/255")):
        if number == 2:
            request.getfixturevalue("other_monai")
        execute(small(attacks=[{"name": "fgsm", "eps": ["2/255", eps]}]), tmp_path / "out", said[number])
    first, second, third = (each.getvalue() for each in said)
    assert "several releases" not in first + second
    assert "1 row with monai 1.4.9" in third.partition("records stored")[0]
    made = Store(str(tmp_path / "out")).records(["releases"])["releases"].to_pylist()
    assert ["monai 1.4.9" in text for text in made] == [False, False, False, True]


def test_ids_of_runs_of_one_second_are_in_order() -> None:
    ids = [provenance.new_run_id() for _ in range(50)]
    assert ids == sorted(ids)


def test_rows_of_another_job_are_told_of(tmp_path: Path) -> None:
    """A file that was copied in, or the job's own former rows."""
    execute(small(attacks=[{"name": "gn", "std": 0.1}], metrics=["dsc"]), tmp_path / "other")
    execute(small(**TWO), tmp_path / "out")
    for path in (tmp_path / "other/records").iterdir():
        (tmp_path / "out/records" / path.name).write_bytes(path.read_bytes())
    said = io.StringIO()
    assert execute(small(**TWO), tmp_path / "out", said).num_done == 2
    assert (
        "out: 1 of its records belong to another job or to an earlier version of this one: they stay and are not"
        in " ".join(said.getvalue().split())
    )
    store = Store(str(tmp_path / "out"))
    assert "1 record of another job, or of a former version of this one" in report([store], keys_of([store.job()]))
    assert "gn" in {row[0] for row in store.rows(("attack",))}


@pytest.mark.timeout(60)  # what refused for a while was tried again for ten minutes
@pytest.mark.parametrize("engine", ["serial", "ray"])
def test_a_limit_on_the_size_of_files_ends_a_run_at_once(tmp_path: Path, engine: runner.Engine) -> None:
    out = tmp_path / "out"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(UserError, match=r"expected to write files of [^\n]*: raise it \(ulimit -f\)"):
            execute(small(**TWO), out, engine=engine)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not storage.list_files(str(out / "leases"), ".json")
    assert execute(small(**TWO), out).num_new == 2


MANY = small(
    metrics=["dsc"],
    attacks=[{"name": "gn", "std": [0.02 * number for number in range(1, 10)]}],
    datasets=[CUBE],
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
    out = tmp_path / "parts"
    parts = []
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
    real = storage.write_atomic
    refused = list[str]()

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


in_haste = pytest.mark.usefixtures("hasty")


@pytest.mark.integration
@in_haste
@pytest.mark.parametrize("part", ["records/", "volumes/", "learned/"])
def test_refusing_store_gets_all(part: str, undisturbed: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second time, as between two commits, the writer writes nothing, which is no answer of the store."""
    turns = itertools.cycle([True, False])
    due = Writer.flush_due
    monkeypatch.setattr(Writer, "flush_due", lambda writer: due(writer) if next(turns) else 0)
    said = io.StringIO()
    refuse(monkeypatch, part, OSError(28, "No space left on device"), times=5)
    summary = execute({**RUN, "save_adversarial": "nifti"}, tmp_path, said)
    assert (summary.num_new, summary.num_failed, rows(tmp_path)) == (5, 0, undisturbed)
    refusal = "the store refuses files (OSError: No space left on device): they wait and are tried again"
    assert said.getvalue().count(refusal) == said.getvalue().count("the store answers again") == 1


@in_haste
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


@in_haste
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
