"""Files that freqbench did not make, and stores of strangers: what is removed, replaced, followed or believed."""

import csv
import gzip
import io
import json
import os
import shutil
import stat
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_training
import torch
from command_line import Bench, done, refused
from engine.cases import case_of
from reporting.handmade import glimpse_of
from results.conftest import make_record
from results.conftest import put as put_rows
from security.traps import line_of
from tiny_job import execute, expanded, small, write

from freqbench.audit import probe_files
from freqbench.audit.verify import show_checks, verify
from freqbench.core.errors import UserError
from freqbench.core.files import node_cache, storage
from freqbench.core.terminal import PlainConsole, printable
from freqbench.data import cache
from freqbench.engine import saved_volumes
from freqbench.reporting import figures as all_figures
from freqbench.results import Lease, Store
from freqbench.results.glimpses import Glimpse, Glimpses
from freqbench.results.store import RunFacts
from freqbench.training import TrainJob, state, train

TEXT = b"years of somebody's work"
DIGEST = "0123456789abcdef"


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(TEXT)
        os.utime(folder / name, (0, 0))


def require_there(folder: Path, *names: str) -> None:
    assert {name: (folder / name).read_bytes() for name in names} == dict.fromkeys(names, TEXT)


IN_CACHE = (
    *("thesis.tex", "lpips/mine.pt", "volumes/weights.safetensors", "volumes/.notes.tmp", f"volumes/{DIGEST}.nii.gz"),
    *(f"volumes/sub/{DIGEST}.safetensors", "files/thesis.tex", f"files/{DIGEST}.txt", f"files/{DIGEST}/notes.txt"),
    *(f"files/{DIGEST}/a.bin.mine", f"files/{'f' * 16}/a.bin", f"files/{'f' * 16}.json", "networks/notes.json"),
)


def keep(number: int) -> None:
    case = case_of(torch.zeros(1, 8, 8, 8), torch.zeros(1, 8, 8, 8), DIGEST)
    cache.cached_case(case.ref, lambda: case, case=number, space=None)


