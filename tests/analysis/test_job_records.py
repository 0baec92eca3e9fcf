"""Rows that are read back are of the job of now: `fb.load_results`, and the join of the reference for other tools."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import freqbench as fb
from freqbench.core.errors import UserError
from freqbench.results import KEY, RECORDS, Store

ROOT = Path(__file__).parents[2]


@pytest.fixture
def edited(grid_copy: Path) -> Path:
    """A store whose job has changed since: one of its attacks has another identity now."""
    path = grid_copy / "run.json"
    content = json.loads(path.read_text())
    content["job"]["index"]["cells"].pop()
    path.write_text(json.dumps(content))
    return grid_copy


def keys(rows: pd.DataFrame) -> set[tuple[Any, ...]]:
    return {*rows[list(KEY)].itertuples(index=False, name=None)}


def test_rows_of_a_former_job_are_left_out(edited: Path) -> None:
    rows = fb.load_results(edited)
    every = fb.load_results(edited, former=True)
    assert len(every) == len(Store(str(edited)).records()) > len(rows) > 0
    assert keys(every[~every["former"]]) == keys(rows)
    assert "former" not in rows


def test_only_columns_that_are_asked_for_are_read(grid_store: Path) -> None:
    rows = fb.load_results(grid_store, columns=["dsc", "attack"])
    assert [*rows] == ["dsc", "attack"]
    assert rows["dsc"].tolist() == fb.load_results(grid_store)["dsc"].tolist()
    with pytest.raises(UserError, match=r"unknown column 'dcs'\. Did you mean 'dsc'\?"):
        fb.load_results(grid_store, columns=["dcs"])


def test_texts_are_categories_of_what_is_there(edited: Path) -> None:
    rows = fb.load_results(edited)
    texts = [column.name for column in RECORDS if isinstance(rows[column.name].dtype, pd.CategoricalDtype)]
    assert {"attack", "source_model", "target_model", "dataset", "params"} <= {*texts}
    assert all(set(rows[name].cat.categories) == set(rows[name].dropna()) for name in ("attack", "params"))
    assert (rows["source_model"] == rows["target_model"]).any()


@pytest.mark.filterwarnings("error::pandas.errors.PerformanceWarning")
def test_columns_can_be_added_without_a_warning(grid_store: Path) -> None:
    rows = fb.load_results(grid_store)
    for number in range(3):
        rows[f"mine_{number}"] = rows["attack"]
    assert rows["mine_0"].tolist() == rows["attack"].tolist()


def test_the_join_of_the_reference_gives_the_same_rows(edited: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "reference" / "columns.md").read_text("utf-8")
    (text,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    found: dict[str, Any] = {}
    monkeypatch.chdir(edited)
    exec(text.replace("runs/mine", "."), found)
    assert keys(found["rows"]) == keys(fb.load_results(edited))
    assert len(found["rows"]) == len(fb.load_results(edited))
