"""A compaction leaves large files alone; no committed row is lost or doubled, whoever writes, compacts or dies."""

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from results.conftest import make_classes, make_record, put
from tiny_job import noted

from freqbench.core.files import storage
from freqbench.results import CLASS_RECORDS, RECORDS, Store, compaction
from freqbench.results.compaction import MIB, StoredFile, choose


class Killed(BaseException):
    """The process dies here."""


def die_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Let the process die instead of the step-th write or removal."""
    left = step
    for name in ("write_atomic", "remove"):
        real = getattr(storage, name)

        def counted(path: str, *data: bytes, real: Callable[..., None] = real) -> None:
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            real(path, *data)

        monkeypatch.setattr(storage, name, counted)


def first_do(patch: pytest.MonkeyPatch, moment: str, work: Callable[[], Any]) -> None:
    """Have something happen just before the next step of a kind at the storage."""
    real = getattr(storage, moment)

    def step(*arguments: Any) -> Any:
        patch.undo()
        work()
        return real(*arguments)

    patch.setattr(storage, moment, step)


def names(store: Store) -> list[str]:
    return storage.list_files(storage.join(store.root, "records"), ".parquet")


def seen(store: Store) -> tuple[list[Any], list[Any]]:
    """Rows as a reader sees them, in a fixed order."""
    classes = store.class_records().select(["cell_id", "class_index", "dsc", "run_id"]).to_pylist()
    return sorted(store.rows(("cell_id", "dsc", "run_id"))), sorted(tuple(row.values()) for row in classes)


def file(number: int, mib: float, lost: int = 0) -> StoredFile:
    wins = np.ones(100, np.bool_)
    wins[:lost] = False
    return StoredFile(name=str(number), size=int(mib * MIB), wins=wins)


@pytest.mark.parametrize(
    ("sizes", "merged"),
    [
        ([1, 1, 1], [0, 1, 2]),
        ([64, 1, 1], [1, 2]),
        ([64, 64, 64, 1], []),
        ([20, 0.1, 0.1], [1, 2]),
        ([20, 11, 10], [0, 1, 2]),
        ([7, 7, 0.1], [0, 1, 2]),
        ([31, 16, 8, 0.1], []),
        ([33, 33, 33], []),
        ([], []),
    ],
)
def test_file_larger_than_all_smaller_ones_is_left_alone(sizes: list[float], merged: list[int]) -> None:
    assert [int(each.name) for each in choose([file(number, mib) for number, mib in enumerate(sizes)])] == merged


@pytest.mark.parametrize(("lost", "merged"), [(0, []), (10, []), (11, ["0"])])
def test_large_file_is_rewritten_once_tenth_of_it_is_superseded(lost: int, merged: list[str]) -> None:
    assert [each.name for each in choose([file(0, 64, lost), file(1, 64)])] == merged


def test_run_of_few_rows_leaves_large_files_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path))
    large = "compacted-a-000001.parquet"
    put(store, large, *(make_record(number, cell_id=f"cell{number}") for number in range(300)))
    size = storage.size(str(tmp_path / "records" / large))
    for number in range(3):
        put(store, f"run-{number:06d}.parquet", make_record(cell_id=f"new{number}"))
    monkeypatch.setattr(compaction, "FULL_BYTES", 2 * size)
    before = seen(store)
    kinds = ("read_bytes", "read_range", "write_atomic", "remove")
    touched = {kind: noted(monkeypatch, storage, kind, lambda path, *_: path) for kind in kinds}
    store.compact()
    assert [kind for kind in kinds if any(path.endswith(large) for path in touched[kind])] == ["read_range"]
    assert (len(names(store)), large in names(store), seen(store)) == (2, True, before)


@pytest.fixture
def filled(tmp_path: Path) -> Callable[[str], Store]:
    """A store of which a compaction died half-way: rows stand in several files, and some are superseded."""
    made = Store(str(tmp_path / "made"))
    for number in range(4):
        again = make_record(number, cell_id="again", dsc=number / 10, run_id=f"run{number}")
        put(made, f"run{number}-000000.parquet", again, make_record(number, cell_id=f"cell{number}"))
    put(made, "compacted-b-000000.parquet", *(make_record(number, cell_id=f"cell{number}") for number in (0, 1)))
    put(made, "compacted-a-000002.parquet", *(make_record(number, cell_id=f"cell{number}") for number in (1, 2)))

    def fill(name: str) -> Store:
        return Store(str(shutil.copytree(made.root, tmp_path / name)))

    return fill


@pytest.mark.parametrize("full_bytes", [1, 64 * MIB], ids=["a group each", "one group"])
def test_dying_loses_nothing(filled: Callable[[str], Store], full_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A death leaves the state that a reader sees just before the next write or removal."""
    monkeypatch.setattr(compaction, "FULL_BYTES", full_bytes)
    monkeypatch.setattr(compaction, "choose", list)
    store = filled("out")
    before = seen(store)
    states = list[Any]()
    for name in ("write_atomic", "remove"):
        real = getattr(storage, name)

        def step(*arguments: Any, real: Callable[..., None] = real) -> None:
            states.append(seen(Store(store.root)))
            real(*arguments)

        monkeypatch.setattr(storage, name, step)
    store.compact()
    assert [step for step, rows in enumerate([*states, seen(store)]) if rows != before] == []
    assert len(states) >= 7, "a write and six removals"


