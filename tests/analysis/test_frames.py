"""Frames of stores: coded texts behave as texts do, and tables of them are those of plain frames."""

from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from reporting.handmade import row, stored

from freqbench.analysis.frames import IDENTITY, categorical, classes_frame, plain, records_frame, select_job
from freqbench.analysis.tables import failures, summary
from freqbench.results import CLASS_RECORDS, KEY, Store


def rows() -> list[dict[str, Any]]:
    """Two models on each other under two attacks; names that do not come in the order of the alphabet."""
    pairs = [("unetr", "unet"), ("unet", "unet"), ("unet", "unetr"), ("unetr", "unetr")]
    scores = {"dsc_clean": 0.9, "hd95": 2.0, "ssim": 0.8, "hd95_undefined_classes": 1}
    return [
        row(attack, source=source, target=target, case=case, dsc=0.5 + 0.01 * case, **scores)
        for attack, (source, target), case in product(("vafa", "pgd"), pairs, (1, 0))
    ]


@pytest.fixture
def stored_rows(tmp_path: Path) -> Store:
    """Commits these rows as a run does, and a failed one that is superseded."""
    made = rows()
    stored(made[0] | {"status": "failed", "error": "no", "dsc": None}, root=tmp_path)
    return stored(*made, root=tmp_path, name="run1")


def test_tables_of_coded_frames_are_those_of_plain_ones(stored_rows: Store) -> None:
    coded = records_frame([stored_rows])
    texts = stored_rows.records().to_pandas()
    for build in (summary, failures):
        pd.testing.assert_frame_equal(build(coded), build(texts), check_dtype=False)


def test_texts_sort_as_texts_and_models_compare(stored_rows: Store) -> None:
    frame = records_frame([stored_rows], ["dsc"])
    assert list(frame["source_model"].cat.categories) == ["unet", "unetr"]
    assert frame.sort_values("attack", kind="stable")["attack"].iloc[0] == "pgd"
    assert int((frame["source_model"] == frame["target_model"]).sum()) == 8


def test_the_best_row_of_a_key_counts_among_several_stores(stored_rows: Store) -> None:
    both = records_frame([stored_rows, stored(rows()[0] | {"dsc": 0.1, "run_id": "run2"})], ["dsc"])
    assert (len(both), both["dsc"].min()) == (16, pytest.approx(0.1))


def test_rows_of_a_job_are_those_with_its_keys(stored_rows: Store) -> None:
    frame = records_frame([stored_rows], ["dsc"])
    key = tuple(frame[list(KEY)].astype(str).iloc[3])
    assert len(select_job(frame, {key, ("x", "y", "z")})) == 1  # type: ignore[arg-type]
    assert set(select_job(frame.iloc[:0], {("x", "y", "z")}).columns) == {*IDENTITY, "dsc"}


def test_classes_of_several_stores_are_those_of_rows_that_count() -> None:
    newer = row(case=0, dsc=0.8, minute=5)
    older = row(case=0, dsc=0.2, minute=1, run_id="old")
    stores = []
    for record in (older, newer, newer):
        own = {column.name: record.get(column.name) for column in CLASS_RECORDS}
        stores.append(stored(record, classes=[[own | {"class_index": i, "class_name": "organ"} for i in range(2)]]))
    classes = classes_frame(stores, records_frame(stores))
    assert classes[["class_index", "dsc"]].to_numpy().tolist() == [[0, 0.8], [1, 0.8]]
    assert isinstance(classes["class_name"].dtype, pd.CategoricalDtype)


def test_coded_and_plain_are_each_others_inverse() -> None:
    coded = categorical(pd.DataFrame({"a": ["y", None, "x"], "b": [1.0, 2.0, 3.0]}))
    assert (list(coded["a"].cat.codes), plain(coded)["a"].isna().tolist()) == ([1, -1, 0], [False, True, False])
    assert plain(coded)["a"].tolist()[::2] == ["y", "x"]
