"""A copy of a store in which something was changed behind freqbench's back."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from freqbench.results.schema import COMMIT

Rows = list[dict[str, Any]]


def copied(store: Path, to: Path) -> Path:
    return Path(shutil.copytree(store, to / "altered"))


def alter(store: Path, kind: str, change: Callable[[Rows], Any]) -> None:
    """Change the rows of a store's only file, or those of their classes; what `change` does to the list is written."""
    (path,) = (store / "records").glob("*.parquet")
    table = pq.read_table(path)
    rows = table.to_pylist()
    classes = [{**line, **{name: row[name] for name in COMMIT}} for row in rows for line in row["classes"]]
    change(rows if kind == "records" else classes)
    for row in rows if kind == "class_records" else ():
        row["classes"] = [line for line in classes if all(line[name] == row[name] for name in COMMIT)]
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


def set_first(store: Path, kind: str, where: Mapping[str, Any] | None = None, **values: Any) -> None:
    def change(rows: Rows) -> None:
        row = next(row for row in rows if all(row[name] == value for name, value in (where or {}).items()))
        row |= values

    alter(store, kind, change)


def alter_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def run_file(store: Path) -> Path:
    return sorted((store / "runs").glob("*.json"))[0]


def first(rows: Sequence[Mapping[str, Any]], **values: Any) -> Mapping[str, Any]:
    return next(row for row in rows if all(row[name] == value for name, value in values.items()))