@pytest.mark.parametrize(
    ("own", "other"),
    [("run", "compacted-h"), ("compacted-00aa", "compacted-00a0"), ("compacted-zza0", "compacted-zzaa")],
)
def test_row_left_to_another_file_stays(tmp_path: Path, own: str, other: str) -> None:
    """Two others rewrite the merged file that one has left a row to, the second after the first."""
    store = Store(str(tmp_path))
    own = f"{own}-000000.parquet"
    put(store, own, make_record())
    put(store, f"{other}-000001.parquet", make_record(), make_record(1, cell_id="other"))
    before = seen(store)
    real = storage.remove
    with pytest.MonkeyPatch.context() as patch:

        def rewrite_twice(path: str) -> None:
            patch.setattr(storage, "remove", real)
            patch.setattr(compaction, "choose", lambda pairs: [pair for pair in pairs if pair.name != own])
            store.compact(above=0)
            store.compact(above=0)
            real(path)

        patch.setattr(compaction, "choose", lambda pairs: [pair for pair in pairs if pair.name == own])
        patch.setattr(storage, "remove", rewrite_twice)
        store.compact(above=0)
    assert seen(store) == before
    assert [name.rpartition("-")[2] for name in names(store)] == ["000003.parquet"]


def test_reader_starts_again_if_a_compaction_passes(filled: Callable[[str], Store]) -> None:
    store = filled("out")
    before = seen(store)
    store.compact(above=6)
    assert len(names(store)) == 6
    with pytest.MonkeyPatch.context() as patch:
        first_do(patch, "read_bytes", lambda: store.compact(above=5))
        assert seen(store) == before
    assert len(names(store)) == 1
    for table, columns in ((store.records(), RECORDS), (store.class_records(), CLASS_RECORDS)):
        assert table.schema.equals(pa.schema([(column.name, column.type) for column in columns]))


def test_rows_that_are_merged_share_a_row_group(filled: Callable[[str], Store]) -> None:
    """Each is read by itself: one a row makes a store slow and large."""
    store = filled("out")
    store.compact()
    groups = [pq.ParquetFile(path).metadata for path in (Path(store.root) / "records").glob("*.parquet")]
    assert max(group.num_rows for group in groups) > 1
    assert all(group.num_row_groups == 1 for group in groups)


def test_classes_of_many_row_groups_are_read(filled: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrow reads codes of nested texts of one group at a time alone."""
    monkeypatch.setattr(compaction, "PIECE_BYTES", 1)
    store = filled("out")
    before = seen(store)
    store.compact()
    assert seen(store) == before
    (path,) = (Path(store.root) / "records").iterdir()
    assert pq.read_metadata(path).num_row_groups > 1


@pytest.mark.parametrize("moment", ["read_bytes", "write_atomic", "remove"])
def test_rows_committed_during_a_compaction_stay(filled: Callable[[str], Store], moment: str) -> None:
    store = filled("out")
    before = seen(store)
    with pytest.MonkeyPatch.context() as patch:
        first_do(patch, moment, lambda: put(store, "run9-000000.parquet", make_record(9, cell_id="new")))
        store.compact()
    after = seen(store)
    assert [len(part) for part in after] == [len(before[0]) + 1, len(before[1]) + 2]
    assert set(before[0]) < set(after[0])


@pytest.mark.parametrize(("step", "committed"), [(0, 0), (1, 1)])
def test_dying_flush_commits_all_or_nothing(tmp_path: Path, step: int, committed: int) -> None:
    store = Store(str(tmp_path))
    put(store, "run1-000000.parquet", make_record())
    writer = store.writer("run0")
    writer.add([make_record(cell_id="new")], [make_classes(make_record(cell_id="new"))])
    with pytest.MonkeyPatch.context() as patch, suppress(Killed):
        die_at(patch, step)
        writer.flush()
    assert [len(part) for part in seen(store)] == [1 + committed, 2 + 2 * committed]
    writer.add([make_record(2, cell_id="second")], [[]])
    assert writer.flush() == 2 - committed
    assert [len(part) for part in seen(store)] == [3, 4]


def test_a_commit_that_raised_but_reached_the_store_counts_once(tmp_path: Path) -> None:
    """A remote put can time out after it has succeeded."""
    writer = Store(str(tmp_path)).writer("run0")
    writer.add([make_record()], [make_classes(make_record())])
    real = storage.write_atomic
    with pytest.MonkeyPatch.context() as patch:

        def time_out_late(path: str, data: bytes) -> None:
            real(path, data)
            raise TimeoutError

        patch.setattr(storage, "write_atomic", time_out_late)
        with pytest.raises(TimeoutError):
            writer.flush()
    assert writer.flush() == 1
    assert [len(part) for part in seen(Store(str(tmp_path)))] == [1, 2]
