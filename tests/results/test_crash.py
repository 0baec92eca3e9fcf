"""After each single step of a flush or a compaction a reader sees each committed row exactly once, with its classes."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from freqbench.core import storage
from freqbench.results import CLASS_RECORDS, KEY, RECORDS, Store


class Killed(BaseException):
    """The process dies here."""


def die_at(monkeypatch: pytest.MonkeyPatch, step: int) -> list[str]:
    """Let the process die instead of the step-th write or removal; returns the list that the steps are noted in."""
    steps: list[str] = []
    for name in ("write_atomic", "remove"):
        real = getattr(storage, name)

        def counted(path: str, *data: bytes, real: Callable[..., None] = real, name: str = name) -> None:
            if len(steps) == step:
                raise Killed
            steps.append(f"{name} {path}")
            real(path, *data)

        monkeypatch.setattr(storage, name, counted)
    return steps


def seen(store: Store) -> tuple[list[Any], list[Any]]:
    """All that a reader sees, in a fixed order."""
    classes = store.class_records().sort_by([(name, "ascending") for name in (*KEY, "class_index")])
    return store.records().to_pylist(), classes.to_pylist()


def fill(root: Path, rows: SimpleNamespace) -> Store:
    """Five pairs of files with retries, duplicates and failures: six keys.

    Their names sort before and after that of a compacted file, as which of two equal rows is taken must not matter.
    """
    store = Store(str(root))
    for number in range(5):
        run_id = f"{number}-run" if number % 2 else f"run{number}"
        records = [
            rows.record(number, cell_id="retried", dsc=number / 10, run_id=run_id),
            rows.record(number, cell_id=f"cell{number}", dsc=number / 20, run_id=run_id),
        ]
        if number == 2:
            records[1] |= {"status": "failed", "error": "out of memory"}
        with store.writer(run_id) as writer:
            writer.add(records, [row for record in records for row in rows.classes(record)])
    return store


def test_a_compaction_that_dies_at_any_step_loses_and_doubles_nothing(tmp_path: Path, rows: SimpleNamespace) -> None:
    before = seen(fill(tmp_path / "filled", rows))
    assert (len(before[0]), len(before[1])) == (6, 12)
    step = 0
    while True:
        store = Store(str(shutil.copytree(tmp_path / "filled", tmp_path / str(step))))
        with pytest.MonkeyPatch.context() as patch:
            steps = die_at(patch, step)
            try:
                store.compact()
            except Killed:
                assert len(steps) == step
            else:
                break
        assert seen(store) == before, f"after {steps}"
        store.compact()
        assert seen(store) == before, f"compacted again after {steps}"
        step += 1
    assert step == 12, "two writes, then five pairs of removals"
    assert len(list((tmp_path / "12" / "records").iterdir())) == 1
    assert len(list((tmp_path / "12" / "class_records").iterdir())) == 1


def test_a_flush_that_dies_at_any_step_commits_all_or_nothing(tmp_path: Path, rows: SimpleNamespace) -> None:
    for step, committed in enumerate((0, 0, 1)):
        store = fill(tmp_path / str(step), rows)
        before = seen(store)
        new = rows.record(9, cell_id="new", run_id="run9")
        writer = store.writer("run9")
        writer.add([new], rows.classes(new))
        with pytest.MonkeyPatch.context() as patch:
            die_at(patch, step)
            try:
                writer.flush()
            except Killed:
                assert not committed
        after = seen(store)
        assert len(after[0]) == len(before[0]) + committed
        assert len(after[1]) == len(before[1]) + 2 * committed
        assert [row for row in after[0] if row["cell_id"] != "new"] == before[0]


@pytest.mark.parametrize("step", [0, 1])
def test_a_flush_that_failed_can_be_tried_again(tmp_path: Path, rows: SimpleNamespace, step: int) -> None:
    writer = Store(str(tmp_path)).writer("run0")
    first, second = rows.record(1), rows.record(2, cell_id="second")
    writer.add([first], rows.classes(first))
    with pytest.MonkeyPatch.context() as patch:
        die_at(patch, step)
        with pytest.raises(Killed):
            writer.flush()
    writer.add([second], rows.classes(second))
    assert writer.flush() == 2
    records, classes = seen(Store(str(tmp_path)))
    assert (len(records), len(classes)) == (2, 4)


def test_a_commit_that_raised_but_reached_the_store_counts_once(tmp_path: Path, rows: SimpleNamespace) -> None:
    """A remote put can time out after it has succeeded."""
    writer = Store(str(tmp_path)).writer("run0")
    writer.add([rows.record()], rows.classes(rows.record()))
    real = storage.write_atomic
    with pytest.MonkeyPatch.context() as patch:

        def time_out_late(path: str, data: bytes) -> None:
            real(path, data)
            if "/records/" in path:
                raise TimeoutError

        patch.setattr(storage, "write_atomic", time_out_late)
        with pytest.raises(TimeoutError):
            writer.flush()
    assert writer.flush() == 1
    assert [len(part) for part in seen(Store(str(tmp_path)))] == [1, 2]


def test_a_reader_starts_again_if_a_compaction_passes_it(tmp_path: Path, rows: SimpleNamespace) -> None:
    store = fill(tmp_path, rows)
    before = seen(store)
    real = storage.read_bytes
    with pytest.MonkeyPatch.context() as patch:

        def compact_after_the_first_read(path: str) -> bytes:
            patch.undo()
            content = real(path)
            store.compact()
            return content

        patch.setattr(storage, "read_bytes", compact_after_the_first_read)
        assert store.records().to_pylist() == before[0]


@pytest.mark.parametrize("moment", ["read_bytes", "write_atomic", "remove"])
def test_rows_committed_during_a_compaction_stay(tmp_path: Path, rows: SimpleNamespace, moment: str) -> None:
    store = fill(tmp_path, rows)
    real = getattr(storage, moment)
    with pytest.MonkeyPatch.context() as patch:

        def commit_first(path: str, *data: bytes) -> Any:
            patch.undo()
            new = rows.record(9, cell_id="new", run_id="run9")
            with store.writer("run9") as writer:
                writer.add([new], rows.classes(new))
            return real(path, *data)

        patch.setattr(storage, moment, commit_first)
        store.compact()
    assert [len(part) for part in seen(store)] == [7, 14]
    assert len(storage.list_files(str(tmp_path / "records"), ".parquet")) == 2


def test_two_compactions_at_once_lose_nothing(tmp_path: Path, rows: SimpleNamespace) -> None:
    """The second runs to its end between the first one's commit and its first removal."""
    store = fill(tmp_path, rows)
    before = seen(store)
    real = storage.remove
    with pytest.MonkeyPatch.context() as patch:

        def compact_first(path: str) -> None:
            patch.undo()
            store.compact()
            real(path)

        patch.setattr(storage, "remove", compact_first)
        store.compact()
    assert seen(store) == before


def test_compaction_waits_for_enough_files(tmp_path: Path, rows: SimpleNamespace) -> None:
    store = fill(tmp_path, rows)
    store.compact(above=5)
    assert len(storage.list_files(str(tmp_path / "records"), ".parquet")) == 5


def test_seventy_small_files_become_one(tmp_path: Path, rows: SimpleNamespace) -> None:
    store = Store(str(tmp_path))
    writer = store.writer("run0")
    written = [rows.record(number, cell_id=f"cell{number}") for number in range(70)]
    for row in written:
        writer.add([row], rows.classes(row))
        writer.flush()
    assert len(storage.list_files(str(tmp_path / "records"), ".parquet")) == 70
    store.compact()
    assert len(storage.list_files(str(tmp_path / "records"), ".parquet")) == 1
    assert store.records().to_pylist() == written
    assert len(store.class_records()) == 140


def test_a_compacted_file_has_the_whole_schema(tmp_path: Path, rows: SimpleNamespace) -> None:
    store = fill(tmp_path, rows)
    store.compact()
    for table, columns in ((store.records(), RECORDS), (store.class_records(), CLASS_RECORDS)):
        assert table.schema.equals(pa.schema([(column.name, column.type) for column in columns]))
