"""Rows have the names that the store's job gives now, looked up by identity, whatever they said once."""

import copy
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from results.conftest import make_record, put
from rich.console import Console
from tiny_job import JOB, SHAPE, execute, expanded, save_weights, small

from freqbench.analysis.frames import classes_frame, found_records
from freqbench.audit.checks import gathered
from freqbench.audit.probe_files import root_of
from freqbench.core.errors import UserError
from freqbench.engine import run as runner
from freqbench.job.grid import further_targets
from freqbench.reporting.contents import contents
from freqbench.results import Store
from freqbench.results.naming import IDENTIFIED_BY

NAMES: dict[str, Any] = {
    "models": {"id_unet": "new model"},
    "classes": ["new 0", "new 1"],
    "case_ids": ["new case", "other"],
    "patients": ["new patient", "other"],
    "clean": {"id_unet": "stated"},
}
INDEX: dict[str, Any] = {
    "cells": [{"cell_id": "cell0", "dataset": "new data", "targets": ["id_unet"], "params": "{}"}],
    "cases": {"new data": ["case0", "case1"]},
    "names": {"new data": NAMES},
}
SAID = {  # of `make_record` and its classes, then of the index
    "dataset": ("phantom", "new data"),
    "case_id": ("case0", "new case"),
    "patient_id": ("patient0", "new patient"),
    "source_model": ("unet", "new model"),
    "target_model": ("unet", "new model"),
    "class_name": ("class0", "new 0"),
    "params": ('{"eps": 0.03137254901960784}', "{}"),
    "clean_number": (None, "stated"),
}
BOTH = {"models": JOB["models"]}


def store_of(root: object, index: dict[str, Any] | None = INDEX, *records: dict[str, Any]) -> Store:
    store = Store(str(root))
    put(store, "a-000000.parquet", *(records or (make_record(),)))
    if index:
        store.write_job({"spec": {}, "index": index})
    return store


def first(store: Store, column: str) -> object:
    return (store.class_records((column,)) if column == "class_name" else store.records((column,)))[column][0].as_py()


def swapped(content: dict[str, Any]) -> dict[str, Any]:
    content = copy.deepcopy(content)
    one, other = content["models"]
    one["name"], other["name"] = other["name"], one["name"]
    return content


def clean_scores(out: Path) -> dict[str, float]:
    return {row["target_model"]: row["dsc_clean"] for row in Store(str(out)).records().to_pylist()}


@pytest.mark.parametrize("column", IDENTIFIED_BY)
def test_a_name_is_that_of_the_job_by_identity(column: str, tmp_path: Path) -> None:
    assert (first(store_of(tmp_path / "old", None), column), first(store_of(tmp_path / "new"), column)) == SAID[column]


def test_names_of_what_the_job_does_not_know_stay(tmp_path: Path) -> None:
    store = store_of(tmp_path, INDEX, make_record(cell_id="c", case_key="c", source_model_id="c", target_model_id="c"))
    for name, (said, _) in SAID.items():
        assert first(store, name) == said


def test_network_that_two_datasets_name_otherwise_has_each_name(tmp_path: Path) -> None:
    other = {**NAMES, "models": {"id_unet": "its name there"}, "case_ids": ["c"], "patients": ["c"]}
    index = {**INDEX, "cases": {**INDEX["cases"], "b": ["caseb"]}, "names": {"new data": NAMES, "b": other}}
    store = store_of(tmp_path, index, make_record(), make_record(1, case_key="caseb"), make_record(2, case_key="?"))
    assert store.records(["target_model"])["target_model"].to_pylist() == ["new model", "its name there", "new model"]


