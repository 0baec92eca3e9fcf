"""Stores of every age of the schema, each written by the release of that age (see ages/README.md), are read alike."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from altered import Rows, alter, copied, set_first

from freqbench.core.errors import UserError
from freqbench.results import CLASS_RECORDS, RECORDS, Store
from freqbench.results.migrations import AGES, age_of
from freqbench.results.schema import SCHEMA_VERSION

FOLDER = Path(__file__).parent / "ages"
NAMES = [age.name for age in AGES]
CAME = {
    "1.0": (),
    "1.1": ("energy_low", "energy_middle", "energy_high"),
    "1.2": ("resampling_error",),
    "1.3": ("seam_energy",),
    "1.4": (
        *("source_defence", "target_defence", "certified_radius", "certified_share", "certified_share_clean"),
        *("certified_dice", "certified_dice_clean", "certified_dice_bound", "certified_dice_bound_clean"),
    ),
    "1.5": ("target_method",),
}
ADDED = {age: [name for later in CAME if later > age for name in CAME[later]] for age in CAME}
every_age = pytest.mark.parametrize("age", NAMES)

# Read once from the files with pyarrow alone: cell, case, Dice, HD95, largest change.
PGD, FGSM, FIRST, SECOND = "ea4622f656d00692", "8d48931d0fa6fa30", "412f041ee6ebda81", "0968187319dae703"
VALUES = {
    (PGD, FIRST): (0.05620054407334368, 9.605256860107097, 0.01568630337715149),
    (FGSM, FIRST): (0.05448054999736821, 9.593933881822458, 0.03137257695198059),
    (PGD, SECOND): (0.05446478832915307, 9.470684487386768, 0.01568630337715149),
    (FGSM, SECOND): (0.052909657372100495, 9.489049227788845, 0.03137257695198059),
}


def store_of(age: str) -> Store:
    return Store(str(FOLDER / age))


def test_there_is_a_store_of_every_age() -> None:
    assert sorted(path.name for path in FOLDER.iterdir() if path.is_dir()) == NAMES == sorted(ADDED)


@every_age
def test_its_values_are_read(age: str) -> None:
    found = {
        (row["cell_id"], row["case_key"]): (row["dsc"], row["hd95"], row["linf"])
        for row in store_of(age).records().to_pylist()
    }
    assert found == VALUES


@every_age
def test_what_came_later_is_null_and_what_it_has_is_not(age: str) -> None:
    rows = store_of(age).records().to_pylist()
    assert all(row[name] is None for row in rows for name in ADDED[age])
    energies = [row["energy_low"] for row in rows]
    assert (None in energies) == (age == "1.0")


@every_age
def test_a_compacted_store_says_the_same(age: str, tmp_path: Path) -> None:
    copy = Store(str(shutil.copytree(FOLDER / age, tmp_path / "copy")))
    (name,) = (path.name for path in (tmp_path / "copy" / "records").iterdir())
    for kind in ("records", "class_records"):  # a second file, so that there is something to merge
        shutil.copy(tmp_path / "copy" / kind / name, tmp_path / "copy" / kind / "z-000000.parquet")
    copy.compact()
    assert repr(copy.records().to_pylist()) == repr(store_of(age).records().to_pylist())
    assert len(copy.class_records()) == len(store_of(age).class_records()) == 24


@every_age
def test_its_age_is_told_by_its_columns(age: str) -> None:
    for kind in ("records", "class_records"):
        (path,) = (FOLDER / age / kind).iterdir()
        names = pq.read_schema(path).names
        assert kind != "records" or AGES[age_of(kind, names)].name == age


def test_the_present_columns_are_those_of_the_first_age_and_what_ages_added() -> None:
    """A new column: give it an age in `freqbench.results.migrations` and a store of that age here."""
    for kind, columns in (("records", RECORDS), ("class_records", CLASS_RECORDS)):
        (path,) = (FOLDER / NAMES[0] / kind).iterdir()
        added = [name for age in AGES for name in age.added.get(kind, ())]
        assert sorted([*pq.read_schema(path).names, *added]) == sorted(column.name for column in columns)


@every_age
def test_a_job_of_its_run_is_read(age: str) -> None:
    (run,) = store_of(age).runs()
    assert run["job"]["attacks"][1] == {"name": "pgd", "eps": "4/255", "steps": 2}
    assert store_of(age).job()["spec"]["name"] == "age"


OLD_NAMES = [  # attack, what its parameters say, threat model as stored, and what it is
    ("vafa", {"renormalize": None, "variant": "released"}, "dct-quantization", "dct-quantization-stretched"),
    ("vafa_2d", {"renormalize": None, "variant": "released-saa"}, "dct-quantization", "dct-quantization-stretched"),
    ("vafa", {"renormalize": True, "variant": "paper"}, "dct-quantization", "dct-quantization-stretched"),
    ("vafa", {"renormalize": None, "variant": "paper"}, "dct-quantization", "dct-quantization"),
    ("vafa_2d", {"renormalize": False, "variant": "released"}, "dct-quantization", "dct-quantization"),
    ("vafa_opt", {"renormalize": False, "variant": "released"}, "dct-quantization", "dct-quantization"),
    ("sa2", {"variant": "paper"}, "dct-scaling", "dct-scaling-with-dc"),
    ("sa2_2d", {"variant": "released"}, "dct-scaling", "dct-scaling"),
    ("sa2_opt", {"variant": "paper"}, "dct-scaling-with-dc", "dct-scaling-with-dc"),
    ("pgd", {"variant": "paper"}, "linf", "linf"),
]


@pytest.mark.parametrize("columns", [[column.name for column in RECORDS], ["threat_model"], ["threat_model", "params"]])
@pytest.mark.parametrize("age", ["1.0", "1.4"])
def test_a_threat_model_that_was_two_is_read_as_the_one_it_was(age: str, columns: list[str], tmp_path: Path) -> None:
    store = copied(FOLDER / age, tmp_path)

    def one_of_each(rows: Rows) -> None:
        rows[:] = [
            rows[0] | {"cell_id": f"{i:016}", "attack": attack, "params": json.dumps(params), "threat_model": old}
            for i, (attack, params, old, _) in enumerate(OLD_NAMES)
        ]

    alter(store, "records", one_of_each)
    found = Store(str(store)).records(columns)
    assert found["threat_model"].to_pylist() == [new for *_, new in OLD_NAMES]
    assert found.column_names == columns


def test_a_row_whose_parameters_are_no_json_keeps_its_name(tmp_path: Path) -> None:
    store = copied(FOLDER / "1.4", tmp_path)
    set_first(store, "records", attack="vafa", params="{", threat_model="dct-quantization")
    assert "dct-quantization" in Store(str(store)).records()["threat_model"].to_pylist()


def test_a_run_file_of_a_newer_release_is_refused_in_one_line(tmp_path: Path) -> None:
    copy = Store(str(shutil.copytree(FOLDER / "1.4", tmp_path / "copy")))
    content: dict[str, Any] = json.loads((tmp_path / "copy" / "run.json").read_text())
    (tmp_path / "copy" / "run.json").write_text(json.dumps(content | {"schema_version": SCHEMA_VERSION + 1}))
    with pytest.raises(UserError, match=r"run\.json: expected results of schema version 1 or older, got 2: update"):
        copy.job()
