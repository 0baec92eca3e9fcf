"""Rows made by hand."""

from datetime import UTC, datetime, timedelta
from typing import Any

from freqbench.results import CLASS_RECORDS, RECORDS, Store
from freqbench.results.writer import commit, to_rows

Row = dict[str, Any]
START = datetime(2026, 1, 1, tzinfo=UTC)


def make_record(minute: int = 0, **values: Any) -> Row:
    """A complete ok record that finished `minute` minutes after START; `values` overwrite it."""
    row: Row = dict.fromkeys(column.name for column in RECORDS)
    row |= {"cell_id": "cell0", "case_key": "case0", "target_model_id": "id_unet", "source_model_id": "id_unet"}
    row |= {"dataset": "phantom", "case_id": "case0", "patient_id": "patient0", "source_model": "unet"}
    row |= {"target_model": "unet", "attack": "pgd", "variant": "paper", "params": '{"eps": 0.03137254901960784}'}
    row |= {"budget_name": "eps", "budget": 8 / 255, "threat_model": "linf", "seed": 0, "precision": "fp32"}
    row |= {"compile": False, "num_classes": 3, "status": "ok", "metrics": "dsc,hd95", "dsc": 0.5, "dsc_clean": 0.75}
    row |= {"run_id": "run0", "finished_at": START + timedelta(minutes=minute)}
    return row | values


def make_failed(minute: int = 0, **values: Any) -> Row:
    nothing = {"status": "failed", "error": "out of memory", "metrics": None, "dsc": None, "dsc_clean": None}
    return make_record(minute, **(nothing | values))


def make_classes(of: Row, count: int = 2) -> list[Row]:
    """The class rows of a record; their Dice is the record's, so that a row tells whose it is."""
    row: Row = dict.fromkeys(column.name for column in CLASS_RECORDS)
    row |= {name: of[name] for name in ("cell_id", "case_key", "target_model_id", "run_id", "finished_at", "dsc")}
    return [row | {"class_index": index, "class_name": f"class{index}"} for index in range(count)]


def put(store: Store, name: str, *records: Row) -> None:
    commit(store.root, name, to_rows(records, list(map(make_classes, records))))