def test_a_full_cache_and_a_cleared_one_leave_strangers(
    own_cache: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FREQBENCH_CACHE_GB", "1e-5")
    for number in range(3):
        keep(number)
    storage.write_atomic("memory://tests-strangers/a.bin", b"remote")
    copy = storage.fetch("memory://tests-strangers/a.bin")
    names = [name.replace(DIGEST, copy.parent.name) for name in IN_CACHE]
    put(own_cache, *names)
    kept = len(node_cache.entries("volumes"))
    keep(3)
    assert 0 < len(node_cache.entries("volumes")) <= kept, "it was full"
    require_there(own_cache, *names)
    first = min(own_cache / name for name in names)
    said = f"{len(names)} files that freqbench did not make were left; the first: {first}\n"
    assert bench("doctor", "--cache", "clear")[1].endswith(said)
    require_there(own_cache, *names)
    assert not copy.exists()
    assert node_cache.entries("volumes") == []


@pytest.mark.parametrize("name", IN_CACHE)
def test_a_folder_with_other_files_is_no_cache(own_cache: Path, bench: Bench, name: str) -> None:
    put(own_cache, name)
    refusal = f"error: {own_cache}: expected an empty folder or a cache of freqbench, got one with other files"
    for command in (["doctor", "--cache", "clear"], ["doctor", "--cache", "show"]):
        assert refused(bench, *command).startswith(f"{refusal} ({own_cache / name}): ")
    with pytest.raises(UserError, match="expected an empty folder or a cache"):
        execute(small(), own_cache.parent / "out")
    with pytest.raises(UserError, match="expected an empty folder or a cache"):
        keep(0)
    assert [path for path in own_cache.rglob("*") if path.is_file()] == [own_cache / name]
    assert not (own_cache.parent / "out").exists()


@pytest.mark.parametrize("way", ["a link", "dots"])
def test_a_manifest_does_not_lead_out_of_the_cache(own_cache: Path, way: str) -> None:
    put(own_cache.parent, "mine/a.bin")
    node_cache.part("files").mkdir()
    name = "a.bin" if way == "a link" else "../../../mine/a.bin"
    folder = own_cache / "files" / DIGEST
    folder.symlink_to(own_cache.parent / "mine") if way == "a link" else folder.mkdir()
    folder.with_suffix(".json").write_text(json.dumps({name: "0" * 64}))
    assert node_cache.clear("files") > 0
    require_there(own_cache.parent, "mine/a.bin")


@pytest.fixture
def filled(tmp_path: Path) -> Store:
    """A store of two files of a run."""
    for number in range(2):
        put_rows(Store(str(tmp_path)), f"run0-{number:06d}.parquet", make_record(number, cell_id=f"cell{number}"))
    return Store(str(tmp_path))


def test_compaction_leaves_files_of_others(filled: Store, tmp_path: Path) -> None:
    """Neither does it rely on them: a row that stands in such a copy too is still there when the copy is gone."""
    mine = [tmp_path / "records" / name for name in ("backup.parquet", "more-000009.parquet")]
    pq.write_table(pq.read_table(tmp_path / "records/run0-000000.parquet"), mine[0])
    more = pq.read_table(tmp_path / "records/run0-000001.parquet")
    pq.write_table(more.append_column("note", [["mine"] * len(more)]), mine[1])
    others = ("records/notes.txt", "records/.notes.tmp", "class_records/alone-000001.parquet", "volumes/a.nii.gz")
    put(tmp_path, *others)
    before = {path: path.read_bytes() for path in mine}
    filled.compact()
    assert any(path.name.startswith("compacted-") for path in (tmp_path / "records").iterdir())
    assert before == {path: path.read_bytes() for path in mine}
    require_there(tmp_path, *others)
    mine[0].unlink()
    assert {row for (row,) in filled.rows(("cell_id",))} == {"cell0", "cell1"}


def test_a_glimpse_replaces_the_one_of_its_cell_alone(tmp_path: Path) -> None:
    cell = DIGEST
    case = "f" * 16
    endings = (".json", f"_{case}.json", f"_{case}_1.json", f"_{case}_nan.webp", f"_{case}_1.00.png")
    others = ("thesis.json", *(f"{cell}{ending}" for ending in endings))
    put(tmp_path / "glimpses", *others)
    for drop in (10, 20):
        glimpses = Glimpses(str(tmp_path))
        glimpses.add(Glimpse(cell_id=cell, case_key=case, drop=drop, shown=glimpse_of(0)))
        glimpses.flush()
    require_there(tmp_path / "glimpses", *others)
    assert {path.name for path in (tmp_path / "glimpses").iterdir()} - {*others} == {f"{cell}_{case}_20.00.json"}


@pytest.mark.parametrize("content", [TEXT, b"[]", b'{"run_id": "a"}'])
@pytest.mark.parametrize("force", [False, True])
def test_a_file_in_the_place_of_a_lease_is_refused(tmp_path: Path, content: bytes, force: bool) -> None:
    put(tmp_path, "leases/1-of-1.json", "leases/notes.json")
    (tmp_path / "leases" / "1-of-1.json").write_bytes(content)
    lease = Lease(str(tmp_path), "b")
    with pytest.raises(UserError, match=r"leases/1-of-1\.json: expected the lease of a run, got another file: move it"):
        lease.take(force)
    lease.release()
    assert (tmp_path / "leases" / "1-of-1.json").read_bytes() == content
    require_there(tmp_path, "leases/notes.json")


WRITERS = {
    "page": ("report", "--format", "html", "--volumes", "--yes", "--to"),
    "figures": ("report", "--figures"),
    "export": ("export", "--yes", "--to"),
    "dicom": ("export", "--format", "dicom", "--yes", "--to"),
}


@pytest.mark.parametrize(
    "kind", ["page", "export", *(pytest.param(kind, marks=pytest.mark.integration) for kind in ("figures", "dicom"))]
)
def test_a_second_write_replaces_only_its_own_files(
    kind: str, small_store: Path, tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(all_figures, "FIGURES", {"distance": all_figures.FIGURES["distance"]})  # others are slow
    others = ("notes.txt", f"volumes/{DIGEST}.js", "clean/other.nii.gz")
    put(tmp_path, *others)
    command = (WRITERS[kind][0], str(small_store), *WRITERS[kind][1:], str(tmp_path))
    assert bench(*command)[2] == ""
    assert bench(*command)[2] == "", "over what it wrote"
    require_there(tmp_path, *others)
    written = sorted(path for path in tmp_path.rglob("*") if path.is_file() and path.read_bytes() != TEXT)
    path = next(path for path in written if path.parent.name != "volumes")
    (tmp_path / "manifest.json").unlink(missing_ok=True)
    path.write_bytes(TEXT)
    expected = f"error: {path}: expected no file or one that freqbench wrote, got another: move it away"
    assert refused(bench, *command).startswith(expected)
    require_there(tmp_path, str(path.relative_to(tmp_path)), *others)


@pytest.mark.parametrize("name", state.MARKS)
def test_a_training_does_not_replace_somebody_elses_network(name: str, tmp_path: Path) -> None:
    content = b"{}" if name == state.RESULT else TEXT
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / name).write_bytes(content)
    job = TrainJob.model_validate(tiny_training.training(steps=1, warmup_steps=0, validate_every=1))
    with pytest.raises(UserError, match=f"^{tmp_path}/net/{name}: expected no file or one that freqbench wrote, got "):
        train(job, str(tmp_path), progress=False, only=["net"])
    assert (tmp_path / "net" / name).read_bytes() == content
    assert [path.name for path in (tmp_path / "net").iterdir() if path.is_file()] == [name]


@pytest.mark.parametrize("name", [probe_files.GRADIENTS, probe_files.SAVED])
def test_an_audit_does_not_replace_files_of_others(name: str, tmp_path: Path) -> None:
    put(tmp_path, f"audit/{name}")
    files = {
        probe_files.GRADIENTS: probe_files.Gradients(steps=1, step_size="1/255", versions={}, windows=()),
        probe_files.SAVED: probe_files.SavedScores(versions={}, volumes=()),
    }
    with pytest.raises(UserError, match=f"^{tmp_path}/audit/{name}: "):
        probe_files.write(str(tmp_path), files[name])
    require_there(tmp_path, f"audit/{name}")


JOB = small(metrics=["dsc"], save_adversarial="nifti")
ESCAPES = "\x1b[31mred\x1b]0;title\x07\x9b2J\u202egpj.exe\rover"
MARKUP = "[red]a[/red][link=http://localhost]b[/link]:bomb:"


@pytest.fixture
def spoilt(small_copy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy of a store to spoil, as `out` of the folder that commands run in."""
    monkeypatch.chdir(small_copy.parent)
    return small_copy


def change(path: Path, into: Callable[[Any], Any]) -> None:
    path.write_text(json.dumps(into(json.loads(path.read_text()))))


def rewrite(store: Path, **values: str | None) -> None:
    """Other texts in the columns of its records, whose names no index knows better."""
    change(store / "run.json", lambda run: with_index(run, names={}))
    for path in (store / "records").glob("*.parquet"):
        table = pq.read_table(path)
        for name, value in values.items():
            place = table.schema.get_field_index(name)
            table = table.set_column(place, table.schema.field(name), pa.array([value] * len(table), pa.string()))
        pq.write_table(table, path)


COMMANDS = {
    "status": ["cluster", "status", "out"],
    "report": ["report", "out"],
    "rows": ["audit", "out", "--rows", "1"],
    "score targets": ["score", "out", "--targets", "a"],
    "score predictions": ["score", "out", "--predictions", "out", "--name", "tool"],
    "score adversarial": ["score", "out", "--adversarial", "out", "--source", "a"],
    "export": ["export", "out", "--yes"],
    "plan": ["plan", "job.yaml", "--out", "out"],
}
MATCH = {"metric": "l2_body", "value": 6}
ROW = {"dataset": "phantom", "source": "a", "parameters": {"eps": 0.1}, "match": MATCH, "reached": None}
FOREIGN = {
    "dataset": lambda spec: spec | {"datasets": [{"name": "phantom", "loader": "booby:Trap"}]},
    "model": lambda spec: spec | {"models": [{**spec["models"][0], "arch": "booby:Trap"}]},
    "attack": lambda spec: spec | {"attacks": [{"name": "booby:Trap"}]},
    "matched attack": lambda spec: spec | {"attacks": [{"name": "booby:Trap", "match": MATCH, "matched": [ROW]}]},
    "command": lambda spec: spec | {"models": [{"name": "a", "command": ["touch", "sprung", "{image}", "{labels}"]}]},
}


@pytest.mark.parametrize(
    ("name", "foreign"),
    [*((name, "dataset") for name in COMMANDS), *(("score targets", foreign) for foreign in list(FOREIGN)[1:])],
)
def test_a_class_that_a_store_trusts_is_not_imported(
    spoilt: Path, name: str, foreign: str, monkeypatch: pytest.MonkeyPatch, bench: Bench
) -> None:
    plant(spoilt, foreign, monkeypatch)
    own = name in ("status", "report", "plan")  # these take nothing from the store's job but keys
    if own:
        done(bench, *COMMANDS[name])
    else:
        assert "needs --trust-code" in refused(bench, *COMMANDS[name])
    assert not (spoilt.parent / "sprung").exists()
    if not own and foreign != "command":  # the trap works, where the user trusts it
        bench(*COMMANDS[name], "--trust-code")
        assert (spoilt.parent / "sprung").exists()


def test_checks_of_files_import_no_class_that_a_store_trusts(spoilt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(spoilt, "dataset", monkeypatch)
    assert "wrong" not in {check.verdict for check in verify(Store("out"))}
    assert not (spoilt.parent / "sprung").exists()


def plant(spoilt: Path, foreign: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has a store trust a class that leaves a file `sprung` as it is imported."""
    (spoilt.parent / "booby.py").write_text(f"open({str(spoilt.parent / 'sprung')!r}, 'w')\n")
    monkeypatch.syspath_prepend(spoilt.parent)
    monkeypatch.delitem(sys.modules, "booby", raising=False)

    def trusting(content: dict[str, Any]) -> dict[str, Any]:
        content["job"]["spec"] = FOREIGN[foreign](content["job"]["spec"]) | {"trust_code": True}
        return content

    change(spoilt / "run.json", trusting)
    job = json.loads((spoilt / "run.json").read_text())["job"]["spec"]
    change(next((spoilt / "runs").glob("*.json")), lambda run: run | {"trust_code": True, "job": job})


def test_a_match_file_holds_numbers_alone(spoilt: Path, bench: Bench) -> None:
    job = write(spoilt.parent, small(attacks=[{"name": "gn", "match": {"metric": "l2_body", "value": 6, "cases": 1}}]))
    for content in ({"key": {"trust_code": True, "attack": "booby:Trap"}}, ["booby:Trap"], {"key": "booby:Trap"}, 5):
        (spoilt / "match.json").write_text(json.dumps(content))
        assert "match.json" in refused(bench, "plan", job, "--out", "out")


def nested(content: Any) -> Any:
    for _ in range(80):
        content = {"a": content}
    return content


def with_index(run: dict[str, Any], **parts: Any) -> dict[str, Any]:
    return run | {"job": run["job"] | {"index": run["job"]["index"] | parts}}


BROKEN: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a list": lambda run: [run],
    "no job": lambda run: {"schema_version": 2},
    "a job that is a text": lambda run: run | {"job": "x"},
    "a job of nothing": lambda run: run | {"job": {}},
    "an index that is a number": lambda run: run | {"job": run["job"] | {"index": 5, "spec": 5}},
    "an index of numbers": lambda run: run | {"job": {"spec": [], "index": {"cells": [1], "cases": {}}}},
    "an index of no cases": lambda run: run | {"job": {"index": {"cells": run["job"]["index"]["cells"], "cases": {}}}},
    "unhashable keys": lambda run: run | {"job": {"index": {"cells": [{"cell_id": [], "targets": [1], "cases": [2]}]}}},
    "a dataset of no cases": lambda run: with_index(run, cases=run["job"]["index"]["cases"] | {"": None}),
    "a cell of no keys behind others": lambda run: with_index(run, cells=[*run["job"]["index"]["cells"], {"x": 1}]),
    "deep": nested,
    "no version": lambda run: run | {"schema_version": float("inf")},
    "additions of numbers": lambda run: run | {"job": run["job"] | {"imported": [1], "scored": 7}},
    "additions of others": lambda run: run | {"job": run["job"] | {"imported": [{"cell_id": "../x"}]}},
}


IN_TURN = ("status", "report", "rows", "export")


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        *((IN_TURN[place % len(IN_TURN)], broken) for place, broken in enumerate(BROKEN)),
        *(("score targets", broken) for broken in BROKEN),
    ],
)
def test_job_of_store_that_is_something_else_is_one_line(spoilt: Path, name: str, broken: str, bench: Bench) -> None:
    change(spoilt / "run.json", BROKEN[broken])
    if broken.startswith("additions") and name in ("status", "report", "files"):
        done(bench, *COMMANDS[name])
    else:
        assert refused(bench, *COMMANDS[name]).startswith("error: ")


