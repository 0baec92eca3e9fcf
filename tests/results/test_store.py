"""The store shows each row once a key, in the promised order, and refuses what it cannot read."""

import math
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from freqbench.core.errors import UserError
from freqbench.results import CLASS_RECORDS, RECORDS, SCHEMA_VERSION, Store, to_table
from freqbench.results.schema import VERSION_FIELD


def commit(store: Store, rows: SimpleNamespace, run_id: str, *records: dict) -> None:
    """One committed pair of files with these records and two classes each."""
    with store.writer(run_id) as writer:
        records = tuple(row | {"run_id": run_id} for row in records)
        writer.add(records, [row for record in records for row in rows.classes(record)])


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(str(tmp_path / "out") if request.param == "local" else f"memory://{tmp_path.name}/{request.param}")


def test_what_is_written_is_read(store: Store, rows: SimpleNamespace) -> None:
    row = rows.record(hd95=math.nan, lpips_distance=None, null_reasons='{"lpips_distance": "no weights"}')
    commit(store, rows, "run0", row)
    (read,) = store.records().to_pylist()
    assert math.isnan(read["hd95"])
    assert read | {"hd95": 0} == row | {"hd95": 0}


def test_an_empty_store_has_tables_of_the_schema(store: Store) -> None:
    assert store.records().column_names == [column.name for column in RECORDS]
    assert store.class_records().column_names == [column.name for column in CLASS_RECORDS]
    assert store.covered() == {}
    assert store.runs() == []


def test_ok_wins_over_a_later_failure(store: Store, rows: SimpleNamespace) -> None:
    commit(store, rows, "a", rows.record(1, dsc=0.1))
    commit(store, rows, "b", rows.failed(2))
    assert store.records()["dsc"].to_pylist() == [0.1]


def test_the_latest_ok_wins_whatever_the_order_of_files(store: Store, rows: SimpleNamespace) -> None:
    commit(store, rows, "a", rows.record(2, dsc=0.2))
    commit(store, rows, "b", rows.record(1, dsc=0.1))
    assert store.records()["dsc"].to_pylist() == [0.2]


def test_some_columns_are_those_of_the_same_rows(store: Store, rows: SimpleNamespace) -> None:
    commit(store, rows, "a", rows.record(1, dsc=0.1), rows.record(2, dsc=0.2, cell_id="c"))
    commit(store, rows, "b", rows.failed(3), rows.record(4, dsc=0.4, cell_id="c"))
    found = store.records(("dsc", "cell_id"))
    assert found.column_names == ["dsc", "cell_id"]
    assert found.to_pylist() == [{"dsc": 0.1, "cell_id": "cell0"}, {"dsc": 0.4, "cell_id": "c"}]


def test_the_latest_failure_wins_over_older_ones(store: Store, rows: SimpleNamespace) -> None:
    commit(store, rows, "a", rows.failed(2, error="new"), rows.failed(1, error="old"))
    assert store.records()["error"].to_pylist() == ["new"]


def test_each_part_of_the_key_tells_rows_apart(store: Store, rows: SimpleNamespace) -> None:
    others = [{}, {"cell_id": "c"}, {"case_key": "c"}, {"target_model_id": "c"}]
    commit(store, rows, "a", *(rows.record(minute, **other) for minute, other in enumerate(others)))
    assert store.records()["finished_at"].to_pylist() == [rows.record(minute)["finished_at"] for minute in range(4)]


def test_class_rows_are_those_of_the_winning_record(store: Store, rows: SimpleNamespace) -> None:
    commit(store, rows, "a", rows.record(1, dsc=0.1), rows.record(2, dsc=0.2), rows.record(3, cell_id="c", dsc=0.3))
    commit(store, rows, "b", rows.record(4, dsc=0.4))
    found = store.class_records().sort_by([("dsc", "ascending"), ("class_index", "ascending")])
    assert found.select(["dsc", "class_index"]).to_pylist() == [
        {"dsc": dsc, "class_index": index} for dsc in (0.3, 0.4) for index in (0, 1)
    ]