def test_rows_and_their_classes_are_found_with_both_names(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    for as_written in (True, False):
        ((row, classes),) = store.found([("cell0", "case0", "id_unet")], as_written).values()
        expected = {name: said[not as_written] for name, said in SAID.items()}
        assert {**row, "class_name": classes[0]["class_name"]} == {**row, **expected}


def test_several_stores_have_each_the_names_of_its_own_job(tmp_path: Path) -> None:
    stores = [store_of(tmp_path / "new"), store_of(tmp_path / "old", None, make_record(case_key="case9"))]
    records = found_records(stores, None)[0]
    assert sorted(records["case_id"]) == ["case0", "new case"]
    assert {*classes_frame(stores, records)["class_name"]} == {"new 0", "new 1", "class0", "class1"}


def test_rows_of_audit_are_called_as_its_store_s_job_calls_them(tmp_path: Path) -> None:
    store_of(root_of(str(tmp_path)), {"cells": []}, make_record(case_key="case1"))
    assert sorted(gathered([store_of(tmp_path)]).records["case_id"]) == ["new case", "other"]


@pytest.mark.parametrize(
    "names",
    [{**NAMES, "patients": ["one"]}, {**NAMES, "case_ids": [1, 2]}, {**NAMES, "classes": ["c" * 5000]}, {"models": {}}],
)
def test_names_that_no_run_writes_are_refused_in_one_line(names: dict[str, Any], tmp_path: Path) -> None:
    store = store_of(tmp_path, {**INDEX, "names": {"new data": names}})
    with pytest.raises(UserError, match=r"run.json: expected the job of a run with its index .*restore it"):
        store.records()


def test_models_that_swap_names_keep_their_numbers(tmp_path: Path) -> None:
    content = small(**BOTH, targets="source")
    execute(content, tmp_path / "old")
    assert execute(swapped(content), tmp_path / "old").num_new == 0
    execute(swapped(content), tmp_path / "fresh")
    assert clean_scores(tmp_path / "old") == clean_scores(tmp_path / "fresh")
    assert len({*clean_scores(tmp_path / "fresh").values()}) == 2


def test_a_private_dataset_stays_private_when_names_are_swapped(tmp_path: Path) -> None:
    """The file of the run has the facts under the old names: neither page nor figures may show what was not shared."""
    names = ("open", "private")
    shapes = (SHAPE, [16, 16, 16])

    def of(names: Sequence[str]) -> dict[str, Any]:
        pairs = zip(names, shapes, (True, False), strict=True)
        phantom = {"loader": "phantom", "cases": 1}
        return small(datasets=[{**phantom, "name": name, "shape": shape, "share": s} for name, shape, s in pairs])

    execute(of(names), tmp_path)
    assert contents([Store(str(tmp_path))]).restricted == ["private"]
    assert (execute(of(names[::-1]), tmp_path).num_new, contents([Store(str(tmp_path))]).restricted) == (0, ["open"])


@pytest.mark.integration
def test_surrogates_are_called_in_parameters_as_job_calls_them(tmp_path: Path) -> None:
    bases = {"name": "bases", "eps": "8/255", "queries": 1, "steps": 1, "surrogates": [["a", "b"]]}
    content = small(**BOTH, targets="source", attacks=[bases])
    execute(content, tmp_path)
    assert execute(swapped(content), tmp_path).num_new == 0
    rows = Store(str(tmp_path)).records(["source_model", "params"]).to_pylist()
    assert {row["source_model"]: json.loads(row["params"])["surrogates"] for row in rows} == {"a": ["b"], "b": ["a"]}


def test_dataset_renamed_has_its_new_name_and_its_old_rows(tmp_path: Path) -> None:
    execute(small(), tmp_path)
    renamed = small(datasets=[{"name": "balls", "loader": "phantom", "shape": SHAPE, "cases": 1}])
    assert (execute(renamed, tmp_path).num_new, first(Store(str(tmp_path)), "dataset")) == (0, "balls")


def test_a_further_target_has_the_name_of_the_last_score(tmp_path: Path) -> None:
    saving = small(save_adversarial="nifti")
    execute(saving, tmp_path)
    save_weights(tmp_path / "w.safetensors", seed=3)
    for name in ("former", "latter"):
        grid = further_targets(expanded(saving)[0], [f"{name}={tmp_path / 'w.safetensors'}"])
        runner.rescore(grid, str(tmp_path), Console(file=io.StringIO()))
    execute(saving, tmp_path)
    assert sorted(Store(str(tmp_path)).records(["target_model"])["target_model"].to_pylist()) == ["a", "latter"]