@pytest.mark.parametrize("content", ["[]", "5", '{"schema_version": 2, "warnings": 7, "status": {"a": []}}', "{"])
def test_a_run_s_file_that_is_something_else_is_no_traceback(spoilt: Path, content: str, bench: Bench) -> None:
    next((spoilt / "runs").glob("*.json")).write_text(content)
    code, _, err = bench("cluster", "status", "out")
    assert (code, err.count("\n")) == ((0, 0) if "warnings" in content else (2, 1)), err


@pytest.mark.parametrize("text", ["{", "[" * 5000, "\x1b[2J"], ids=len)
def test_rows_that_hold_something_else_are_one_line(spoilt: Path, text: str, bench: Bench) -> None:
    for column, ends in (("null_reasons", (0, 0)), ("params", (2, 1)), ("added_metrics", (2, 1))):
        rewrite(spoilt, **{"params": "{}", column: text})
        code, _, err = bench("report", "out")
        assert (code, err.count("\n")) == ends, err
        assert printable(err) == err


@pytest.mark.parametrize(
    "words", ["cluster status out", "report out", "report out --format md", "report out --format csv"]
)
def test_texts_of_a_store_are_shown_and_not_obeyed(spoilt: Path, words: str, bench: Bench) -> None:
    for text in (ESCAPES, MARKUP):
        rewrite(spoilt, **dict.fromkeys(("attack", "source_model", "target_model", "dataset", "patient_id"), text))
        said = {"status": text, "heartbeat": text, "run_id": text}
        change(next((spoilt / "runs").glob("*.json")), lambda run, said=said: run | said)
        code, out, err = bench(*words.split())
        assert (code, err, printable(out)) == (0, "", out)
        assert "[red]a" in "".join(out.split()) or text is ESCAPES
    rewrite(spoilt, status="failed", error=f"{ESCAPES}<img src=x>|cell")
    code, out, _ = bench(*words.split())
    assert (code, printable(out)) == (0, out)
    assert ("<img" not in out and "\\|cell" in out) or "md" not in words


