"""Damage to files, columns, values and volumes is planted in a sound store, and found by its own check."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from altered import copied, set_first
from tiny import execute

from freqbench.audit.verify import verify
from freqbench.core.errors import UserError
from freqbench.results import KEY, Store
from freqbench.results.rowid import row_id
from freqbench.results.schema import VERSION_FIELD

from .verified import CONTENT, checks, pair_of, wrong


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "out"
    execute(CONTENT, folder)
    return folder


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    return copied(made, tmp_path)


def test_a_sound_store_has_nothing_wrong_and_is_left_alone(store: Path) -> None:
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    found = checks(store, with_volumes=True)
    assert {name: check.verdict for name, check in found.items()} == dict.fromkeys(found, "ok")
    assert found["values"].text == "16 records and 96 rows of classes are in their ranges"
    assert found["holes"].text == "16 records that the job asks for have a row"
    assert before == {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}


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
            "no column dsc_foreground, which files of schema 1.5 have",
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


@pytest.mark.parametrize("age", ["1.0", "1.1", "1.2", "1.3", "1.4"])
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


# volumes


def test_a_volume_that_is_gone_is_found(store: Path) -> None:
    next((store / "volumes").rglob("attack.json")).unlink()
    assert wrong(store)["volumes"].startswith("2 records have no whole volume, though the job saves them")


@pytest.mark.parametrize("damage", ["bit", "end"])
def test_a_damaged_volume_is_found_if_asked_for(store: Path, damage: str) -> None:
    path = sorted((store / "volumes").rglob("adversarial.nii.gz"))[0]
    if damage == "bit":
        flip(path, len(path.read_bytes()) - 6)  # of the checksum
    else:
        path.write_bytes(path.read_bytes()[:-20])
    assert checks(store)["volumes"].verdict == "not checked"
    assert f"{path.relative_to(store)}: " in wrong(store, with_volumes=True)["volumes"]
