"""A result store: Parquet files that are committed by their presence, read as one row a key, and compacted.

A commit is a pair of files of one name, `class_records/NAME` first and `records/NAME` second: **the second is the
commit**. A class file without its records file is ignored, wherever it comes from: a writer that died between the two,
or a compaction that died while deleting. A record may stand in several files (a retry, a second driver, a compaction
that died before deleting): readers keep one row a key, and take its classes from the file that the row came from.
"""

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import reduce
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from freqbench import storage
from freqbench.errors import UserError
from freqbench.results.lease import LEASE_NAME
from freqbench.results.schema import (
    CLASS_RECORDS,
    COMMIT,
    KEY,
    RECORDS,
    SCHEMA_VERSION,
    VERSION_FIELD,
    arrow_schema,
)
from freqbench.results.writer import Writer, commit

Key = tuple[str, str, str]
T = TypeVar("T")

_SCHEMAS = {"records": arrow_schema(RECORDS), "class_records": arrow_schema(CLASS_RECORDS)}
_ALL = tuple(column.name for column in RECORDS)
_ORDER = (*COMMIT, "status")
_FILE = "_file"


class Store:
    """The results below `root`, a folder or an fsspec URI. Nothing is made before the first write."""

    def __init__(self, root: str) -> None:
        self.root = root

    def writer(self, run_id: str, interval_s: float = 15.0) -> Writer:
        """A writer of this run's rows; one a run, for one thread."""
        return Writer(self.root, run_id, interval_s)

    def records(self, columns: Sequence[str] = _ALL) -> pa.Table:
        """One row a key, ok before failed, then the latest; ordered by `finished_at` and key.

        Args:
            columns: of RECORDS; the fewer, the faster.

        Raises:
            UserError: a file is torn, foreign or of a newer schema.
        """
        read = tuple(dict.fromkeys((*_ORDER, *columns)))
        return self._consistent(lambda names: self._winners(names, read)).select(list(columns))

    def class_records(self) -> pa.Table:
        """The classes of the rows that `records` returns.

        Raises:
            UserError: as `records`.
        """
        return self._consistent(lambda names: self._classes(names, self._winners(names, _ORDER)))

    def covered(self) -> dict[Key, frozenset[str]]:
        """The keys whose row is ok, and the metrics that it covers: what a resume need not compute again.

        Raises:
            UserError: as `records`.
        """
        table = self._consistent(lambda names: self._winners(names, (*_ORDER, "metrics")))
        table = table.filter(pc.equal(table["status"], "ok"))
        words: dict[str | None, frozenset[str]] = {
            text: frozenset((text or "").split(",")) - {""} for text in table["metrics"].unique().to_pylist()
        }
        keys = zip(*(table[name].to_pylist() for name in KEY), strict=True)
        return {key: words[text] for key, text in zip(keys, table["metrics"].to_pylist(), strict=True)}

    def compact(self, above: int = 1) -> None:
        """Merge all files into one pair if there are more than `above`, dropping rows that are superseded.

        The merged pair is committed under a fresh name before the first old file goes, and of an old pair the records
        go first. So whenever it dies, every row is in a committed file; and as only files are deleted that were read
        and merged, what others commit meanwhile stays.

        Raises:
            UserError: as `records`; nothing has been deleted then.
        """

        def read(names: list[str]) -> tuple[list[str], pa.Table, pa.Table]:
            winners = self._winners(names, _ALL)
            return names, winners.drop_columns(_FILE), self._classes(names, winners)

        if len(self._names()) <= above:
            return
        names, records, classes = self._consistent(read)
        commit(self.root, f"compacted-{uuid.uuid4().hex[:16]}-000000.parquet", records, classes)
        for name in names:
            for kind in ("records", "class_records"):
                with suppress(FileNotFoundError):  # another driver compacts too
                    storage.remove(storage.join(self.root, kind, name))
        del records, classes
        pa.default_memory_pool().release_unused()  # else a run keeps what the merge took for as long as it lasts

    def write_run(self, run_id: str, facts: dict[str, Any]) -> None:
        """Write `runs/<run_id>.json`, which only that run writes: `facts` and the run's id."""
        self._write_json(f"runs/{run_id}.json", {**facts, "run_id": run_id})

    def runs(self) -> list[dict[str, Any]]:
        """What the runs wrote about themselves, ordered by id.

        Raises:
            UserError: a file is not JSON or of a newer schema.
        """
        names = storage.list_files(storage.join(self.root, "runs"), ".json")
        return [self._read_json(f"runs/{name}") for name in names if name != LEASE_NAME]

    def write_job(self, job: dict[str, Any]) -> None:
        """Write `run.json`: the job and the ids of the runs so far; derived, for whoever looks into the folder."""
        self._write_json("run.json", {"job": job, "runs": [run["run_id"] for run in self.runs()]})

    def job(self) -> dict[str, Any]:
        """The job that `run.json` holds.

        Raises:
            UserError: there is none, or it is of a newer schema.
        """
        job: dict[str, Any] = self._read_json("run.json")["job"]
        return job

    def _names(self) -> list[str]:
        """The committed files. Two equal listings, as one may miss both the old file and the new of a compaction."""
        folder = storage.join(self.root, "records")
        names = storage.list_files(folder, ".parquet")
        while (again := storage.list_files(folder, ".parquet")) != names:
            names = again
        return names

    def _consistent(self, read: Callable[[list[str]], T]) -> T:
        """Read the committed files, again from the start if a compaction took one away meanwhile."""
        names = self._names()
        while True:
            try:
                return read(names)
            except FileNotFoundError as error:
                again = self._names()
                if again == names:
                    missing = f"{self.root}: a file of a committed pair is missing ({error})"
                    raise UserError(f"{missing}: delete its namesake in records/, then run the job again") from None
                names = again

    def _winners(self, names: list[str], columns: tuple[str, ...]) -> pa.Table:
        """The given columns of one row a key, and the number of the file that each is from."""
        tables = [self._read("records", name, columns) for name in names]
        files = [pa.array([number] * len(table), pa.int64()) for number, table in enumerate(tables)]
        empty = _project(_SCHEMAS["records"], columns).empty_table()
        table = pa.concat_tables([empty, *tables]).append_column(_FILE, pa.chunked_array(files, pa.int64()))
        return latest(table)

    def _classes(self, names: list[str], winners: pa.Table) -> pa.Table:
        """The class rows of the winning records, each from the file of its record."""
        tables = [_SCHEMAS["class_records"].empty_table()]
        for number, name in enumerate(names):
            wanted = winners.filter(pc.equal(winners[_FILE], number))
            if len(wanted):
                table = self._read("class_records", name, tuple(column.name for column in CLASS_RECORDS))
                tables.append(table.filter(pc.is_in(_commit_text(table), value_set=_commit_text(wanted))))
        return pa.concat_tables(tables)

    def _read(self, kind: str, name: str, columns: tuple[str, ...]) -> pa.Table:
        """Some columns of one file in the present schema; what an older one lacks is null."""
        path = storage.join(self.root, kind, name)
        schema = _project(_SCHEMAS[kind], columns)
        content = storage.read_bytes(path)
        try:
            file = pq.ParquetFile(pa.BufferReader(content))
            present = file.schema_arrow
            _check_version(path, int((present.metadata or {})[VERSION_FIELD]))
            table = file.read([name for name in schema.names if name in present.names], use_threads=False)
            for field in schema:
                if field.name not in table.column_names:
                    table = table.append_column(field, pa.nulls(len(table), field.type))
            return table.select(schema.names).cast(schema)
        except (pa.ArrowException, KeyError, ValueError, OSError) as error:
            why = " ".join(str(error).split())
            raise UserError(
                f"{path}: expected a Parquet file of results, got one that cannot be read ({type(error).__name__}: "
                f"{why}): restore it, or delete it in records/ and class_records/ and run the job again"
            ) from error

    def _write_json(self, name: str, content: dict[str, Any]) -> None:
        text = json.dumps({**content, "schema_version": SCHEMA_VERSION}, indent=2)
        storage.write_atomic(storage.join(self.root, name), text.encode())

    def _read_json(self, name: str) -> dict[str, Any]:
        path = storage.join(self.root, name)
        try:
            content: dict[str, Any] = json.loads(storage.read_bytes(path))
            version = int(content["schema_version"])
        except FileNotFoundError:
            raise UserError(f"{path}: expected a result store, found no such file: check the path") from None
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}: expected JSON that a run wrote, got something else ({error}): restore or delete it"
            ) from None
        _check_version(path, version)
        return content


