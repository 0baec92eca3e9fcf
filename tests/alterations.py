"""A copy of a store in which something was changed behind freqbench's back."""

import json
import shutil
from collections.abc import Callable, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from freqbench.results.schema import COMMIT

Rows = list[dict[str, Any]]
commit_of = itemgetter(*COMMIT)


def copied(store: Path, to: Path) -> Path:
    return Path(shutil.copytree(store, to / "altered"))


def alter(store: Path, kind: str, change: Callable[[Rows], Any]) -> None:
    """Change the rows of a store's only file, or those of their classes; what `change` does to the list is written."""
    (path,) = (store / "records").glob("*.parquet")
    table = pq.read_table(path)
    rows = table.to_pylist()
    classes = Rows()
    for row in rows:
        classes += [line | dict(zip(COMMIT, commit_of(row), strict=True)) for line in row["classes"]]
    change(rows if kind == "records" else classes)
    for row in rows if kind == "class_records" else ():
        row["classes"] = [line for line in classes if commit_of(line) == commit_of(row)]
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


def set_first(store: Path, kind: str, where: Mapping[str, Any] | None = None, **values: Any) -> None:
    def change(rows: Rows) -> None:
        first(rows, **(where or {})).update(values)

    alter(store, kind, change)


def alter_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def run_file(store: Path) -> Path:
    return sorted((store / "runs").glob("*.json"))[0]


def holds(row: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    return all(row[name] == value for name, value in values.items())


def first(rows: Rows, **values: Any) -> dict[str, Any]:
    return next(row for row in rows if holds(row, values))
