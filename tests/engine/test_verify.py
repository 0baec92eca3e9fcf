"""Every kind of damage is planted in a sound store, and found by its own check and by no other."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from altered import Rows, alter, alter_json, copied, run_file, set_first
from tiny import execute, expanded, job

from freqbench.engine.verify import verify
from freqbench.errors import UserError
from freqbench.results import KEY, RECORDS, Store
from freqbench.results.findings import Check
from freqbench.results.rowid import row_id
from freqbench.results.schema import VERSION_FIELD

ATTACKS = [{"name": "pgd", "eps": "8/255", "steps": 2}, {"name": "gn", "std": "8/255"}]
CONTENT = job(attacks=ATTACKS, save_adversarial="nifti", datasets=[{"name": "phantom", "shape": [16] * 3, "cases": 2}])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "out"
    execute(CONTENT, folder)
    return folder


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    return copied(made, tmp_path)


def checks(store: Path, with_volumes: bool = False) -> dict[str, Check]:
    return {check.name: check for check in verify(Store(str(store)), with_volumes)}


def wrong(store: Path, with_volumes: bool = False) -> dict[str, str]:
    """What is wrong, by check."""
    return {name: check.text for name, check in checks(store, with_volumes).items() if check.verdict == "wrong"}


def test_a_sound_store_has_nothing_wrong_and_is_left_alone(store: Path) -> None:
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    found = checks(store, with_volumes=True)
    assert {name: check.verdict for name, check in found.items()} == dict.fromkeys(found, "ok")
    assert found["values"].text == "16 records and 96 rows of classes are in their ranges"
    assert found["holes"].text == "16 records that the job asks for have a row"
    assert before == {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}


def pair_of(store: Path, kind: str = "records") -> Path:
    (path,) = (store / kind).glob("*.parquet")
    return path


# files


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("kind", ["records", "class_records"])
def test_a_flipped_bit_is_found_by_the_page_s_checksum(store: Path, kind: str) -> None:
    """In the last page of a column of floats: it would decode all the same, to another number or none."""
    path = pair_of(store, kind)
    column = pq.read_metadata(path).row_group(0).column(pq.read_schema(path).get_field_index("dsc"))
    flip(path, column.data_page_offset + column.total_compressed_size // 2)
    found = wrong(store)
    assert set(found) <= {"files", "holes"}
    assert f"{kind}/{path.name}" in found["files"]


def test_a_torn_file_is_named(store: Path) -> None:
    path = pair_of(store)
    path.write_bytes(path.read_bytes()[:-100])
    assert f"records/{path.name}: expected a Parquet file of results" in wrong(store)["files"]


def test_a_missing_half_of_a_pair_is_named(store: Path) -> None:
    pair_of(store, "class_records").unlink()
    assert wrong(store)["files"].endswith("missing, though its records are there")


def test_classes_without_records_are_told_and_harmless(store: Path) -> None:
    shutil.copy(pair_of(store, "class_records"), store / "class_records" / "dead-000000.parquet")
    assert "1 files of classes without records" in checks(store)["files"].text
    assert not wrong(store)


# schema


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(path)), path)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda table: table.drop_columns(["dsc_foreground"]),
            "no column dsc_foreground, which files of schema 1.3 have",
        ),
        (lambda table: table.append_column("own", pa.nulls(len(table))), "column own, which nobody documents"),
        (
            lambda table: table.set_column(0, "cell_id", pa.array(range(len(table)))),
            "cell_id: int64 in place of string",
        ),
    ],
)
def test_columns_that_no_age_explains_are_named(store: Path, change: Callable[[pa.Table], pa.Table], text: str) -> None:
    path = pair_of(store)
    metadata = pq.read_schema(path).metadata
    rewrite(path, lambda table: change(table).replace_schema_metadata(metadata))
    assert text in wrong(store)["schema"]


def test_a_newer_release_s_store_is_refused_in_one_line(store: Path) -> None:
    rewrite(pair_of(store), lambda table: table.replace_schema_metadata({VERSION_FIELD: b"2"}))
    with pytest.raises(UserError, match="expected results of schema version 1 or older, got 2: update freqbench"):
        verify(Store(str(store)))


@pytest.mark.parametrize("age", ["1.0", "1.1", "1.2", "1.3"])
def test_stores_of_every_age_are_sound(age: str) -> None:
    found = checks(Path(__file__).parents[1] / "results" / "ages" / age)
    assert {name for name, check in found.items() if check.verdict != "ok"} == {"volumes"}
    assert found["schema"].text == f"pairs by age: 1 of schema {age}"


# values


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"voxel_success": 1.5}, "voxel_success: 1.5 where 0 to 1 is possible"),
        ({"linf": -0.25}, "linf: -0.25 where 0 to 1 is possible"),
        ({"hd95_penalised": float("inf")}, "hd95_penalised: inf where 0 to inf is possible"),
        ({"dataset": None}, "dataset: null"),
        ({"status": "done"}, "status: neither ok nor failed"),
        ({"error": "out of memory"}, "error: one in a row that is ok"),
        ({"status": "failed"}, "error: none in a failed row"),
        ({"metrics": "dsc,hd59"}, "metrics: unknown"),
        ({"null_reasons": "[1]"}, "null_reasons: not what it is"),
        ({"hd95_penalised": None}, "hd95_penalised: null without a reason"),
    ],
)
def test_values_that_cannot_be_are_named_with_their_row(store: Path, values: dict[str, Any], text: str) -> None:
    row = Store(str(store)).records().to_pylist()[0]
    key = {name: row[name] for name in KEY}
    set_first(store, "records", key, **values)
    found = wrong(store)["values"]
    assert text in found
    assert f"in 1 rows, first of row {row_id(*key.values())}" in found


def test_values_of_classes_that_cannot_be_are_named(store: Path) -> None:
    set_first(store, "class_records", hd95_clean=-1.0)
    assert "hd95_clean: -1 where 0 to inf is possible in 1 rows of classes" in wrong(store)["values"]


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
    key = {name: value for name, value in zip(KEY, _key(pq.read_table(pair_of(store)).to_pylist()[0]), strict=True)}
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
    from freqbench.results import Shard

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


# volumes


def test_a_volume_that_is_gone_is_found(store: Path) -> None:
    next((store / "volumes").rglob("attack.json")).unlink()
    assert wrong(store)["volumes"].startswith("2 records have no whole volume, though the job saves them: ")


@pytest.mark.parametrize("damage", ["bit", "end"])
def test_a_damaged_volume_is_found_if_asked_for(store: Path, damage: str) -> None:
    path = sorted((store / "volumes").rglob("adversarial.nii.gz"))[0]
    if damage == "bit":
        flip(path, len(path.read_bytes()) - 6)  # of the checksum
    else:
        path.write_bytes(path.read_bytes()[:-20])
    assert checks(store)["volumes"].verdict == "not checked"
    assert f"{path.relative_to(store)}: " in wrong(store, with_volumes=True)["volumes"]
