"""Records made by hand, as a data frame."""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from freqbench.results import RECORDS, to_table

Row = Callable[..., dict[str, Any]]
Frame = Callable[..., pd.DataFrame]
Table = Callable[..., pa.Table]

START = datetime(2026, 1, 1, tzinfo=UTC)

ATTACKS: dict[str, dict[str, Any]] = {
    "pgd": {"threat_model": "linf", "budget_name": "eps", "budget": 8 / 255},
    "gn": {"threat_model": "gaussian", "budget_name": "std", "budget": 8 / 255},
    "random_noise": {"threat_model": "l2", "budget_name": "l2", "budget": 20.0},
    "vafa": {"threat_model": "dct-quantization", "budget_name": "q_max", "budget": 20.0},
    "dfb": {"threat_model": "none"},
    "corruption": {"threat_model": "corruption", "budget_name": "severity", "budget": 3.0},
    "faa": {"threat_model": "fourier-bands", "budget_name": "portion", "budget": 0.1},
}


def make_row(attack: str = "pgd", params: Mapping[str, Any] | None = None, **values: Any) -> dict[str, Any]:
    """A complete ok record; `source`, `target` and `case` set all columns that hang on them."""
    row: dict[str, Any] = dict.fromkeys(column.name for column in RECORDS)
    source, target, case = values.pop("source", "unet"), values.pop("target", "unet"), values.pop("case", 0)
    row |= {"source_model": source, "source_model_id": f"id_{source}", "target_model": target}
    row |= {"target_model_id": f"id_{target}", "case_key": f"case{case}", "case_id": f"case{case}"}
    row |= {"patient_id": f"case{case}", "dataset": "phantom", "attack": attack, "variant": "released", "seed": 0}
    row |= ATTACKS[attack] | {"precision": "fp32", "compile": False, "num_classes": 3, "status": "ok"}
    row |= {"metrics": "dsc", "run_id": "run0", "finished_at": START + timedelta(minutes=values.pop("minute", 0))}
    row |= values
    for name in ("dsc", "dsc_clean"):  # where a test gives the one, all classes score alike
        row[name.replace("dsc", "dsc_foreground")] = values.get(name.replace("dsc", "dsc_foreground"), row[name])
    budget = {row["budget_name"]: row["budget"]} if row["budget_name"] else {}
    row["params"] = json.dumps(budget | dict(params or {}))
    names = ("attack", "variant", "params", "seed", "source_model_id", "precision", "compile")
    row["cell_id"] = row["cell_id"] or "/".join(str(row[name]) for name in names)
    return row


@pytest.fixture
def row() -> Row:
    return make_row


@pytest.fixture
def table() -> Table:
    """Rows to a table of records."""
    return lambda *rows: to_table(RECORDS, rows)


@pytest.fixture
def records(table: Table) -> Frame:
    """Rows to a data frame of records."""
    return lambda *rows: table(*rows).to_pandas()