def test_covered_are_the_ok_keys_with_their_metrics(store: Store, rows: SimpleNamespace) -> None:
    commit(store, rows, "a", rows.record(metrics="dsc,hd95"), rows.failed(cell_id="b"), rows.record(2, case_key="c"))
    commit(store, rows, "b", rows.record(3, case_key="c", metrics=""))
    assert store.covered() == {
        ("cell0", "case0", "id_unet"): frozenset({"dsc", "hd95"}),
        ("cell0", "c", "id_unet"): frozenset(),
    }


def test_two_writers_interleave(store: Store, rows: SimpleNamespace) -> None:
    first, second = store.writer("a"), store.writer("b")
    for minute in range(6):
        name, writer = ("a", first) if minute % 2 else ("b", second)
        row = rows.record(minute, cell_id=f"cell{minute // 2}", run_id=name)
        writer.add([row], rows.classes(row))
        writer.flush()
    assert store.records()["run_id"].to_pylist() == ["a", "a", "a"]
    assert len(store.class_records()) == 6


def test_a_records_file_is_read_only_with_the_classes_of_its_own_pair(store: Store, rows: SimpleNamespace) -> None:
    """The same record in two files, as a compaction that died leaves it, shows its classes once."""
    row = rows.record()
    for name in ("a", "b"):
        from freqbench.results.writer import commit as write_pair

        write_pair(store.root, f"{name}.parquet", to_table(RECORDS, [row]), to_table(CLASS_RECORDS, rows.classes(row)))
    assert len(store.class_records()) == 2


def test_runs_come_back_without_the_lease(store: Store) -> None:
    store.write_run("r2", {"host": "h"})
    store.write_run("r1", {"host": "g"})
    from freqbench.results import Lease

    Lease(store.root, "r1").take()
    assert [(run["run_id"], run["host"]) for run in store.runs()] == [("r1", "g"), ("r2", "h")]


def test_the_job_comes_back(store: Store) -> None:
    store.write_run("r1", {})
    store.write_job({"name": "quickstart"})
    assert store.job() == {"name": "quickstart"}


def test_no_job_is_a_user_error(store: Store) -> None:
    with pytest.raises(UserError, match=r"run\.json: expected a result store, found no such file"):
        store.job()


# What cannot be read


@pytest.fixture
def folder(tmp_path: Path, rows: SimpleNamespace) -> Path:
    """A local store with one committed file."""
    commit(Store(str(tmp_path)), rows, "a", rows.record())
    return tmp_path


@pytest.mark.parametrize("kind", ["records", "class_records"])
@pytest.mark.parametrize("content", [b"", b"PAR1 torn", None], ids=["empty", "torn", "foreign"])
def test_an_unreadable_file_is_named(folder: Path, kind: str, content: bytes | None) -> None:
    path = folder / kind / "a-000000.parquet"
    if content is None:
        pq.write_table(pa.table({"cell_id": ["x"]}), path)
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=rf"{kind}/a-000000\.parquet: expected a Parquet file of results.*delete it"):
        Store(str(folder)).class_records()


def test_files_with_a_leading_dot_are_ignored(folder: Path) -> None:
    (folder / "records" / ".a.parquet").write_bytes(b"torn")
    assert len(Store(str(folder)).records()) == 1


def test_a_missing_half_of_a_pair_is_named(folder: Path) -> None:
    (folder / "class_records" / "a-000000.parquet").unlink()
    with pytest.raises(UserError, match=r"a file of a committed pair is missing.*class_records/a-000000"):
        Store(str(folder)).class_records()


def test_a_newer_schema_is_refused(folder: Path) -> None:
    path = folder / "records" / "a-000000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({VERSION_FIELD: str(SCHEMA_VERSION + 1)}), path)
    with pytest.raises(UserError, match=r"schema version 1 or older, got 2: update freqbench"):
        Store(str(folder)).covered()


def test_columns_that_an_older_file_lacks_are_null(folder: Path) -> None:
    path = folder / "records" / "a-000000.parquet"
    old = pq.read_table(path).drop_columns(["dsc_foreground", "num_windows"])
    pq.write_table(old.append_column("gone", pa.array([1])), path)
    (row,) = Store(str(folder)).records().to_pylist()
    assert (row["dsc"], row["dsc_foreground"], row["num_windows"], "gone" in row) == (0.5, None, None, False)
