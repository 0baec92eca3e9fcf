"""The store shows each row once a key, on S3 too, refuses what it cannot read, and says what is committed."""

import hashlib
import json
import math
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from results.conftest import make_classes, make_failed, make_record, put
from s3_server import S3

from freqbench.core.config import validate
from freqbench.core.errors import UserError
from freqbench.job.schema import JobSpec
from freqbench.results import CLASS_RECORDS, RECORDS, Store, files, to_table
from freqbench.results import writer as writer_module
from freqbench.results.nested import types_of
from freqbench.results.schema import ROWS, VERSION_FIELD
from freqbench.results.store import find_row, row_id, sample_rows


def commit(store: Store, run_id: str, *records: dict) -> None:
    records = tuple(row | {"run_id": run_id} for row in records)
    store.writer(run_id, interval_s=0).add(records, list(map(make_classes, records)))


@pytest.fixture(params=["local", "memory"])
def empty_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(str(tmp_path / "out") if request.param == "local" else f"memory://{tmp_path.name}/{request.param}")


def test_written_rows_are_read(empty_store: Store) -> None:
    row = make_record(hd95=math.nan, lpips_distance=None, null_reasons='{"lpips_distance": "no weights"}')
    commit(empty_store, "run0", row)
    (read,) = empty_store.records().to_pylist()
    assert math.isnan(read["hd95"])
    assert read | {"hd95": 0} == row | {"hd95": 0}


def test_an_empty_store_has_tables_of_the_schema(empty_store: Store) -> None:
    assert empty_store.records().column_names == [column.name for column in RECORDS]
    assert empty_store.class_records().column_names == [column.name for column in CLASS_RECORDS]
    assert empty_store.covered() == {}
    assert empty_store.runs() == []


def test_ok_wins_over_failed_then_latest_whatever_order_of_files(empty_store: Store) -> None:
    commit(empty_store, "a", make_record(2, dsc=0.2), make_failed(2, cell_id="bad", error="new"))
    commit(empty_store, "b", make_record(1, dsc=0.1), make_failed(1, cell_id="bad", error="old"))
    commit(empty_store, "c", make_failed(3))
    table = empty_store.records(("error", "dsc", "cell_id"))
    assert table.column_names == ["error", "dsc", "cell_id"]
    assert [tuple(row.values()) for row in table.to_pylist()] == [("new", None, "bad"), (None, 0.2, "cell0")]


def test_each_part_of_the_key_tells_rows_apart(empty_store: Store) -> None:
    others = [{}, {"cell_id": "c"}, {"case_key": "c"}, {"target_model_id": "c"}]
    commit(empty_store, "a", *(make_record(minute, **other) for minute, other in enumerate(others)))
    assert empty_store.records()["finished_at"].to_pylist() == [make_record(i)["finished_at"] for i in range(4)]


def test_class_rows_are_those_of_the_winning_record(empty_store: Store) -> None:
    commit(empty_store, "a", make_record(1, dsc=0.1), make_record(2, dsc=0.2), make_record(3, cell_id="c", dsc=0.3))
    commit(empty_store, "b", make_record(4, dsc=0.4))
    table = empty_store.class_records().sort_by([("dsc", "ascending"), ("class_index", "ascending")])
    assert table.select(["dsc", "class_index"]).to_pylist() == [
        {"dsc": dsc, "class_index": index} for dsc in (0.3, 0.4) for index in (0, 1)
    ]


def test_covered_are_the_ok_keys_with_their_metrics(empty_store: Store) -> None:
    commit(empty_store, "a", make_record(metrics="dsc,hd95"), make_failed(cell_id="b"), make_record(2, case_key="c"))
    commit(empty_store, "b", make_record(3, case_key="c", metrics=""))
    assert empty_store.covered() == {
        ("cell0", "case0", "id_unet"): frozenset({"dsc", "hd95"}),
        ("cell0", "c", "id_unet"): frozenset(),
    }


