"""A store that schema version 1 wrote stays readable."""

import math
import shutil
from pathlib import Path

import pytest

from freqbench.results import Store

STORE = Store(str(Path(__file__).parent / "store"))
A, B, CASE0, CASE1, UNET = "a" * 16, "b" * 16, f"{0:016x}", f"{1:016x}", "feedfacefeedface"
NAMES = ("background", "ball", "rod")


@pytest.fixture(params=["as committed", "compacted"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "as committed":
        return STORE
    copy = Store(str(shutil.copytree(STORE.root, tmp_path / "copy")))
    copy.compact()
    return copy


def test_one_row_a_key(store: Store) -> None:
    found = store.records().select(["cell_id", "case_key", "status", "run_id", "dsc"]).to_pylist()
    assert [tuple(row.values()) for row in found] == [
        (A, CASE0, "ok", "run-a", 0.25),
        (A, CASE1, "ok", "run-a", 0.25),
        (B, CASE1, "failed", "run-a", None),
        (B, CASE0, "ok", "run-b", 0.5),
    ]


def test_undefined_is_nan_and_not_computed_is_null(store: Store) -> None:
    first, second, *_ = store.records().to_pylist()
    assert (first["lpips_similarity"], first["null_reasons"]) == (None, '{"lpips_similarity":"no LPIPS weights found"}')
    assert math.isnan(second["hd95"])


def test_columns_that_came_later_are_null(store: Store) -> None:
    later = ("energy_low", "energy_middle", "energy_high", "seam_energy")
    assert [tuple(row[name] for name in later) for row in store.records().to_pylist()] == [(None,) * 4] * 4


def test_covered(store: Store) -> None:
    metrics = frozenset({"dsc", "hd95", "lpips", "ssim"})
    assert store.covered() == {(A, CASE0, UNET): metrics, (A, CASE1, UNET): metrics, (B, CASE0, UNET): metrics}


def test_classes(store: Store) -> None:
    found = store.class_records().to_pylist()
    names = [(row["cell_id"], row["case_key"], row["class_name"]) for row in found]
    expected = [(cell, case, name) for cell, case in ((A, CASE0), (A, CASE1), (B, CASE0)) for name in NAMES]
    assert sorted(names) == sorted(expected)
    assert all(math.isnan(row["dsc"]) == (row["class_name"] == "rod") for row in found)


def test_runs_and_job(store: Store) -> None:
    assert [run["run_id"] for run in store.runs()] == ["run-a", "run-b"]
    assert store.job() == {"name": "data-v1"}