def index_keys(index: Mapping[str, Any]) -> set[Key]:
    """The keys that a grid's index stands for.

    Args:
        index: from `Grid.index`; a store's job holds it. A cell with `cases` of its own has only those.
    """
    return {
        (cell["cell_id"], case_key, target)
        for cell in index["cells"]
        for case_key in (cell["cases"] if "cases" in cell else index["cases"][cell["dataset"]])
        for target in cell["targets"]
    }


def latest(table: pa.Table) -> pa.Table:
    """One row a key: ok before failed, then the latest `finished_at` (equal: the larger `run_id`).

    Args:
        table: rows of `records` with at least the key, `status`, `finished_at` and `run_id`; from one store or several.

    Returns:
        The rows that win, ordered by `finished_at` and key.
    """
    keys = [(name, "ascending") for name in KEY]
    best_first = [("status", "descending"), ("finished_at", "descending"), ("run_id", "descending")]  # "ok" > "failed"
    # Only what rows are ordered by is moved about, and the wide table taken from once, as it may be large.
    rows = pc.sort_indices(table, sort_keys=[*keys, *best_first])
    narrow = table.select([*KEY, "finished_at"]).take(rows).combine_chunks()
    if len(narrow) > 1:
        changes = [pc.not_equal(narrow[name][1:], narrow[name][:-1]) for name in KEY]
        first = pa.chunked_array([pa.array([True]), *reduce(pc.or_, changes).chunks]).combine_chunks()
        rows, narrow = rows.filter(first), narrow.filter(first)
    return table.take(rows.take(pc.sort_indices(narrow, sort_keys=[("finished_at", "ascending"), *keys])))


def _project(schema: pa.Schema, columns: Sequence[str]) -> pa.Schema:
    return pa.schema([schema.field(name) for name in columns], metadata=schema.metadata)


def _commit_text(table: pa.Table) -> pa.ChunkedArray:
    """A text a row that says which execution of which key it belongs to."""
    microseconds = table["finished_at"].cast(pa.int64())  # spelling a time out takes ten times as long
    parts = [microseconds if name == "finished_at" else table[name] for name in COMMIT]
    return pc.binary_join_element_wise(*(part.cast(pa.string()) for part in parts), "/")


def _check_version(path: str, version: int) -> None:
    if version > SCHEMA_VERSION:
        raise UserError(
            f"{path}: expected results of schema version {SCHEMA_VERSION} or older, got {version}: update freqbench"
        )