def test_runs_and_job_come_back(empty_store: Store) -> None:
    with pytest.raises(UserError, match=r"run\.json: expected a result store, found no such file"):
        empty_store.job()
    empty_store.write_run("r2", {"host": "h"})
    empty_store.write_run("r1", {"host": "g"})
    empty_store.write_job({"index": {"cells": []}})
    assert [(run["run_id"], run["host"]) for run in empty_store.runs()] == [("r1", "g"), ("r2", "h")]
    assert empty_store.job() == {"index": {"cells": []}}


def test_a_run_is_known_by_its_file_whatever_the_file_says(folder: Path) -> None:
    store = Store(str(folder))
    store.write_run("b", {"status": "done"})
    path = folder / "runs" / "b.json"
    path.write_text(path.read_text().replace('"run_id"', '"name"'))
    assert store.run("b")["run_id"] == "b"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A local store with one committed file."""
    commit(Store(str(tmp_path)), "a", make_record())
    return tmp_path


@pytest.mark.parametrize("content", [b"", b"PAR1 torn", None], ids=["empty", "torn", "foreign"])
def test_an_unreadable_file_is_named(folder: Path, content: bytes | None) -> None:
    path = folder / "records" / "a-000000.parquet"
    if content is None:
        pq.write_table(pa.table({"cell_id": ["x"]}), path)
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"records/a-000000\.parquet: expected a Parquet file of results.*move it out"):
        Store(str(folder)).class_records()


def test_a_flipped_bit_is_refused_or_changes_no_row(folder: Path) -> None:
    """Bits of every region: pages of each column, which would decode to other numbers or texts, and the footer."""
    path = folder / "records" / "a-000000.parquet"
    store = Store(str(folder))
    content = path.read_bytes()
    rows = repr([store.records().to_pylist(), store.class_records().to_pylist()])
    refused: list[str] = []
    for place in range(4, len(content), len(content) // 150):
        path.write_bytes(content[:place] + bytes([content[place] ^ 128]) + content[place + 1 :])
        try:
            assert repr([store.records().to_pylist(), store.class_records().to_pylist()]) == rows, place
        except UserError as error:
            refused.append(str(error))
    assert len(refused) > 50
    assert all("a-000000.parquet: expected" in line for line in refused)


def test_a_file_with_a_leading_dot_is_ignored(folder: Path) -> None:
    (folder / "records" / ".a.parquet").write_bytes(b"torn")
    assert len(Store(str(folder)).records()) == 1


EXAMPLE = Path(__file__).parent / "example"
"""A store whose values no later code computed (job: `run.json`)."""

# Read once from the files with pyarrow alone: cell, case, Dice, HD95, largest change.
PGD = "eacae9376830b157"
FGSM = "d636b254b839aeea"
FIRST = "076d028b807c63c2"
SECOND = "ca9082f2e72b454a"
VALUES = {
    (PGD, SECOND): (0.05617576044285998, 9.52104290683589, 0.01568630337715149),
    (FGSM, SECOND): (0.05499561479913533, 9.540941854228306, 0.03137257695198059),
    (PGD, FIRST): (0.05348746495801193, 9.32397377499334, 0.01568630337715149),
    (FGSM, FIRST): (0.05064745010239818, 9.365768325548657, 0.03137257695198059),
}


def test_the_stored_example_of_this_version_is_read() -> None:
    store = Store(str(EXAMPLE))
    rows = store.records(["cell_id", "case_key", "dsc", "hd95", "linf"]).to_pylist()
    assert {tuple(row.values())[:2]: tuple(row.values())[2:] for row in rows} == VALUES
    assert (len(store.class_records()), store.job()["spec"]["name"]) == (24, "age")
    (path,) = (EXAMPLE / "records").iterdir()
    assert types_of(pq.read_schema(path)) == types_of(ROWS), "raise SCHEMA_VERSION"


def test_classes_are_written_flat_for_other_tools(folder: Path) -> None:
    store = Store(str(folder))
    for _ in range(2):
        store.write_classes()
        assert pq.read_table(folder / "class_records").equals(store.class_records())


def test_a_stored_job_with_a_former_key_is_read_without_it() -> None:
    store = Store(str(EXAMPLE))
    assert '"min_dice": ' in (EXAMPLE / "run.json").read_text()
    for spec in (store.job()["spec"], store.runs()[0]["job"]):
        assert [model.name for model in validate(spec, JobSpec, "run.json").models] == ["unet"]


NEWER = "a newer freqbench: update this one; nothing was changed"
OLDER = "an older freqbench: run the job again, into a new folder"


@pytest.mark.parametrize(("version", "what"), [(3, NEWER), ("2.1", NEWER), ("2026-b", NEWER), (1, OLDER)])
def test_another_version_is_refused_in_one_line(folder: Path, version: int | str, what: str) -> None:
    path = folder / "records" / "a-000000.parquet"
    pq.write_table(pq.read_table(path).replace_schema_metadata({VERSION_FIELD: str(version)}), path)
    (folder / "run.json").write_text(json.dumps({"job": {}, "schema_version": version}))
    refusal = rf"(run.json|a-000000.parquet): expected results of schema version 2, got {version}, written by {what}$"
    for read in (Store(str(folder)).covered, Store(str(folder)).job):
        with pytest.raises(UserError, match=refusal):
            read()


@pytest.mark.parametrize(("column", "first"), [("target_method",) * 2, ("classes", "classes.list.element.class_index")])
def test_a_file_without_a_column_is_refused_in_one_line(folder: Path, column: str, first: str) -> None:
    path = folder / "records" / "a-000000.parquet"
    pq.write_table(pq.read_table(path).drop_columns([column]), path)
    with pytest.raises(UserError, match=rf"expected the columns .* version 2, got no {first}: freqbench did not"):
        Store(str(folder)).covered()


@pytest.fixture
def many_rows(tmp_path: Path) -> Store:
    """300 rows, of which one failed."""
    made = Store(str(tmp_path))
    rows = [make_record(number, cell_id=f"cell{number}") for number in range(299)]
    made.writer("run0", interval_s=0).add([*rows, make_failed(300, cell_id="failed")], [[]] * 300)
    return made


def test_row_is_found_by_beginning_of_its_id_digest_of_its_key(many_rows: Store) -> None:
    key = ("cell7", "case0", "id_unet")
    assert row_id(*key) == hashlib.blake2b(b"cell7/case0/id_unet", digest_size=8).hexdigest()
    assert find_row(many_rows, row_id(*key)) == find_row(many_rows, row_id(*key)[:6]) == key
    with pytest.raises(UserError, match="expected one row whose id begins with 000000, got none"):
        find_row(many_rows, "000000")


@pytest.mark.parametrize("text", ["abc", "ABCDEF", "0123456789abcdef0", "../run", ""])
def test_a_text_that_is_no_row_id_is_refused(many_rows: Store, text: str) -> None:
    with pytest.raises(UserError, match="--rows: expected a number, or 6 to 16 hex digits"):
        find_row(many_rows, text)


def test_an_ambiguous_beginning_is_refused(many_rows: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("freqbench.results.store.row_id", lambda *key: "abcdef" + row_id(*key)[:10])
    with pytest.raises(UserError, match=r"got 300 of them \(abcdef.*give more digits"):
        find_row(many_rows, "abcdef")


def test_a_draw_is_of_good_rows_and_hangs_on_the_seed_alone(many_rows: Store) -> None:
    drawn = sample_rows(many_rows, 20, seed=1)
    assert len(set(drawn)) == 20
    assert drawn == sample_rows(many_rows, 20, seed=1) != sample_rows(many_rows, 20, seed=2)
    everything = sample_rows(many_rows, 1000, seed=0)
    assert len(everything) == 299
    assert "failed" not in {key[0] for key in everything}


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
    ]
    refused += [
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
    [
        ({"dcs": 0.5}, r"missing \[\], unknown \['dcs'\]"),
        ({"cell_id": None}, "'cell_id' must not be None"),
        ({"num_windows": 1.5}, "'num_windows' must be int64, got a float"),
        ({"num_windows": True}, "'num_windows' must be int64"),
        ({"num_windows": 2**70}, "'num_windows' must be int64"),
        ({"finished_at": datetime(2026, 1, 1)}, "'finished_at': a time needs a zone"),
    ],
)
def test_a_row_that_does_not_fit_is_a_mistake_of_the_program(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_table(RECORDS, [make_record() | change])


def test_numpy_scalars_are_taken() -> None:
    table = to_table(RECORDS, [make_record(dsc=np.float64(0.25), num_windows=np.int64(3))])
    assert (table["dsc"].to_pylist(), table["num_windows"].to_pylist()) == ([0.25], [3])


NUM_FILES = 6
MERGED = "compacted-a-000001.parquet"


def methods(s3: S3, part: str = "") -> Counter[str]:
    """Number of requests of each method since the last call."""
    return Counter(request.split()[0] for request in s3.requests() if part in request)


@pytest.fixture
def remote_store(s3_root: str, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A file a record, more than are read at once, and one that is superseded."""
    monkeypatch.setattr(files, "AT_ONCE", 4)
    store = Store(s3_root)
    for number in range(NUM_FILES - 1):
        put(store, f"run-{number:06d}.parquet", make_record(number, cell_id=f"cell{number:02d}"))
    put(store, f"run-{NUM_FILES:06d}.parquet", make_record(NUM_FILES, cell_id="cell00", dsc=0.25))
    return store


