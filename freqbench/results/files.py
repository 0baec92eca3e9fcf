"""Lists and reads the committed files of a store, several at once if the store is remote."""

import re
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from os import SEEK_END
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fsspec.spec import AbstractBufferedFile
from numpy.typing import NDArray

from freqbench.core.documents import object_of
from freqbench.core.errors import UserError, one_line
from freqbench.core.files import storage
from freqbench.results.nested import coded_schema, coded_texts, leaves_of
from freqbench.results.schema import CLASSES, ROWS, SCHEMA_VERSION, VERSION_FIELD
from freqbench.results.writer import MAX_RECORDS

Item = TypeVar("Item")
T = TypeVar("T")
MERGED_PREFIX = "compacted-"
OWN_NAME = re.compile(r".+-\d{6,}\.parquet")  # name of a run's or merge's file, with its number
AT_ONCE = 16
PIECE_VALUES = 2**15  # of a column, in a piece of a file
LEAVES = leaves_of(ROWS)

# What a file may become in memory, by its bytes on disk: real ones take tens of bytes a row, and unpack to a few times
# their size, but one page of a stranger may stand for any number of rows, or of copies of a long text.
_BYTES_A_ROW = 16
_MOST_CLASSES = 256
_OWN_BYTES = 2**23
_UNPACKED = 32
_ENCODINGS = {"PLAIN", "RLE", "BIT_PACKED", "PLAIN_DICTIONARY", "RLE_DICTIONARY"}  # none repeats a part of a text
_FOREIGN = "freqbench did not write it: restore it, or move it away"


class VersionError(UserError):
    """Raised for results of another schema version than the present one."""


