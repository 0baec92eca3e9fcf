"""Damage of every kind is planted in a sound store, and each is found by its own check."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from alterations import alter, run_file, set_first
from tiers import quick
from tiny_job import GRID, execute, expanded

from freqbench.audit import verify as module
from freqbench.audit.verify import Check, verify
from freqbench.core.errors import UserError
from freqbench.results import KEY, RECORDS, Shard, Store
from freqbench.results.store import row_id


def checks(store: Path) -> dict[str, Check]:
    return {check.name: check for check in verify(Store(str(store)))}


def wrong(store: Path) -> dict[str, str]:
    return {name: check.text for name, check in checks(store).items() if check.verdict == "wrong"}


def file_of(store: Path) -> Path:
    (path,) = (store / "records").glob("*.parquet")
    return path


def key_of(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(row[name] for name in KEY)


def test_a_sound_store_has_nothing_wrong_and_is_left_alone(grid_copy: Path) -> None:
    before = {path: path.read_bytes() for path in grid_copy.rglob("*") if path.is_file()}
    results = checks(grid_copy)
    assert {name: check.verdict for name, check in results.items()} == dict.fromkeys(
        ("files", "doubles", "holes"), "ok"
    )
    assert results["doubles"].text == "no key has two rows that are ok"
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


def test_the_stored_example_is_sound() -> None:
    assert not wrong(Path(__file__).parents[1] / "results" / "example")


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
    monkeypatch.setattr(module, "MOST_DOUBLES", 10)
    assert checks(grid_copy)["doubles"].text.endswith("; 22 of their rows were not compared")


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
    held = 4 * sum(shards[0].holds(cell.cell_id) for cell in grid.cells)
    further = 4 * len(grid.cells) - held
    assert min(held, further) > 0
    execute(GRID, tmp_path / "out", shard=shards[0])
    holes = checks(tmp_path / "out")["holes"]
    assert holes.verdict == "ok"
    expected = f"{held} records that the job asks for have a row; {further} more are of shards that no run was for"
    assert holes.text == expected


def columns(change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    def damage(store: Path) -> None:
        table = pq.read_table(file_of(store))
        pq.write_table(change(table).replace_schema_metadata(table.schema.metadata), file_of(store))

    return damage


@pytest.mark.parametrize("is_compacted", [False, True])
@pytest.mark.parametrize(
    "content", quick([b"", b'{"models"', b"[]", b'{"schema_version": "2", "models": 3}'], b'{"models"')
)
def test_damaged_run_file_is_made_up_for(small_copy: Path, content: bytes, is_compacted: bool) -> None:
    job = Store(str(small_copy)).job()["spec"]
    if is_compacted:
        file_of(small_copy).rename(small_copy / "records" / "compacted-0123456789abcdef-000001.parquet")
    path = run_file(small_copy)
    path.write_bytes(content)
    advice = wrong(small_copy)["files"].rpartition("restore it, or ")[2]
    pattern = re.fullmatch(r"move what is left of it and (\S+) away and run the job again", advice)
    assert pattern is not None
    path.unlink()
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


@pytest.mark.parametrize(
    ("check", "damage", "text"),
    [
        ("files", columns(lambda table: table.drop_columns(["dsc_foreground"])), "got others: dsc_foreground"),
        ("files", columns(lambda table: table.append_column("own", pa.nulls(len(table)))), "got others: own"),
        (
            "files",
            columns(lambda table: table.set_column(0, "cell_id", pa.array(range(len(table))))),
            "others: cell_id",
        ),
        ("doubles", lambda store: doubled(store, linf=0.030001), " in 1 pairs of rows of one key, first of row "),
    ],
)
def test_damage_is_found_by_its_check(grid_copy: Path, check: str, damage: Callable[[Path], Any], text: str) -> None:
    damage(grid_copy)
    errors = wrong(grid_copy)
    assert text in errors[check]
    assert check != "doubles" or set(errors) == {check}
