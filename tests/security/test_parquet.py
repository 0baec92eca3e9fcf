"""A Parquet file of a stranger may stand for any number of rows, or of copies of a text: it is refused unread."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from results.conftest import make_classes, make_record

from freqbench.audit.verify import verify
from freqbench.core.errors import UserError
from freqbench.results import Store, schema
from freqbench.results.schema import CLASSES
from freqbench.results.writer import to_rows

LONG = "x" * 2_000_000
ROWS = 60
Write = Callable[[Path, pa.Table], None]


def _of(make: Callable[[int], pa.Array], column: str = "caution", step: int = 10, **how: object) -> Write:
    """Writes a column of `make(rows)` in row groups of some rows each."""

    def write(path: Path, table: pa.Table) -> None:
        values, at = make(len(table)), table.schema.get_field_index(column)
        changed = table.set_column(at, pa.field(column, values.type), values)
        pq.write_table(changed, path, row_group_size=step, compression="zstd", **how)

    return write


def _copies(rows: int) -> pa.Array:
    return pa.array([LONG] * rows)


def _lists(rows: int) -> pa.Array:
    return pa.array([[1.0] * 100_000] * rows)


def _classes(rows: int, count: int = 300, **columns: pa.Array) -> pa.Array:
    own, offsets = schema.ROWS.field(CLASSES).type.value_type, pa.array(range(0, count * rows + 1, count), pa.int32())
    parts = [columns.get(each.name, pa.nulls(count * rows, each.type)) for each in own]
    return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(parts, fields=list(own)))


def _long_names(rows: int) -> pa.Array:
    return _classes(rows, 1, class_name=_copies(rows))


def _blocks(rows: int) -> pa.Array:
    return pa.array([LONG.encode()] * rows, pa.binary(len(LONG)))


def _many_rows(path: Path, table: pa.Table) -> None:
    pq.write_table(table.take([0] * 30_000), path, compression="zstd")


SPELLINGS: dict[str, tuple[Write, str]] = {
    "copies of a text": (_of(_copies), r"expected at most \d+ MiB in memory from a file of its size, got \d+"),
    "copies in a numbers' column": (_of(_copies, "dsc"), r"expected at most \d+ MiB in memory"),
    "packed texts": (_of(_copies, use_dictionary=False), r"expected at most \d+ MiB in memory"),
    "texts by their difference": (
        _of(_copies, use_dictionary=False, column_encoding={"caution": "DELTA_BYTE_ARRAY"}),
        "caution: expected a value a row in a usual encoding, got something else",
    ),
    "lists": (_of(_lists, "dsc"), "expected the columns of schema version 2, got no dsc"),
    "classes": (_of(_classes, CLASSES), "classes.list.element.class_index: expected at most 256 values a row"),
    "copies of a class's name": (_of(_long_names, CLASSES), r"expected at most \d+ MiB in memory"),
    "blocks": (_of(_blocks), "caution: expected a value a row"),
    "copies of a row": (_many_rows, r"expected at most \d,\d{3} rows in a file of its size, got 30,000"),
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store, rows = Store(str(tmp_path)), [make_record(minute, case_key=f"case{minute}") for minute in range(ROWS)]
    store.writer("run0", interval_s=0).add(rows, list(map(make_classes, rows)))
    return store


@pytest.mark.parametrize("what", SPELLINGS)
def test_swelling_file_is_refused_unread(store: Store, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write, complaint = SPELLINGS[what]
    (path,) = (Path(store.root) / "records").iterdir()
    write(path, pq.read_table(path))
    assert path.stat().st_size < 2**20
    former, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(pool)
    try:
        with pytest.raises(UserError, match=complaint) as caught:
            store.class_records() if "class" in what else store.records()
    finally:
        pa.set_memory_pool(former)
    assert "freqbench did not write it: restore it, or move it away" in str(caught.value)
    assert pool.max_memory() < 2**26


def test_verify_refuses_classes_with_copies_of_a_text(store: Store) -> None:
    store.write_job({"index": {"cells": []}})
    (path,) = (Path(store.root) / "records").iterdir()
    _of(_long_names, CLASSES)(path, pq.read_table(path))
    assert "MiB in memory from a file of its size" in verify(store)[0].text


def test_the_rows_of_one_write_of_a_run_are_read(tmp_path: Path) -> None:
    row = make_record()
    (tmp_path / "records").mkdir()
    pq.write_table(to_rows([row], [make_classes(row, 256)]).take([0] * 5000), tmp_path / "records/run0-000000.parquet")
    assert len(Store(str(tmp_path)).class_records()) == 256
