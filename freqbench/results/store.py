"""Keeps results in Parquet files that are committed by their presence, one file `records/NAME` a commit, with its
classes; readers take one row per key, as a retry, a second driver or a dead compaction leaves several."""

import hashlib
import json
import random
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from itertools import islice, product
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ValidationError

from freqbench.core import limits, names
from freqbench.core.config import validate
from freqbench.core.errors import UserError
from freqbench.core.files import storage
from freqbench.results import compaction, schema
from freqbench.results.files import Files
from freqbench.results.naming import IDENTIFIED_BY, Index, rename_rows, rename_run
from freqbench.results.nested import class_rows, coded_schema
from freqbench.results.schema import CLASS_RECORDS, CLASSES, COMMIT, KEY, RECORDS, ROWS, SCHEMA_VERSION, arrow_schema
from freqbench.results.winners import ORDER, shared_rows, split_winners, winners
from freqbench.results.writer import Writer, write_table

Key = tuple[str, str, str]
Row = dict[str, Any]
_ALL = tuple(column.name for column in RECORDS)
_CLASS_TYPES = arrow_schema(CLASS_RECORDS)
_ALL_CLASSES = tuple(_CLASS_TYPES.names)
FOLDERS = ("records", "class_records", "runs", "leases")
NAMELESS = Index(cells=[])
LEAST_DIGITS = 6  # of a row's id
_PREFIX = re.compile(rf"[0-9a-f]{{{LEAST_DIGITS},16}}")


class DatasetFacts(BaseModel, strict=True):
    """Facts of a dataset in a run's file, as far as they are read."""

    cases: dict[str, Any] | None = None
    recipe: dict[str, Any] | None = None


class RunFacts(BaseModel, strict=True):
    """Facts in a run's file, as far as they are read; each may be absent."""

    job: dict[str, Any] | None = None
    versions: dict[str, Any] | None = None
    code: dict[str, Any] | None = None
    engine: dict[str, Any] | None = None
    models: dict[str, dict[str, Any]] | None = None
    datasets: dict[str, DatasetFacts] | None = None
    workers: list[Any] | None = None
    devices: list[Any] | None = None