@pytest.mark.parametrize("words", ["report out --table clinical", "report out --format csv"])
def test_names_of_other_packages_metrics_are_plain_words(spoilt: Path, words: str, bench: Bench) -> None:
    rewrite(spoilt, metrics=f"dsc,own@{ESCAPES}", added_metrics='{"own": 0.5}')
    code, out, err = bench(*words.split())
    assert (code, err, printable(out)) == (0, "", out)
    rewrite(spoilt, added_metrics=json.dumps({ESCAPES: 0.5}))
    code, out, err = bench(*words.split())
    assert (code, err.count("\n")) == (2, 1), err
    assert printable(out + err) == out + err


def test_checks_of_files_tell_names_of_metrics_in_plain_words(spoilt: Path) -> None:
    for name, verdict in (("own", "ok"), (ESCAPES, "wrong")):
        rewrite(spoilt, metrics=f"dsc,own@{ESCAPES}", added_metrics=json.dumps({name: 0.5}))
        said = io.StringIO()
        checks = verify(Store("out"))
        assert {check.name: check.verdict for check in checks}["values"] == verdict
        show_checks(checks, "out", PlainConsole(file=said))
        assert printable(said.getvalue()) == said.getvalue()


def test_an_error_s_text_is_one_plain_line(spoilt: Path, bench: Bench) -> None:
    change(spoilt / "run.json", lambda run: run | {"job": {"spec": run["job"]["spec"] | {f"a\n{ESCAPES}": 1}}})
    err = refused(bench, "score", "out", "--targets", "a")
    assert printable(err) == err