def expected() -> list[dict[str, Any]]:
    first = [make_record(number, cell_id=f"cell{number:02d}") for number in range(1, NUM_FILES - 1)]
    return [*first, make_record(NUM_FILES, cell_id="cell00", dsc=0.25)]


def test_rows_come_back_in_order_from_many_files_and_merged(s3: S3, remote_store: Store) -> None:
    s3.requests()
    assert remote_store.records().to_pylist() == expected()
    assert methods(s3, ".parquet") == {"GET": NUM_FILES}, "a request a file"
    remote_store.compact()
    assert (remote_store.records().to_pylist(), len(remote_store.class_records())) == (expected(), 2 * len(expected()))
    assert len(remote_store.covered()) == len(expected())


def test_a_compaction_whose_commit_is_refused_loses_nothing(s3: S3, remote_store: Store) -> None:
    s3.fault("refuse", match="/records/compacted", status=403)
    with pytest.raises(OSError, match="fault on demand"):
        remote_store.compact()
    assert remote_store.records().to_pylist() == expected()
    remote_store.compact()
    assert remote_store.records().to_pylist() == expected()


def test_a_merged_file_is_read_by_ranges(s3: S3, s3_root: str) -> None:
    store = Store(s3_root)
    put(store, MERGED, *(make_record(number, cell_id=f"cell{number}") for number in range(100)))
    s3.requests()
    assert len(store.covered()) == 100
    assert methods(s3, MERGED)["GET"] > 1


@pytest.mark.parametrize("name", ["run-000000.parquet", MERGED])
def test_a_file_out_of_reach_is_not_called_torn(s3: S3, s3_root: str, name: str) -> None:
    store = Store(s3_root)
    put(store, name, make_record())
    s3.fault("refuse", method="GET", match=name, times=99, status=403)
    with pytest.raises(OSError, match="fault on demand") as refused:
        store.covered()
    assert "delete it" not in str(refused.value)
    s3.fault("none")
    assert len(store.covered()) == 1


def test_the_list_of_runs_is_made_of_names(s3: S3, s3_root: str) -> None:
    store = Store(s3_root)
    for number in range(5):
        store.write_run(f"run{number}", {})
    s3.requests()
    store.write_job({"index": {"cells": []}})
    assert not [request for request in s3.requests() if "/runs/run" in request]
    assert store.run_ids() == [f"run{number}" for number in range(5)]
    assert [run["run_id"] for run in store.runs()] == store.run_ids()
