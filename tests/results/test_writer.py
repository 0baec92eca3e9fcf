"""The writer takes only rows of the schema and says when they are committed."""

from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from freqbench.results import RECORDS, Store, to_table
from freqbench.results import writer as writer_module


def test_five_thousand_rows_are_committed_at_once(
    tmp_path: Path, rows: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert writer_module.MAX_RECORDS == 5000
    monkeypatch.setattr(writer_module, "MAX_RECORDS", 3)
    writer = Store(str(tmp_path)).writer("run0")
    assert [writer.add([rows.record(cell_id=str(n))], []) for n in range(7)] == [0, 0, 3, 0, 0, 3, 0]


def test_rows_are_committed_after_the_interval(tmp_path: Path, rows: SimpleNamespace) -> None:
    waiting = Store(str(tmp_path)).writer("run0", interval_s=0.0)
    assert waiting.add([rows.record()], []) == 1
    assert waiting.flush_due() == 0


def test_leaving_the_block_commits_even_after_an_error(tmp_path: Path, rows: SimpleNamespace) -> None:
    store = Store(str(tmp_path))
    with suppress(KeyError), store.writer("run0") as writer:
        writer.add([rows.record()], [])
        raise KeyError
    assert len(store.records()) == 1


def test_adding_a_row_twice_is_adding_it_once(tmp_path: Path, rows: SimpleNamespace) -> None:
    store = Store(str(tmp_path))
    with store.writer("run0") as writer:
        for _ in range(2):
            writer.add([rows.record()], rows.classes(rows.record()))
    assert len(store.class_records()) == 2


def test_a_second_writer_of_a_run_overwrites_nothing(tmp_path: Path, rows: SimpleNamespace) -> None:
    store = Store(str(tmp_path))
    for number in range(2):
        with store.writer("run0") as writer:
            writer.add([rows.record(cell_id=str(number))], [])
    assert len(store.records()) == 2


def test_a_class_row_needs_its_record(tmp_path: Path, rows: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match="class row has no record"):
        Store(str(tmp_path)).writer("run0").add([rows.record(1)], rows.classes(rows.record(2)))


def test_a_row_of_another_run_is_refused(tmp_path: Path, rows: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match="row of another run"):
        Store(str(tmp_path)).writer("run1").add([rows.record()], [])


def test_a_refused_row_does_not_spoil_the_others(tmp_path: Path, rows: SimpleNamespace) -> None:
    store = Store(str(tmp_path))
    with store.writer("run0") as writer:
        writer.add([rows.record()], [])
        with pytest.raises(ValueError, match="'dsc' must be double"):
            writer.add([rows.record(cell_id="bad", dsc="half")], [])
    assert len(store.records()) == 1


def test_the_wrong_column_is_named_whichever_row_it_is_in(rows: SimpleNamespace) -> None:
    written = [rows.record(number, cell_id=f"cell{number}") for number in range(3)]
    written[1]["seed"] = "first"
    with pytest.raises(ValueError, match="column 'seed' must be int64"):
        to_table(RECORDS, written)


def test_a_class_row_that_does_not_fit_keeps_its_record_out_too(tmp_path: Path, rows: SimpleNamespace) -> None:
    writer = Store(str(tmp_path)).writer("run0")
    first, second = rows.classes(rows.record())
    with pytest.raises(ValueError, match="'label_voxels' must be int64"):
        writer.add([rows.record()], [first, second | {"label_voxels": "many"}])
    assert writer.flush() == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dcs": 0.5}, r"missing \[\], unknown \['dcs'\]"),
        ({"cell_id": None}, "'cell_id' must not be None"),
        ({"num_windows": 1.5}, "'num_windows' must be int64, got a float"),
        ({"num_windows": True}, "'num_windows' must be int64"),
        ({"num_windows": 2**70}, "'num_windows' must be int64"),
        ({"finished_at": datetime(2026, 1, 1)}, "'finished_at': a time needs a zone"),
    ],
)
def test_a_row_that_does_not_fit_is_a_mistake_of_the_program(
    rows: SimpleNamespace, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        to_table(RECORDS, [rows.record() | change])


def test_numpy_scalars_are_taken(rows: SimpleNamespace) -> None:
    table = to_table(RECORDS, [rows.record(dsc=np.float64(0.25), num_windows=np.int64(3))])
    assert (table["dsc"].to_pylist(), table["num_windows"].to_pylist()) == ([0.25], [3])
