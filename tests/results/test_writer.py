"""The writer takes only rows of the schema and says when they are committed."""

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from results.conftest import make_classes, make_record

from freqbench.results import RECORDS, Store, to_table
from freqbench.results import writer as writer_module


def test_five_thousand_rows_are_committed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert writer_module.MAX_RECORDS == 5000
    monkeypatch.setattr(writer_module, "MAX_RECORDS", 3)
    writer = Store(str(tmp_path)).writer("run0")
    assert [writer.add([make_record(cell_id=str(n))], [[]]) for n in range(7)] == [0, 0, 3, 0, 0, 3, 0]
    waiting = Store(str(tmp_path)).writer("run0", interval_s=0.0)
    assert (waiting.add([make_record()], [[]]), waiting.flush_due()) == (1, 0)


def test_a_row_after_a_pause_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run asks once a second what is due; a second row soon after the first waits for the interval."""
    now = [100.0]
    monkeypatch.setattr(writer_module.time, "monotonic", lambda: now[0])
    writer = Store(str(tmp_path)).writer("run0", interval_s=5.0)
    for _ in range(7):
        now[0] += 1
        assert writer.flush_due() == 0
    assert [writer.add([make_record(cell_id=str(n))], [[]]) for n in range(2)] == [1, 0]
    now[0] += 5
    assert writer.flush_due() == 1


def test_adding_a_row_twice_is_adding_it_once(tmp_path: Path) -> None:
    writer = Store(str(tmp_path)).writer("run0")
    for _ in range(2):
        writer.add([make_record()], [make_classes(make_record())])
    assert (writer.flush(), pq.read_table(tmp_path / "records").num_rows) == (1, 1)


def test_a_second_writer_of_a_run_overwrites_nothing(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for number in range(2):
        store.writer("run0", interval_s=0).add([make_record(cell_id=str(number))], [[]])
    assert len(store.records()) == 2


def test_a_refused_row_does_not_spoil_the_others(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    first, second = make_classes(make_record(cell_id="bad"))
    refused: list[tuple[str, list[Any], list[Any]]] = [
        ("'dsc' must be double", [make_record(cell_id="bad", dsc="half")], [[]]),
        ("'seed' must be int64", [make_record(cell_id="good"), make_record(1, seed="first")], [[], []]),
        ("'label_voxels' must be int64", [make_record(cell_id="bad")], [[first, second | {"label_voxels": "many"}]]),
        ("row of another run", [make_record(run_id="run1")], [[]]),
    ]
    writer = store.writer("run0")
    writer.add([make_record()], [[]])
    for message, records, classes in refused:
        with pytest.raises(ValueError, match=message):
            writer.add(records, classes)
    assert (writer.flush(), len(store.records())) == (1, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"dcs": 0.5}, r"missing \[\], unknown \['dcs'\]"), ({"cell_id": None}, "'cell_id' must not be None"),
     ({"num_windows": 1.5}, "'num_windows' must be int64, got a float"),
     ({"num_windows": True}, "'num_windows' must be int64"), ({"num_windows": 2**70}, "'num_windows' must be int64"),
     ({"finished_at": datetime(2026, 1, 1)}, "'finished_at': a time needs a zone")],
)  # fmt: skip
def test_a_row_that_does_not_fit_is_a_mistake_of_the_program(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_table(RECORDS, [make_record() | change])


def test_numpy_scalars_are_taken() -> None:
    table = to_table(RECORDS, [make_record(dsc=np.float64(0.25), num_windows=np.int64(3))])
    assert (table["dsc"].to_pylist(), table["num_windows"].to_pylist()) == ([0.25], [3])