@pytest.mark.parametrize("text", ["=HYPERLINK(1)", "-1", "@SUM(1)", " +1"])
def test_a_cell_of_a_table_is_never_a_formula(spoilt: Path, text: str, bench: Bench) -> None:
    rewrite(spoilt, dataset=text, attack=text, source_model=text, target_model=text)
    _, out, _ = bench("report", "out", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert {row["dataset"] for row in rows} == {f"'{text}"}
    cells = chain.from_iterable(row.values() for row in rows)
    assert not any(cell.lstrip().startswith(("=", "+", "@")) for cell in cells)


def test_a_console_keeps_its_own_style_and_no_other() -> None:
    file = io.StringIO()
    PlainConsole(file=file, force_terminal=True, width=80).print(f"\x1b[32mtext\x9b2J {MARKUP}", style="red")
    assert file.getvalue() == f"\x1b[31m?[32mtext?2J {MARKUP}\x1b[0m\n"


def test_facts_of_a_volume_that_are_others_are_one_line(spoilt: Path, bench: Bench) -> None:
    """A volume of another shape is one line too."""
    (path,) = spoilt.glob("volumes/*/*/attack.json")
    good = path.read_text()
    for facts in ("{}", "[]", "{", '{"num_windows": 1, "more": 2}', "[" * 5000):
        path.write_text(facts)
        assert "attack.json: " in refused(bench, "export", "out")
    path.write_text(good)
    volume = nibabel.Nifti1Image(np.zeros((2, 3, 4), np.float32), np.eye(4))
    path.with_name("adversarial.nii.gz").write_bytes(gzip.compress(volume.to_bytes()))
    expected = "expected the shape of the prepared case, (1, 24, 20, 16), got (1, 2, 3, 4)"
    assert expected in refused(bench, "export", "out")


@pytest.mark.parametrize("folder", ["records", "runs"])
def test_a_store_with_a_folder_elsewhere_is_refused(spoilt: Path, folder: str) -> None:
    shutil.move(spoilt / folder, spoilt.parent / "elsewhere")
    (spoilt / folder).symlink_to(spoilt.parent / "elsewhere")
    with pytest.raises(UserError, match=f"{folder}: expected a place in .*, got a link that leads out of it") as caught:
        execute(JOB, spoilt)
    line_of(caught)


@pytest.mark.parametrize("linked", ["volumes", "cell", "case", "export"])
def test_volume_is_not_written_or_read_through_link_out_of_store(spoilt: Path, linked: str, bench: Bench) -> None:
    cell = next(spoilt.glob("volumes/*"))
    places = {"volumes": spoilt / "volumes", "cell": cell, "case": next(cell.iterdir()), "export": spoilt / "export"}
    place = places[linked]
    elsewhere = spoilt.parent / "elsewhere"
    if linked == "export":
        elsewhere.mkdir()
    else:
        shutil.move(place, elsewhere)
    place.symlink_to(elsewhere)
    before = sorted(elsewhere.rglob("*"))
    is_followed = linked in ("volumes", "export")
    expected = "got a link that leads out of it" if is_followed else "expected saved volumes of this job, found none"
    assert expected in refused(bench, "export", "out")
    assert sorted(elsewhere.rglob("*")) == before
    assert not (spoilt / "export" / "clean").exists() or linked != "export"


def test_a_run_writes_no_volume_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "volumes").symlink_to(tmp_path / "elsewhere")
    assert execute(JOB, tmp_path / "out").num_failed == 1
    (row,) = Store(str(tmp_path / "out")).records().to_pylist()
    assert "got a link that leads out of it" in row["error"]
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_store_may_itself_be_a_link_and_have_links_within(tmp_path: Path) -> None:
    (tmp_path / "large").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "large")
    (tmp_path / "large" / "disk").mkdir()
    (tmp_path / "large" / "volumes").symlink_to("disk")
    summary = execute(JOB, tmp_path / "out")
    assert (summary.num_new, summary.num_failed) == (1, 0)
    _, grid = expanded(JOB)
    (cell,), (ref,) = grid.cells, grid.cases["phantom"]
    saved_volumes.read(str(tmp_path / "out" / "volumes"), cell, ref)
    assert len(list((tmp_path / "large" / "disk").rglob("*.nii.gz"))) == 5


