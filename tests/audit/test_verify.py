"""Damage of every kind is planted in a sound store, and each is found by its own check."""

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from alterations import Rows, alter, alter_json, run_file, set_first
from tiers import quick
from tiny_job import GRID, execute, expanded

from freqbench.audit import store_checks
from freqbench.audit.store_checks import Check
from freqbench.audit.verify import verify
from freqbench.core.errors import UserError
from freqbench.results import KEY, RECORDS, Shard, Store
from freqbench.results.schema import VERSION_FIELD
from freqbench.results.store import row_id


@pytest.fixture
def all_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_checks, "MOST_EXAMPLES", 99)


def checks(store: Path, with_volumes: bool = False) -> dict[str, Check]:
    return {check.name: check for check in verify(Store(str(store)), with_volumes)}


def wrong(store: Path, with_volumes: bool = False) -> dict[str, str]:
    return {name: check.text for name, check in checks(store, with_volumes).items() if check.verdict == "wrong"}


def file_of(store: Path) -> Path:
    (path,) = (store / "records").glob("*.parquet")
    return path


def key_of(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(row[name] for name in KEY)


def test_a_sound_store_has_nothing_wrong_and_is_left_alone(grid_copy: Path) -> None:
    before = {path: path.read_bytes() for path in grid_copy.rglob("*") if path.is_file()}
    results = checks(grid_copy, with_volumes=True)
    assert {name: check.verdict for name, check in results.items()} == dict.fromkeys(results, "ok")
    assert results["values"].text == "16 records and 96 rows of classes are in their ranges"
    assert results["holes"].text == "16 records that the job asks for have a row"
    assert before == {path: path.read_bytes() for path in grid_copy.rglob("*") if path.is_file()}


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["dsc", "classes.list.element.dsc"])
def test_a_flipped_bit_is_found_by_the_page_s_checksum(grid_copy: Path, name: str) -> None:
    """The bit is in the last page of a column of floats, which would decode all the same, to another number or none."""
    path = file_of(grid_copy)
    group = pq.read_metadata(path).row_group(0)
    (column,) = (each for each in map(group.column, range(group.num_columns)) if each.path_in_schema == name)
    flip(path, column.data_page_offset + column.total_compressed_size // 2)
    errors = wrong(grid_copy)
    assert set(errors) <= {"files", "holes"}
    assert f"records/{path.name}" in errors["files"]


def test_a_torn_file_is_named(grid_copy: Path) -> None:
    path = file_of(grid_copy)
    path.write_bytes(path.read_bytes()[:-100])
    assert f"records/{path.name}: expected a Parquet file of results" in checks(grid_copy)["files"].text


def test_a_store_of_another_version_is_refused_in_one_line(grid_copy: Path) -> None:
    pq.write_table(pq.read_table(file_of(grid_copy)).replace_schema_metadata({VERSION_FIELD: b"3"}), file_of(grid_copy))
    with pytest.raises(UserError, match="expected results of schema version 2, got 3, written by a newer freqbench"):
        verify(Store(str(grid_copy)))


def test_the_stored_example_is_sound() -> None:
    results = checks(Path(__file__).parents[1] / "results" / "example")
    assert {name for name, check in results.items() if check.verdict != "ok"} == {"volumes"}


IMPOSSIBLE: list[tuple[dict[str, Any], str]] = [
    ({"voxel_success": 1.5}, "voxel_success: 1.5 where 0 to 1 is possible"),
    ({"linf": -0.25}, "linf: -0.25 where 0 to 1 is possible"),
    ({"hd95_penalised": math.inf}, "hd95_penalised: inf where 0 to inf is possible"),
    ({"dataset": None}, "dataset: null"),
    ({"status": "done"}, "status: neither ok nor failed"),
    ({"error": "out of memory"}, "error: one in a row that is ok"),
    ({"status": "failed"}, "error: none in a failed row"),
    ({"metrics": "dsc,hd59"}, "metrics: unknown"),
    ({"null_reasons": "[1]"}, "null_reasons: invalid"),
    ({"hd95": None}, "hd95: null without a reason"),
]
POSSIBLE: list[dict[str, Any]] = [
    {"psnr": math.inf},
    {"hd95": math.nan, "voxel_success": math.nan},
    {"hd95_mm": None, "null_reasons": '{"hd95_mm": "no time"}'},
    {"metrics": "", "hd95": None},
]


@pytest.mark.usefixtures("all_told")
def test_impossible_values_are_named_with_their_row(grid_copy: Path) -> None:
    keys: list[tuple[str, ...]] = []

    def change(rows: Rows) -> None:
        keys.extend(key_of(row) for row in rows)
        changes = [*(values for values, _ in IMPOSSIBLE), *POSSIBLE]
        for row, values in zip(rows[: len(changes)], changes, strict=True):
            row |= values

    alter(grid_copy, "records", change)
    where = f"records/{file_of(grid_copy).name}: "
    expected = {
        f"{where}{text} in 1 rows, first of row {row_id(*key)}"
        for key, (_, text) in zip(keys[: len(IMPOSSIBLE)], IMPOSSIBLE, strict=True)
    }
    assert set(wrong(grid_copy)["values"].split("; ")) == expected


@pytest.mark.usefixtures("all_told")
def test_means_and_counts_not_those_of_classes_are_found(grid_copy: Path) -> None:
    expected: set[str] = set()

    def change(rows: Rows) -> None:
        for name in (*store_checks.MEANS, *store_checks.COUNTS):
            row = next(row for row in rows if row[name] is not None and row[name] == row[name] and row[name] >= 0)
            value = row[name]
            row[name] = row[name] + (1 if name in store_checks.COUNTS else 1e-5)
            where = f"first of row {row_id(*key_of(row))}"
            expected.add(f"{name}: {row[name]:g}, the classes say {value:g} in 1 rows, {where}")

    alter(grid_copy, "records", change)
    errors = wrong(grid_copy)
    assert set(errors) == {"classes"}
    assert {text.partition("parquet: ")[2] for text in errors["classes"].split("; ")} == expected


def test_mean_defined_for_no_class_and_one_not_are_told_apart(grid_copy: Path) -> None:
    key = dict(zip(KEY, key_of(pq.read_table(file_of(grid_copy)).to_pylist()[0]), strict=True))
    set_first(grid_copy, "records", key, hd95=math.nan)
    assert "hd95: nan, the classes say" in wrong(grid_copy)["classes"]

    def undefined(rows: Rows) -> None:
        for row in rows:
            if key.items() <= row.items():
                row["hd95"] = math.nan

    alter(grid_copy, "class_records", undefined)
    assert "hd95: nan" not in wrong(grid_copy)["classes"]
    assert "hd95_undefined_classes: " in wrong(grid_copy)["classes"]
    set_first(grid_copy, "records", key, hd95=1.0)
    assert "hd95: 1, the classes say nan" in wrong(grid_copy)["classes"]


def doubled(store: Path, **values: Any) -> None:
    """All rows once more, in another file; the first of them with other values."""
    path = file_of(store)
    copy = shutil.copy(path, path.parent.parent / "copy")
    set_first(store, "records", **values)
    shutil.move(copy, path.parent / "compacted-00-000001.parquet")


def test_rows_that_stand_in_two_files_and_agree_are_no_harm(grid_copy: Path) -> None:
    doubled(grid_copy)
    assert not wrong(grid_copy)
    assert checks(grid_copy)["doubles"].text.startswith("16 keys have several rows that are ok, and they agree")


def test_doubles_are_compared_beside_a_file_that_cannot_be_read(grid_copy: Path) -> None:
    doubled(grid_copy, linf=0.030001)
    (grid_copy / "records" / "torn-000000.parquet").write_bytes(b"PAR1")
    assert set(wrong(grid_copy)) == {"files", "doubles"}


@pytest.mark.parametrize(
    ("column", "again", "is_wrong"),
    [
        ("voxel_success", lambda stored: abs(stored - 0.01), False),
        ("voxel_success", lambda stored: abs(stored - 0.03), True),
        ("l2", lambda stored: 1.04 * stored, False),
        ("l2", lambda stored: 1.06 * stored, True),
    ],
)
def test_recomputed_rows_agree(grid_copy: Path, column: str, again: Callable[[float], float], is_wrong: bool) -> None:
    row = pq.read_table(file_of(grid_copy)).to_pylist()[0]
    doubled(grid_copy, **{column: again(row[column]), "finished_at": row["finished_at"].replace(year=2099)})
    assert ("doubles" in wrong(grid_copy)) is is_wrong


def test_rows_beyond_the_bounds_of_memory_are_told(grid_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    doubled(grid_copy)
    monkeypatch.setattr(store_checks, "MOST_DOUBLES", 10)
    monkeypatch.setattr(store_checks, "MOST_KINDS", 3)
    results = checks(grid_copy)
    assert results["doubles"].text.endswith("; 22 of their rows were not compared")
    # of 2 attacks on 2 models; of 2 cases, sources and targets
    cells = 4
    origins = 8
    left_out = 2 * (cells - 3 + origins - 3)  # told of each file
    assert results["cells"].text.startswith(f"{left_out} kinds of rows beyond the first ")


@pytest.mark.usefixtures("all_told")
def test_settings_that_are_not_those_of_the_cell_s_id_are_found(grid_copy: Path) -> None:
    def change(rows: Rows) -> None:
        cell, other = dict.fromkeys((row["cell_id"], row["source_model_id"]) for row in rows if row["attack"] == "fgsm")
        for row in rows:
            if row["cell_id"] == cell[0]:
                row |= {"budget": 0.5, "seed": 3, "params": json.dumps({"eps": 0.5}), "source_model_id": other[1]}

    alter(grid_copy, "records", change)
    text = wrong(grid_copy)["cells"]
    assert all(f": {name}: " in text for name in ("budget", "seed", "params", "source_model_id"))


def test_an_id_that_is_not_that_of_its_settings_is_found(grid_copy: Path) -> None:
    cell = Store(str(grid_copy)).records(["cell_id"])["cell_id"][0].as_py()

    def change(rows: Rows) -> None:
        for row in rows:
            if row["cell_id"] == cell:
                row["cell_id"] = "0" * 16

    alter(grid_copy, "records", change)
    errors = wrong(grid_copy)
    assert f"cell {'0' * 16}: the job makes {cell} of the same settings" in errors["cells"]
    assert set(errors) == {"cells", "holes", "volumes"}


def test_missing_data_leave_ids_unchecked_with_the_reason(grid_copy: Path) -> None:
    def change(run: dict[str, Any]) -> None:
        spec = run.get("job", run)
        spec = spec.get("spec", spec)
        spec["models"][0]["checkpoint"] = "gone.safetensors"

    for path in (grid_copy / "run.json", run_file(grid_copy)):
        alter_json(path, change)
    cells = checks(grid_copy)["cells"]
    assert (cells.verdict, "gone.safetensors" in cells.text) == ("not checked", True)


def remove(store: Path, kind: str, keys: set[tuple[str, ...]]) -> None:
    alter(store, kind, lambda rows: rows.__setitem__(slice(None), [row for row in rows if key_of(row) not in keys]))


def test_records_that_are_not_there_are_counted_and_named(grid_copy: Path) -> None:
    keys = [key_of(row) for row in pq.read_table(file_of(grid_copy)).to_pylist()]
    remove(grid_copy, "records", {keys[0]})
    assert wrong(grid_copy) == {
        "holes": f"1 of 16 records that the job asks for have no row, such as {row_id(*keys[0])}: run the job again"
    }
    remove(grid_copy, "records", set(keys))
    assert wrong(grid_copy)["holes"].startswith("16 of 16 records that the job asks for have no row, such as ")


def test_failed_rows_are_no_holes_and_are_told(grid_copy: Path) -> None:
    key = key_of(pq.read_table(file_of(grid_copy)).to_pylist()[0])
    nothing = {column.name: None for column in RECORDS if column.mark == "result"}
    failed = nothing | {"status": "failed", "error": "out of memory"}
    set_first(grid_copy, "records", dict(zip(KEY, key, strict=True)), **failed)
    remove(grid_copy, "class_records", {key})
    assert not wrong(grid_copy)
    assert "; 1 of them failed" in checks(grid_copy)["holes"].text


@pytest.mark.integration
def test_records_of_shards_without_a_run_are_no_holes(tmp_path: Path) -> None:
    _, grid = expanded(GRID)
    shards = [Shard(number=number, count=2) for number in (1, 2)]
    held, further = (sum(shard.holds(cell.cell_id) for cell in grid.cells) * 4 for shard in shards)
    assert min(held, further) > 0
    execute(GRID, tmp_path / "out", shard=shards[0])
    holes = checks(tmp_path / "out")["holes"]
    assert holes.verdict == "ok"
    expected = f"{held} records that the job asks for have a row; {further} more are of shards that no run was for"
    assert holes.text == expected


def test_damaged_volumes_are_found_if_asked_for(grid_copy: Path) -> None:
    bit, end, empty = sorted((grid_copy / "volumes").rglob("adversarial.nii.gz"))[:3]
    flip(bit, len(bit.read_bytes()) - 6)  # of the checksum
    end.write_bytes(end.read_bytes()[:-20])
    empty.write_bytes(b"")
    assert checks(grid_copy)["volumes"].verdict == "not checked"
    text = wrong(grid_copy, with_volumes=True)["volumes"]
    assert all(f"{path.relative_to(grid_copy)}: " in text for path in (bit, end, empty))


@pytest.mark.parametrize("named", ["gn", "fgsm"])
def test_volumes_of_the_named_attacks_alone_have_to_be_there(grid_copy: Path, named: str) -> None:
    alter_json(grid_copy / "run.json", lambda run: run["job"]["spec"].update(save_only=[named]))
    next((grid_copy / "volumes").glob("gn-*/**/attack.json")).unlink()
    assert ("2 records have no whole volume" in wrong(grid_copy).get("volumes", "")) == (named == "gn")


def columns(change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    def damage(store: Path) -> None:
        table = pq.read_table(file_of(store))
        pq.write_table(change(table).replace_schema_metadata(table.schema.metadata), file_of(store))

    return damage


def classes(change: Callable[[Rows], Any]) -> Callable[[Path], None]:
    return lambda store: alter(store, "class_records", change)


def phantom(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    return lambda store: alter_json(run_file(store), lambda run: change(run["datasets"]["phantom"]))


DAMAGE: list[tuple[str, Callable[[Path], Any], str]] = [
    ("schema", columns(lambda table: table.drop_columns(["dsc_foreground"])), "no column dsc_foreground"),
    ("schema", columns(lambda table: table.append_column("own", pa.nulls(len(table)))), "own, which is not documented"),
    (
        "schema",
        columns(lambda table: table.set_column(0, "cell_id", pa.array(range(len(table))))),
        "cell_id: int64 in place of string",
    ),
    ("values", lambda store: set_first(store, "class_records", hd95_clean=-1.0), "hd95_clean: -1 where 0 to inf is"),
    ("classes", classes(lambda rows: rows.pop(3)), "rows of classes: 5, expected 6 in 1 rows"),
    ("classes", classes(lambda rows: rows[3].update(class_index=4)), "class_index: not each class once in 1 rows"),
    ("doubles", lambda store: doubled(store, linf=0.030001), " in 1 pairs of rows of one key, first of row "),
    ("runs", lambda store: run_file(store).unlink(), "missing, though rows are of that run"),
    ("runs", lambda store: alter_json(run_file(store), lambda run: run["models"].popitem()), "does not know the"),
    ("cases", phantom(lambda facts: facts["recipe"].update(revision=99)), "case phantom_2000 of phantom: key"),
    ("cases", phantom(lambda facts: facts["cases"].pop("phantom_2000")), "case phantom_2000 of phantom: key"),
    ("cases", phantom(lambda facts: facts["cases"].update(phantom_2000="0" * 64)), "case phantom_2000 of phantom: key"),
    (
        "volumes",
        lambda store: next((store / "volumes").rglob("attack.json")).unlink(),
        "2 records have no whole volume, though the job saves them",
    ),
]


@pytest.mark.parametrize("is_compacted", [False, True])
@pytest.mark.parametrize(
    "content", quick([b"", b'{"models"', b"[]", b'{"schema_version": "2", "models": 3}', None], b'{"models"', None)
)
def test_lost_run_file_is_made_up_for(small_copy: Path, content: bytes | None, is_compacted: bool) -> None:
    job = Store(str(small_copy)).job()["spec"]
    if is_compacted:
        file_of(small_copy).rename(small_copy / "records" / "compacted-0123456789abcdef-000001.parquet")
    path = run_file(small_copy)
    path.unlink() if content is None else path.write_bytes(content)
    advice = wrong(small_copy)["runs"].rpartition("restore it, or ")[2]
    pattern = re.fullmatch(r"move what is left of it and (\S+) away and run the job again", advice)
    assert pattern is not None
    path.unlink(missing_ok=True)
    for each in small_copy.glob(pattern[1]):
        each.unlink()
    execute(job, small_copy)
    assert wrong(small_copy) == {}
    assert len(Store(str(small_copy)).runs()) == 1


@pytest.mark.parametrize("content", [b"", b"[]", b'{"schema_version": "2"}'])
def test_a_job_file_that_is_lost_is_made_up_for_as_its_line_says(small_copy: Path, content: bytes) -> None:
    job = Store(str(small_copy)).job()["spec"]
    (small_copy / "run.json").write_bytes(content)
    with pytest.raises(UserError, match=r"restore it, or move it away and run the job again$"):
        verify(Store(str(small_copy)))
    (small_copy / "run.json").unlink()
    execute(job, small_copy)
    assert wrong(small_copy) == {}


@pytest.mark.parametrize(("check", "damage", "text"), DAMAGE)
def test_damage_is_found_by_its_check(grid_copy: Path, check: str, damage: Callable[[Path], Any], text: str) -> None:
    damage(grid_copy)
    errors = wrong(grid_copy)
    assert text in errors[check]
    assert check not in ("classes", "doubles", "cases", "volumes") or set(errors) == {check}