class Files:
    """The files below `root` that hold rows, and their reading: a run's own whole, a merged one by the requested
    columns. A missing file raises FileNotFoundError; a torn, foreign or other one UserError."""

    def __init__(self, root: str) -> None:
        self.root = root

    def names(self) -> list[str]:
        """Lists the committed files, until two lists are equal: one may miss both a file that is merged and the new."""
        names = self.list_once()
        again = self.list_once()
        while again != names:
            names = again
            again = self.list_once()
        return names

    def list_once(self) -> list[str]:
        """Lists the committed files in one look: one that is merged meanwhile may be missing."""
        return storage.list_files(storage.join(self.root, "records"), ".parquet")

    def consistent(self, read: Callable[[list[str]], T]) -> T:
        """Returns the result of `read` for the committed files; calls it again if a compaction removed one."""
        names = self.names()
        while True:
            try:
                return read(names)
            except FileNotFoundError as error:
                before = names
                names = self.names()
                if before == names:
                    raise UserError(f"{self.root}: a file is listed but missing: move it away ({error})") from None

    def each(self, work: Callable[[Item], T], items: Iterable[Item]) -> Iterator[T]:
        """Maps `work` in order as `map` does; if the store is remote, works on the next few items meanwhile."""
        if storage.is_local(self.root):
            yield from map(work, items)
            return
        waiting = deque[Any]()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) == AT_ONCE:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def open(self, name: str) -> Any:
        """Opens the file `name` for `pieces`: its content, or for a merged file a handle that reads the requested
        ranges."""
        path = storage.join(self.root, "records", name)
        if name.startswith(MERGED_PREFIX):
            return _Ranges(None, path, cache_type="none", size=storage.size(path))
        return pa.BufferReader(storage.read_bytes(path))

    def columns(self, name: str, columns: Collection[str]) -> pa.Table:
        """Reads some columns of the file `name`, texts as codes; those of classes are `classes.NAME`."""
        schema = coded_schema(columns)
        return pa.concat_tables([*self.pieces(name, self.open(name), schema)] or [schema.empty_table()])

    def pieces(
        self, name: str, source: Any, schema: pa.Schema = ROWS, keep: NDArray[np.bool_] | None = None
    ) -> Iterator[pa.Table]:
        """Yields the columns in `schema` of the file `name`, by some rows, or those of the mask `keep` `[rows]`;
        `source`, from `open`, is closed at the end."""
        with source, self._explain_errors(name) as path:
            file, most, values = _open_parquet(source, path, schema)
            num_rows = file.metadata.num_rows
            rows = max(1, PIECE_VALUES * num_rows // max(values, 1))
            start = 0
            for group in range(file.num_row_groups):  # Arrow reads codes of nested texts of one group at a time alone
                for batch in file.iter_batches(rows, row_groups=[group], columns=leaves_of(schema), use_threads=False):
                    piece = _whole(pa.Table.from_batches([batch]).select(schema.names), schema, path, most)
                    yield piece if keep is None else piece.filter(pa.array(keep[start : start + len(piece)]))
                    start += len(piece)
            if start != num_rows:  # Arrow ends where a column does
                raise pa.ArrowInvalid(f"{start} of {num_rows} rows")

    def schema(self, name: str, source: Any = None) -> pa.Schema:
        """Returns all columns of the file `name`, whether or not rows have them; `source` from `open` stays open, None:
        it is opened here."""
        with nullcontext(source) if source else self.open(name) as file, self._explain_errors(name) as path:
            return _check_schema(pq.read_schema(file), path)

    def remove(self, names: Iterable[str]) -> None:
        """Removes the files `names`; ignores those that another driver has removed."""

        def remove_file(name: str) -> None:
            with suppress(FileNotFoundError):
                storage.remove(storage.join(self.root, "records", name))

        deque(self.each(remove_file, names), maxlen=0)

    def read_json(self, name: str) -> dict[str, Any]:
        """Reads a JSON file that a run wrote."""
        path = storage.join(self.root, name)
        try:
            packed = storage.read_bytes(path)
        except FileNotFoundError:
            raise UserError(f"{path}: expected a result store, found no such file: check the path") from None
        try:
            content = object_of(packed, path)
            version = content["schema_version"]
        except (ValueError, KeyError) as error:
            got = f"got something else ({str(error).removeprefix(f'{path}: ')})"
            raise UserError(f"{path}: expected JSON that a run wrote, {got}: {self.remedy(name)}") from None
        _check_version(path, version)
        return content

    def remedy(self, name: str) -> str:
        """Returns what to do about a JSON file of a run, which checks of a store need, that is damaged or lost."""
        if name == "run.json":
            return "restore it, or move it away and run the job again"
        is_merged = any(each.startswith(MERGED_PREFIX) for each in self.names())
        file = "*" if is_merged else f"{name.removeprefix('runs/').removesuffix('.json')}-*"
        return f"restore it, or move what is left of it and records/{file} away and run the job again"

    @contextmanager
    def _explain_errors(self, name: str) -> Iterator[str]:
        path = storage.join(self.root, "records", name)
        try:
            yield path
        except UserError:
            raise
        except (pa.ArrowException, KeyError, ValueError, OSError) as error:
            if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
                raise  # an error of the file system, not of Arrow: the file is missing or out of reach, but not damaged
            why = f"{type(error).__name__}: {one_line(error)}"
            got = f"got one that cannot be read ({why}): restore it, or move it out of records/ and run the job again"
            raise UserError(f"{path}: expected a Parquet file of results, {got}") from error


class _Ranges(AbstractBufferedFile):  # type: ignore[misc]  # fsspec has no types
    """One object that is read in ranges, on demand."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        return storage.read_range(self.path, start, end)


def _open_parquet(source: Any, path: str, schema: pa.Schema) -> tuple[pq.ParquetFile, int, int]:
    """Opens a file with page checksums, texts as codes; returns also the most bytes of texts and values of a column."""
    meta = pq.read_metadata(source)
    _check_schema(meta.schema.to_arrow_schema(), path)
    present = {meta.schema.column(number).path for number in range(meta.num_columns)}
    if missing := [name for name in LEAVES if name not in present]:
        expected = f"expected the columns of schema version {SCHEMA_VERSION}, got no {missing[0]}"
        raise UserError(f"{path}: {expected}: {_FOREIGN}")
    size = source.seek(0, SEEK_END)
    most = _OWN_BYTES + _UNPACKED * size
    text, values = _require_small(meta, path, {*leaves_of(schema)}, MAX_RECORDS + size // _BYTES_A_ROW, most)
    file = pq.ParquetFile(source, metadata=meta, read_dictionary=text, pre_buffer=True, page_checksum_verification=True)
    return file, most, values


def _require_small(meta: pq.FileMetaData, path: str, leaves: set[str], rows: int, size: int) -> tuple[list[str], int]:
    """Refuses a file with too many rows, classes or bytes; returns the columns of texts, and the most values of one."""
    groups = [meta.row_group(number) for number in range(meta.num_row_groups)]
    texts: dict[str, None] = {}
    values = 0
    if (got := sum(group.num_rows for group in groups)) > rows:
        raise UserError(f"{path}: expected at most {rows:,} rows in a file of its size, got {got:,}: {_FOREIGN}")
    for group in groups:
        chunks = [group.column(number) for number in range(group.num_columns)]
        chunks = [chunk for chunk in chunks if chunk.path_in_schema in leaves]
        for chunk in chunks:
            column = chunk.path_in_schema
            is_plain = chunk.physical_type != "FIXED_LEN_BYTE_ARRAY" and _ENCODINGS.issuperset(chunk.encodings)
            most = _MOST_CLASSES if column.startswith(f"{CLASSES}.") else 1
            if not group.num_rows <= chunk.num_values <= most * group.num_rows or not is_plain:
                wanted = "a value" if most == 1 else f"at most {most} values"
                what = f"{column}: expected {wanted} a row in a usual encoding, got something else"
                raise UserError(f"{path}: {what}: {_FOREIGN}")
            if chunk.physical_type == "BYTE_ARRAY":
                texts[column] = None
        _require_bytes(sum(chunk.total_uncompressed_size for chunk in chunks), size, path)
        values += max((chunk.num_values for chunk in chunks), default=0)
    return list(texts), values


def _require_bytes(got: int, most: int, path: str) -> None:
    if got > most:
        sizes = f"{most / 2**20:.0f} MiB in memory from a file of its size, got {got / 2**20:,.0f}"
        raise UserError(f"{path}: expected at most {sizes}: {_FOREIGN}")


def _whole(table: pa.Table, schema: pa.Schema, path: str, most: int) -> pa.Table:
    """Returns a table with a schema's columns; refuses a code without a text, and texts of more than `most` bytes."""
    table.validate(full=True)
    lengths = (pc.sum(pc.binary_length(text.dictionary).take(text.indices)).as_py() for text in coded_texts(table))
    _require_bytes(sum(map(int, filter(None, lengths))), most, path)
    return table.select(schema.names).cast(schema)


def _check_schema(schema: pa.Schema, path: str) -> pa.Schema:
    _check_version(path, (schema.metadata or {})[VERSION_FIELD].decode())
    return schema


def _check_version(path: str, version: object) -> None:
    if str(version) == str(SCHEMA_VERSION):
        return
    number = re.match(r"\d{1,9}", str(version))
    what = "written by a newer freqbench: update this one; nothing was changed"
    if number and int(number[0]) < SCHEMA_VERSION:
        what = "written by an older freqbench: run the job again, into a new folder"
    raise VersionError(f"{path}: expected results of schema version {SCHEMA_VERSION}, got {version!s:.40}, {what}")
