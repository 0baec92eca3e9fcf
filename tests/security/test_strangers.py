"""Files that freqbench did not make, in every place that it removes or replaces files in: none is ever gone."""

import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import tiny_training
import torch
from command_line import Bench, refused
from engine.cases import case_of
from reporting.handmade import glimpse_of
from results.conftest import make_record
from results.conftest import put as put_rows
from tiny_job import execute, small

from freqbench.audit import probe_files
from freqbench.core.errors import UserError
from freqbench.core.files import node_cache, storage
from freqbench.data import cache
from freqbench.reporting import figures as all_figures
from freqbench.results import Lease, Store
from freqbench.results.glimpses import Glimpse, Glimpses
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


# the cache

IN_CACHE = (
    *("thesis.tex", "lpips/mine.pt", "volumes/weights.safetensors", "volumes/.notes.tmp", f"volumes/{DIGEST}.nii.gz"),
    *(f"volumes/sub/{DIGEST}.safetensors", "files/thesis.tex", f"files/{DIGEST}.txt", f"files/{DIGEST}/notes.txt"),
    *(f"files/{DIGEST}/a.bin.mine", f"files/{'f' * 16}/a.bin", f"files/{'f' * 16}.json", "networks/notes.json"),
)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FREQBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FREQBENCH_CACHE_GB", "1e-5")
    return tmp_path / "cache"


def keep(number: int) -> None:
    case = case_of(torch.zeros(1, 8, 8, 8), torch.zeros(1, 8, 8, 8), DIGEST)
    cache.cached_case(case.ref, lambda: case, case=number, space=None)


def test_a_full_cache_and_a_cleared_one_leave_strangers(own_cache: Path, bench: Bench) -> None:
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


# a store


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
    cell, case = DIGEST, "f" * 16
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


# what is written into a folder of the user's


WRITERS = {
    "page": ("report", "--format", "html", "--volumes", "--yes", "--to"), "figures": ("report", "--figures"),
    "export": ("export", "--yes", "--to"), "dicom": ("export", "--format", "dicom", "--yes", "--to"),
}  # fmt: skip


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
