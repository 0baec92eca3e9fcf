"""Rows that contradict their classes, each other, their runs or their job are found, each by its own check."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from altered import Rows, alter, alter_json, copied, run_file, set_first
from tiny import execute, expanded

from freqbench.results import KEY, RECORDS, Shard, Store
from freqbench.results.rowid import row_id

from .verified import CONTENT, checks, pair_of, wrong


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "out"
    execute(CONTENT, folder)
    return folder


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    return copied(made, tmp_path)


# classes


@pytest.mark.parametrize("name", ["dsc", "dsc_foreground_clean", "hd95", "hd95_mm", "hd95_medpy_mm"])
def test_a_mean_that_is_not_that_of_its_classes_is_found(store: Path, name: str) -> None:
    value = Store(str(store)).records([name])[name][0].as_py()
    set_first(store, "records", {name: value}, **{name: value * 0.999})
    found = wrong(store)
    assert set(found) == {"classes"}
    assert f"{name}: {value * 0.999:g}, the classes say {value:g} in 1 rows" in found["classes"]


@pytest.mark.parametrize("name", ["missed_classes", "hallucinated_classes", "hd95_undefined_classes"])
def test_a_count_that_is_not_that_of_its_classes_is_found(store: Path, name: str) -> None:
    value = Store(str(store)).records([name])[name][0].as_py()
    set_first(store, "records", {name: value}, **{name: value + 1})
    assert f"{name}: {value + 1}, the classes say {value}" in wrong(store)["classes"]


def test_a_class_that_is_gone_is_found(store: Path) -> None:
    alter(store, "class_records", lambda rows: rows.pop(3))
    assert "rows of classes: 5, expected 6 in 1 rows" in wrong(store)["classes"]


def test_a_class_that_stands_twice_is_found(store: Path) -> None:
    set_first(store, "class_records", {"class_index": 3}, class_index=4)
    assert "class_index: not each class once in 1 rows" in wrong(store)["classes"]


def test_classes_of_no_record_are_found(store: Path) -> None:
    alter(store, "class_records", lambda rows: rows.append({**rows[0], "cell_id": "0" * 16}))
    assert wrong(store) == {"classes": f"records/{pair_of(store).name}: 1 rows of classes have no record in their file"}


# doubles


def doubled(store: Path, **values: Any) -> None:
    """All rows once more, in another pair; the first of them with other values."""
    for kind in ("records", "class_records"):
        path = pair_of(store, kind)
        shutil.copy(path, path.parent / "compacted-00-000001.parquet")
        table = pq.read_table(path)
        rows = table.to_pylist()
        rows[0] |= {name: value for name, value in values.items() if name in rows[0]}
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


def test_rows_that_stand_in_two_files_and_agree_are_no_harm(store: Path) -> None:
    doubled(store)
    assert not wrong(store)
    assert checks(store)["doubles"].text.startswith("16 keys have several rows that are ok, and they agree")


def test_one_row_that_two_files_tell_differently_is_found(store: Path) -> None:
    doubled(store, linf=0.030001)
    assert set(wrong(store)) == {"doubles"}
    assert "linf: 0.0" in wrong(store)["doubles"]


def test_a_row_that_was_computed_twice_must_agree_within_the_tolerances(store: Path) -> None:
    row = pq.read_table(pair_of(store)).to_pylist()[0]
    later = row["finished_at"].replace(year=2099)
    doubled(store, finished_at=later, psnr=row["psnr"], voxel_success=min(1.0, row["voxel_success"] + 0.01))
    assert "doubles" not in wrong(store)


# runs, cases, cells


def test_a_run_without_its_file_is_found(store: Path) -> None:
    run_file(store).unlink()
    assert wrong(store)["runs"].endswith("missing, though rows are of that run")


def test_a_run_that_does_not_know_the_model_of_its_rows_is_found(store: Path) -> None:
    alter_json(run_file(store), lambda run: run["models"].popitem())
    assert "does not know the" in wrong(store)["runs"]


@pytest.mark.parametrize("change", ["fingerprint", "recipe", "gone"])
def test_a_case_whose_key_is_not_that_of_its_files_is_found(store: Path, change: str) -> None:
    def changed(run: dict[str, Any]) -> None:
        facts = run["datasets"]["phantom"]
        if change == "recipe":
            facts["recipe"] |= {"revision": 99}
        elif change == "gone":
            del facts["cases"]["phantom_2000"]
        else:
            facts["cases"]["phantom_2000"] = "0" * 64

    alter_json(run_file(store), changed)
    assert set(wrong(store)) == {"cases"}
    assert "case phantom_2000 of phantom: key" in wrong(store)["cases"]


@pytest.mark.parametrize(
    "values", [{"budget": 0.5}, {"seed": 3}, {"params": json.dumps({"eps": 0.5})}, {"source_model_id": None}]
)
def test_settings_that_are_not_those_of_the_cell_s_id_are_found(store: Path, values: dict[str, Any]) -> None:
    def change(rows: Rows) -> None:
        cell = next(row["cell_id"] for row in rows if row["attack"] == "pgd")
        other = next(row["source_model_id"] for row in rows if row["cell_id"] != cell and row["attack"] == "pgd")
        for row in rows:
            if row["cell_id"] == cell:
                row |= values if "source_model_id" not in values else {"source_model_id": other}

    alter(store, "records", change)
    assert f": {next(iter(values))}: " in wrong(store)["cells"]


def test_an_id_that_is_not_that_of_its_settings_is_found(store: Path) -> None:
    cell = Store(str(store)).records(["cell_id"])["cell_id"][0].as_py()

    def change(rows: Rows) -> None:
        for row in rows:
            if row["cell_id"] == cell:
                row["cell_id"] = "0" * 16

    alter(store, "records", change)
    alter(store, "class_records", change)
    assert f"cell {'0' * 16}: the job makes {cell} of the same settings" in wrong(store)["cells"]
    assert set(wrong(store)) == {"cells", "holes", "volumes"}


def test_without_the_data_ids_are_not_checked_and_the_reason_is_given(store: Path) -> None:
    def change(run: dict[str, Any]) -> None:
        spec = run.get("job", run)
        spec = spec.get("spec", spec)
        spec["models"][0]["checkpoint"] = "gone.safetensors"

    for path in (store / "run.json", run_file(store)):
        alter_json(path, change)
    found = checks(store)["cells"]
    assert (found.verdict, "gone.safetensors" in found.text) == ("not checked", True)


# holes


def without(store: Path, count: int) -> None:
    rows = pq.read_table(pair_of(store)).to_pylist()[:count]
    gone = {tuple(row[name] for name in KEY) for row in rows}
    for kind in ("records", "class_records"):
        alter(store, kind, lambda rows: rows.__setitem__(slice(None), [r for r in rows if _key(r) not in gone]))


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in KEY)


def test_records_that_are_not_there_are_counted_and_named(store: Path) -> None:
    key = _key(pq.read_table(pair_of(store)).to_pylist()[0])
    without(store, 3)
    found = wrong(store)
    assert set(found) == {"holes"}
    assert found["holes"].startswith("3 of 16 records that the job asks for have no row, such as ")
    without(store, 13)
    assert "16 of 16" in wrong(store)["holes"]
    assert len(row_id(*key)) == 16


def test_failed_rows_are_no_holes_and_are_told(store: Path) -> None:
    key = dict(zip(KEY, _key(pq.read_table(pair_of(store)).to_pylist()[0]), strict=True))
    nothing = {column.name: None for column in RECORDS if column.mark == "result"}
    set_first(store, "records", key, **nothing | {"status": "failed", "error": "out of memory"})
    alter(
        store,
        "class_records",
        lambda rows: rows.__setitem__(slice(None), [r for r in rows if not key.items() <= r.items()]),
    )
    assert not wrong(store)
    assert "; 1 of them failed" in checks(store)["holes"].text


def test_what_shards_are_for_that_no_run_took_is_no_hole(tmp_path: Path) -> None:
    _, grid = expanded(CONTENT)
    shards = [Shard(number=number, count=2) for number in (1, 2)]
    sizes = [sum(shard.holds(cell.cell_id) for cell in grid.cells) * 4 for shard in shards]
    assert min(sizes) > 0
    execute(CONTENT, tmp_path / "out", shard=shards[0])
    found = checks(tmp_path / "out")["holes"]
    assert found.verdict == "ok"
    assert found.text == (
        f"{sizes[0]} records that the job asks for have a row; {sizes[1]} more are of shards that no run was for"
    )
