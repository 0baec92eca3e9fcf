"""Converts stores of schema version 1, and their audits: python -m freqbench.results.convert OUT; again, if it died."""

import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from freqbench.core.errors import UserError
from freqbench.core.files import storage
from freqbench.results.nested import nest
from freqbench.results.schema import CLASS_RECORDS, CLEAN_NUMBER, COMMIT, RECORDS, RELEASES, VERSION_FIELD
from freqbench.results.writer import commit

FORMER, NOW = (f'"schema_version": {version}\n}}'.encode() for version in (1, 2))


def convert(root: str) -> int:
    """Converts a store, returns the number of converted files; refuses early rows, and rows without their classes."""
    records, classes, runs = (storage.join(root, folder) for folder in ("records", "class_records", "runs"))
    names, former = (storage.list_files(folder, ".parquet") for folder in (records, classes))
    count = 0
    for name in names:
        rows = _read(storage.join(records, name))
        if (rows.schema.metadata or {}).get(VERSION_FIELD) == b"1":
            if name not in former:
                raise UserError(f"{classes}/{name}: missing: restore it, or move {records}/{name} away")
            commit(root, name, _nest_classes(root, rows, _read(storage.join(classes, name))))
            count += 1
    for name in {*former} & {*names}:
        storage.remove(storage.join(classes, name))
    for path in (*(storage.join(runs, name) for name in storage.list_files(runs, ".json")), f"{root}/run.json"):
        if storage.exists(path) and (content := storage.read_bytes(path)).endswith(FORMER):
            storage.write_atomic(path, content.removesuffix(FORMER) + NOW)
    return count


def _read(path: str) -> pa.Table:
    return pq.read_table(pa.BufferReader(storage.read_bytes(path)), page_checksum_verification=True)


def _nest_classes(root: str, rows: pa.Table, classes: pa.Table) -> pa.Table:
    for column in (RELEASES, CLEAN_NUMBER):
        if column.name not in rows.column_names:
            rows = rows.append_column(column.name, pa.nulls(len(rows), column.type))
    for table, columns in ((rows, RECORDS), (classes, CLASS_RECORDS)):
        if lost := [column.name for column in columns if column.name not in table.column_names]:
            raise UserError(f"{root}: an early release wrote it, without {lost[0]}: run the job again into a new store")
    rows = rows.select([column.name for column in RECORDS])
    of_rows, of_classes = (zip(*(table[name].to_pylist() for name in COMMIT), strict=True) for table in (rows, classes))
    place = {commit: number for number, commit in enumerate(of_rows)}
    places = np.array([place[commit] for commit in of_classes], np.int64)
    counts = np.bincount(places, minlength=len(rows)).tolist()
    return nest(rows, classes.take(np.argsort(places, kind="stable")), counts)


if __name__ == "__main__":
    try:
        for out in (each for root in sys.argv[1:] for each in (root, storage.join(root, "audit"))):
            sys.stdout.write(f"{out}: {convert(out)} files converted\n")
    except UserError as error:
        sys.exit(f"error: {error}")