SHAPES = [[1], "text", 5, {"a": [1]}]


@pytest.mark.parametrize("shape", SHAPES, ids=repr)
@pytest.mark.parametrize("name", RunFacts.model_fields)
def test_a_part_of_a_runs_file_of_another_kind_is_one_line(spoilt: Path, name: str, shape: Any) -> None:
    run = next((spoilt / "runs").glob("*.json"))
    change(run, lambda facts: {**facts, name: shape})
    kind = {"workers": list, "devices": list}.get(name, dict)
    is_right = isinstance(shape, kind) and name not in ("models", "datasets")
    with nullcontext() if is_right else complaint(run, name):
        Store(str(spoilt)).runs()


@pytest.mark.parametrize("part", ["cases", "recipe"])
def test_part_of_dataset_in_runs_file_of_another_kind_is_refused(spoilt: Path, part: str) -> None:
    run = next((spoilt / "runs").glob("*.json"))
    change(run, lambda facts: {**facts, "datasets": {"phantom": {part: [1]}}})
    with complaint(run, rf"datasets\.phantom\.{part}"):
        Store(str(spoilt)).runs()


def complaint(run: Path, place: str) -> AbstractContextManager[object]:
    return pytest.raises(UserError, match=rf"^{run}: {place}(\.\w+)?: expected what a run wrote")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("place", ["run.json", "runs/*.json", "records/*.parquet"])
def test_a_pipe_in_the_place_of_a_file_is_one_line(spoilt: Path, place: str) -> None:
    (path,) = spoilt.glob(place)
    path.unlink()
    os.mkfifo(path)
    read = {"run.json": Store(str(spoilt)).job, "runs/*.json": Store(str(spoilt)).runs}
    with pytest.raises(UserError, match=f"^{path}: expected a file, got a pipe, socket or device: move it away$"):
        read.get(place, Store(str(spoilt)).class_records)()
    assert stat.S_ISFIFO(path.stat().st_mode)
