"""A store on S3: the same rows as in a folder, few requests, and no file called torn that is only out of reach."""

from collections import Counter
from typing import Any

import pytest
from results.conftest import make_record, put
from s3_server import S3

from freqbench.results import Store, files

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
    assert remote_store.records().to_pylist() == expected()
    assert len(remote_store.class_records()) == 2 * len(expected())
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
    assert [run["run_id"] for run in store.runs()] == store.run_ids() == [f"run{number}" for number in range(5)]