class Store:
    """The results below `root`, a folder or an fsspec URI. Nothing is created before the first write. Reading methods
    raise UserError if a file is torn, foreign or of another schema version. Rows have the names that the store's job
    gives to models, datasets, cases, patients and classes, or the job of `named_by`, another store."""

    def __init__(self, root: str, named_by: "Store | None" = None) -> None:
        for folder in FOLDERS:
            names.require_inside(root, storage.join(root, folder))
        self.root = root
        self._named_by = named_by or self
        self._files = Files(root)

    def writer(self, run_id: str, interval_s: float = 15.0) -> Writer:
        """Returns the writer of the rows of the run `run_id`, for one thread, which commits every `interval_s`
        seconds."""
        return Writer(self.root, run_id, interval_s)

    @property
    def is_empty(self) -> bool:
        """True if no record has been committed; avoids pandas, which the first Arrow array imports."""
        return not self._files.names()

    def names(self) -> frozenset[str]:
        """Lists the names of the committed files, in one look: one that is merged meanwhile may be missing."""
        return frozenset(self._files.list_once())

    def records(self, columns: Sequence[str] = _ALL, coded: bool = False) -> pa.Table:
        """Returns one row per key, ok before failed, then the latest, in order of time and key: the `columns`, the
        fewer the faster; `coded`: texts as Arrow dictionaries, which take a tenth of the memory."""
        table = self._winners(columns)
        return table if coded else table.cast(pa.schema([ROWS.field(name) for name in columns]))

    def found(self, keys: Collection[Key], as_written: bool = False) -> dict[Key, tuple[Row, list[Row]]]:
        """Returns the rows of `records` with `keys` and their classes; `as_written`: with the names of their run."""
        texts = pa.array(map("/".join, keys), pa.string())
        index = NAMELESS if as_written else self._index(IDENTIFIED_BY)
        return self._files.consistent(lambda names: self._find_rows(names, texts, index))

    def rows(self, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """Yields the rows of `records`, their `columns`, as tuples; equal texts are one object, which saves memory."""
        return shared_rows(self._winners(columns))

    def class_records(self, columns: Sequence[str] = _ALL_CLASSES, coded: bool = False) -> pa.Table:
        """Returns the classes of the rows that `records` returns, by columns of CLASS_RECORDS; `coded` as there."""
        own = (f"{CLASSES}.{name}" for name in (*columns, "class_index") if name not in COMMIT)
        rows = self._winners(dict.fromkeys((*(name for name in columns if name in COMMIT), "case_key", *own)))
        table = rename_rows(class_rows(rows), self._index(columns)).select(list(columns))
        return table if coded else table.cast(pa.schema([_CLASS_TYPES.field(name) for name in columns]))

    def write_classes(self) -> None:
        """Writes `class_records/rows.parquet` anew, a row a class, for tools that read no lists: freqbench does not."""
        write_table(storage.join(self.root, "class_records", "rows.parquet"), self.class_records())

    def covered(self) -> dict[Key, frozenset[str]]:
        """Returns the keys of ok rows and their metrics, which a resume need not compute; none of a run alone."""
        listed = cache(lambda text: frozenset((text or "").split(",")) - {""})  # a million rows have few texts
        rows = self.rows((*KEY, "metrics", "status", "caution"))
        return {row[:3]: listed(row[3]) for row in rows if row[4] == "ok" and schema.UNTOLD not in (row[5] or "")}

    def compact(self, above: int = 1) -> None:
        """Merges small files into few large ones if there are more than `above`, and drops superseded rows. Even if it
        dies, or others compact or commit too, every row is in a committed file. Memory grows by the keys alone."""
        compaction.compact(self._files, above)

    def write_run(self, run_id: str, facts: dict[str, Any]) -> None:
        """Writes `runs/<run_id>.json`, which only that run writes: `facts` and the run's id."""
        self._write_json(f"runs/{run_id}.json", {**facts, "run_id": run_id})

    def runs(self) -> list[dict[str, Any]]:
        """Returns the facts that the runs wrote about themselves, ordered by id, with the names that rows have."""
        index = self._index(IDENTIFIED_BY)
        runs = self._files.each(self.run, self.run_ids())
        return [rename_run(run, index) for run in runs] if index.names else list(runs)

    def run(self, run_id: str) -> dict[str, Any]:
        """Returns the facts of the run `run_id`, one of `run_ids`; raises UserError if some have the wrong type."""
        run = self._files.read_json(f"runs/{run_id}.json")
        try:
            RunFacts.model_validate(run)
        except ValidationError as error:
            first = error.errors()[0]
            place = f"{self.root}/runs/{run_id}.json: {'.'.join(map(str, first['loc']))}"
            got = f"got {first['input']!r:.80}: {self.remedy(run_id)}"
            raise UserError(f"{place}: expected what a run wrote, {got}") from None
        return {**run, "run_id": run_id}

    def remedy(self, run_id: str) -> str:
        """Returns what to do if the file of a run is damaged or lost."""
        return self._files.remedy(f"runs/{run_id}.json")

    def run_ids(self) -> list[str]:
        """Lists the ids of the runs so far, ordered."""
        return [name.removesuffix(".json") for name in storage.list_files(storage.join(self.root, "runs"), ".json")]

    def write_job(self, job: dict[str, Any]) -> None:
        """Writes `run.json`: the job and the ids of the runs so far; derived data, for people who open the folder."""
        self._write_json("run.json", {"job": job, "runs": self.run_ids()})

    def job(self) -> dict[str, Any]:
        """Returns the job in `run.json`; raises UserError if there is none."""
        return self._job_and_index()[0]

    @property
    def has_job(self) -> bool:
        """True if there is a `run.json`."""
        return storage.exists(storage.join(self.root, "run.json"))

    def _job_and_index(self) -> tuple[dict[str, Any], Index]:
        job = self._files.read_json("run.json").get("job")
        try:
            if not isinstance(job, dict):
                raise UserError(f"got {job!r:.80}")
            return job, validate(job.get("index"), Index, "its index")
        except UserError as error:
            expected = f"{self.root}/run.json: expected the job of a run with its index ({error})"
            raise UserError(f"{expected}: {self._files.remedy('run.json')}") from None

    def _index(self, columns: Collection[str]) -> Index:
        """Returns the index whose names the rows get; one without names if no column has any, or there is no job."""
        is_needed = not IDENTIFIED_BY.keys().isdisjoint(columns) and self._named_by.has_job
        return self._named_by._job_and_index()[1] if is_needed else NAMELESS

    def _winners(self, columns: Collection[str]) -> pa.Table:
        index = self._index(columns)
        identities = (IDENTIFIED_BY[name] for name in columns if name in IDENTIFIED_BY)
        wanted = tuple(dict.fromkeys((*ORDER, *columns, *identities)))
        known: dict[str, pa.Table] = {}
        tables = self._files.consistent(lambda names: self._read(names, wanted, known))
        table = pa.concat_tables(tables or [coded_schema(wanted).empty_table()])
        winning = table.unify_dictionaries().take(pa.array(winners(table)))
        return rename_rows(winning, index).select(list(dict.fromkeys(name.partition(".")[0] for name in columns)))

    def _read(self, names: Sequence[str], columns: Sequence[str], known: dict[str, pa.Table]) -> list[pa.Table]:
        """Reads some columns of files; skips those in `known` and adds the others to it."""
        for name in known.keys() - set(names):
            del known[name]
        new = [name for name in names if name not in known]
        known.update(zip(new, self._files.each(lambda name: self._files.columns(name, columns), new), strict=True))
        return [known[name] for name in names]

    def _find_rows(self, names: Sequence[str], keys: pa.Array, index: Index) -> dict[Key, tuple[Row, list[Row]]]:
        rows_by_key: dict[Key, tuple[Row, list[Row]]] = {}
        tables = self._read(names, ORDER, {})
        for name, table, wins in zip(names, tables, split_winners(tables), strict=True):
            texts = pc.binary_join_element_wise(*(table[column].cast(pa.string()) for column in KEY), "/")
            if (wanted := wins & np.asarray(pc.is_in(texts, keys))).any():
                rows = pa.concat_tables(self._files.pieces(name, self._files.open(name), keep=wanted))
                lines = iter(rename_rows(class_rows(rows), index).select(_ALL_CLASSES).to_pylist())
                for row in rename_rows(rows, index).to_pylist():
                    key: Key = row["cell_id"], row["case_key"], row["target_model_id"]
                    rows_by_key[key] = row, [*islice(lines, len(row.pop(CLASSES)))]
        return rows_by_key

    def _write_json(self, name: str, content: dict[str, Any]) -> None:
        text = json.dumps({**content, "schema_version": SCHEMA_VERSION}, indent=2)
        storage.write_atomic(storage.join(self.root, name), text.encode())


def index_keys(index: Mapping[str, Any]) -> set[Key]:
    """Expands an index of `Grid.index` to its keys (a cell with `cases` has those alone), as many as a job may have."""
    cells = [(cell, cell["cases"] if "cases" in cell else index["cases"][cell["dataset"]]) for cell in index["cells"]]
    limits.require(sum(len(cases) * len(cell["targets"]) for cell, cases in cells), limits.RECORDS, "records of a job")
    keys: set[Key] = set()
    for cell, cases in cells:
        keys.update(product([cell["cell_id"]], cases, cell["targets"]))
    return keys


def row_id(cell_id: str, case_key: str, target_model_id: str) -> str:
    """Returns 16 hex digits that name a record: a digest of its key, `cell_id`, `case_key` and `target_model_id`.

    >>> row_id("0123456789abcdef", "fedcba9876543210", "feedfacefeedface")
    'fd9e36ab26584a29'
    """
    return hashlib.blake2b("/".join((cell_id, case_key, target_model_id)).encode(), digest_size=8).hexdigest()


def find_row(store: Store, text: str) -> Key:
    """Returns the key of the row of `store` whose id begins with `text`; raises UserError if none or several do."""
    if not _PREFIX.fullmatch(text):
        there = f"got {text!r}: the page of `report --format html` has them in the details of a case"
        raise UserError(f"--rows: expected a number, or {LEAST_DIGITS} to 16 hex digits of a row's id, {there}")
    keys = [key for key in store.rows(KEY) if row_id(*key).startswith(text)]
    if len(keys) != 1:
        ids = ", ".join(row_id(*key) for key in keys[:3])
        got = f"{len(keys)} of them ({ids}): give more digits" if keys else "none: check OUT and the digits"
        raise UserError(f"{store.root}: expected one row whose id begins with {text}, got {got}")
    return keys[0]


def sample_rows(store: Store, count: int, seed: int, first: Collection[Key] = ()) -> list[Key]:
    """Returns the keys `first` and those of `count` other ok rows at random, the same for one store and one `seed`."""
    if not (keys := sorted(row[:3] for row in store.rows((*KEY, "status")) if row[3] == "ok")):
        raise UserError(f"{store.root}: expected a row that is ok, found none: run the job first")
    others = [key for key in keys if key not in first]
    return [*first, *random.Random(seed).sample(others, min(count, len(others)))]
