"""A store whose classes have files of their own is converted: its rows stay, whatever interrupts it."""

import json
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from results.conftest import make_failed, make_record, put
from results.test_compaction import Killed, die_at

from freqbench.core.errors import UserError
from freqbench.results import Store
from freqbench.results.convert import convert
from freqbench.results.schema import VERSION_FIELD

NAME = "run0-000000.parquet"


def tables(out: Path) -> tuple[pa.Table, pa.Table]:
    order = [("cell_id", "ascending"), ("class_index", "ascending")]
    return Store(str(out)).records().sort_by(order[:1]), Store(str(out)).class_records().sort_by(order)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[pa.Table, pa.Table]:
    """Rows from before the columns of releases and clean numbers."""
    store = Store(str(tmp_path_factory.mktemp("expected")))
    put(store, NAME, make_record(cell_id="a"), make_failed(1, cell_id="b"), make_record(2, cell_id="c", dsc=1))
    return tables(Path(store.root))


@pytest.fixture
def former(tmp_path: Path, expected: tuple[pa.Table, pa.Table]) -> Path:
    """The same as version 1 stored them, the classes in another order."""
    Store(str(tmp_path)).write_run("run0", {"status": "done"})
    Store(str(tmp_path)).write_job({"index": {"cells": []}})
    for path in (tmp_path / "run.json", tmp_path / "runs" / "run0.json"):
        path.write_text(path.read_text().replace('"schema_version": 2\n', '"schema_version": 1\n'))
    parts = {"records": expected[0].drop_columns(["releases", "clean_number"]), "class_records": expected[1][::-1]}
    for kind, table in parts.items():
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "mine.txt").touch()
        pq.write_table(table.replace_schema_metadata({VERSION_FIELD: b"1"}), tmp_path / kind / NAME)
    (tmp_path / "class_records" / "alone.parquet").touch()  # no rows have its name
    return tmp_path


def test_converted_rows_are_those_of_the_former_files(former: Path, expected: tuple[pa.Table, pa.Table]) -> None:
    assert (convert(str(former)), tables(former)) == (1, expected)
    assert Store(str(former)).job() == {"index": {"cells": []}}
    assert [run["status"] for run in Store(str(former)).runs()] == ["done"]
    assert convert(str(former)) == 0


@pytest.mark.parametrize("at", range(4))
def test_a_dead_conversion_is_finished_by_the_next(former: Path, expected: tuple[pa.Table, pa.Table], at: int) -> None:
    with pytest.MonkeyPatch.context() as patch, suppress(Killed):
        die_at(patch, at)
        convert(str(former))
    convert(str(former))
    assert tables(former) == expected
    assert [path.name for path in sorted((former / "class_records").iterdir())] == ["alone.parquet", "mine.txt"]


def test_rows_without_column_or_classes_are_not_converted(former: Path) -> None:
    path = former / "records" / NAME
    pq.write_table(pq.read_table(path).drop_columns(["restored_by"]), path)
    with pytest.raises(UserError, match="an early release wrote it, without restored_by: run the job again into a new"):
        convert(str(former))
    (former / "class_records" / NAME).unlink()
    with pytest.raises(UserError, match=rf"class_records/{NAME}: missing: restore it, or move {path} away$"):
        convert(str(former))
    assert json.loads((former / "run.json").read_text())["schema_version"] == 1
