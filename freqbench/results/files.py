"""Lists and reads the committed files of a store, several at once if the store is remote."""

import re
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from os import SEEK_END
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fsspec.spec import AbstractBufferedFile

from freqbench.core.documents import object_of
from freqbench.core.errors import UserError, one_line
from freqbench.core.files import storage
from freqbench.results.schema import CLASS_RECORDS, LATER, RECORDS, SCHEMA_VERSION, VERSION_FIELD, arrow_schema
from freqbench.results.writer import MAX_RECORDS

Item = TypeVar("Item")
T = TypeVar("T")

SCHEMAS: Mapping[str, pa.Schema] = {"records": arrow_schema(RECORDS), "class_records": arrow_schema(CLASS_RECORDS)}
MERGED_PREFIX = "compacted-"
OWN_NAME = re.compile(r".+-\d{6,}\.parquet")  # name of a run's or merge's file, with its number
AT_ONCE = 16
PIECE_ROWS = 2**15

# What a file may become in memory, by its kind and its bytes on disk: real ones take tens of bytes a row, and unpack to
# a few times their size, but one page of a stranger may stand for any number of rows, or of copies of a long text.
_OWN_ROWS: Mapping[str, int] = {"records": MAX_RECORDS, "class_records": 256 * MAX_RECORDS}
_BYTES_A_ROW: Mapping[str, int] = {"records": 16, "class_records": 1}
_OWN_BYTES, _UNPACKED = 2**23, 32
_ENCODINGS = {"PLAIN", "RLE", "BIT_PACKED", "PLAIN_DICTIONARY", "RLE_DICTIONARY"}  # none repeats a part of a text

_FOREIGN = "freqbench did not write it: restore it, or move it away"
_CODED_TEXT = pa.dictionary(pa.int32(), pa.string())


class VersionError(UserError):
    """Raised for results of another schema version than the present one."""


class Files:
    """The files below `root` that hold rows, and their reading.

    A run's own file has at most 5,000 rows and is read whole, in one request. A merged file may be large, so only the
    requested columns are read. A missing file raises FileNotFoundError; one that is torn, foreign or of another schema
    raises UserError.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self._halves: list[str] | None = None

    def names(self) -> list[str]:
        """Lists the committed pairs; `halves` lists records files whose class file is missing.

        Lists `records` before and after `class_records`: a compaction removes records first, and one listing may miss
        both the old file and the new.
        """
        folders = [storage.join(self.root, kind) for kind in SCHEMAS]
        names, classes, again = (storage.list_files(folder, ".parquet") for folder in (*folders, folders[0]))
        while again != names:
            names, classes, again = again, *(storage.list_files(folder, ".parquet") for folder in reversed(folders))
        self._halves = sorted({*names} - {*classes})
        return sorted({*names} & {*classes})

    @property
    def halves(self) -> list[str]:
        """Records files that lack their class file, from the latest listing."""
        if self._halves is None:
            self.names()
        return self._halves or []

    def consistent(self, read: Callable[[list[str]], T]) -> T:
        """Returns the result of `read` for the committed files; calls it again if a compaction removed one."""
        names = self.names()
        while True:
            try:
                return read(names)
            except FileNotFoundError as error:
                before, names = (names, self.halves), self.names()
                if before == (names, self.halves):
                    missing = f"{self.root}: a file of a committed pair is missing ({error})"
                    raise UserError(f"{missing}: move its namesake away, then run the job again") from None

    def each(self, work: Callable[[Item], T], items: Iterable[Item]) -> Iterator[T]:
        """Maps in order as `map` does; if the store is remote, works on the next few items meanwhile."""
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

    def open(self, kind: str, name: str) -> Any:
        """Opens a file for `pieces`: its content, or for a merged file a handle that reads the requested ranges."""
        path = storage.join(self.root, kind, name)
        if name.startswith(MERGED_PREFIX):
            return _Ranges(None, path, cache_type="none", size=storage.size(path))
        return pa.BufferReader(storage.read_bytes(path))

    def columns(self, kind: str, name: str, columns: Sequence[str]) -> pa.Table:
        """Reads some columns of one file, texts as codes."""
        schema = coded_schema(kind, columns)
        with self.open(kind, name) as source, self._explain_errors(kind, name) as path:
            file, most = _open_parquet(source, path, kind, schema)
            return _whole(file.read(schema.names, use_threads=False), schema, path, most)

    def pieces(self, kind: str, name: str, source: Any, schema: pa.Schema | None = None) -> Iterator[pa.Table]:
        """Yields a file from `open`, or some columns of it (`coded_schema`), by some rows; closes it at the end."""
        schema = schema or SCHEMAS[kind]
        with source, self._explain_errors(kind, name) as path:
            file, most = _open_parquet(source, path, kind, schema)
            for batch in file.iter_batches(PIECE_ROWS, columns=schema.names, use_threads=False):
                yield _whole(pa.Table.from_batches([batch]), schema, path, most)

    def schema(self, kind: str, name: str, source: Any = None) -> pa.Schema:
        """Returns all columns of a file, whether or not `kind` has them; `source` from `open` stays open."""
        with nullcontext(source) if source else self.open(kind, name) as file, self._explain_errors(kind, name) as path:
            return _check_schema(pq.read_schema(file), path)

    def remove(self, kind: str, names: Iterable[str]) -> None:
        """Removes files; ignores those that another driver has removed."""

        def remove_file(name: str) -> None:
            with suppress(FileNotFoundError):
                storage.remove(storage.join(self.root, kind, name))

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
        """Returns what to do about a JSON file of a run, which `audit --files` needs, that is damaged or lost."""
        if name == "run.json":
            return "restore it, or move it away and run the job again"
        is_merged = any(pair.startswith(MERGED_PREFIX) for pair in self.names())
        file = "*" if is_merged else f"{name.removeprefix('runs/').removesuffix('.json')}-*"
        rows = f"records/{file} and class_records/{file}"
        return f"restore it, or move what is left of it, {rows} away and run the job again"

    @contextmanager
    def _explain_errors(self, kind: str, name: str) -> Iterator[str]:
        path = storage.join(self.root, kind, name)
        try:
            yield path
        except UserError:
            raise
        except (pa.ArrowException, KeyError, ValueError, OSError) as error:
            if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
                raise  # an error of the file system, not of Arrow: the file is missing or out of reach, but not damaged
            why = f"{type(error).__name__}: {one_line(error)}"
            raise UserError(
                f"{path}: expected a Parquet file of results, got one that cannot be read ({why}): restore it, or move "
                "it out of records/ and class_records/ and run the job again"
            ) from error


class _Ranges(AbstractBufferedFile):  # type: ignore[misc]  # fsspec has no types
    """One object that is read in ranges, on demand."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        return storage.read_range(self.path, start, end)


def _open_parquet(source: Any, path: str, kind: str, schema: pa.Schema) -> tuple[pq.ParquetFile, int]:
    """Opens a file and verifies its page checksums while reading, so that a flipped bit raises an error.

    Texts are read as codes. Returns also the most bytes that its texts may have once they are none.
    """
    metadata = pq.read_metadata(source)
    present = set(_check_schema(metadata.schema.to_arrow_schema(), path).names)
    if missing := [name for name in SCHEMAS[kind].names if name not in {*present, *(later.name for later in LATER)}]:
        raise UserError(
            f"{path}: expected the columns of schema version {SCHEMA_VERSION}, got no {missing[0]}, as releases before "
            "it wrote: run the job again into a new store"
        )
    size = source.seek(0, SEEK_END)
    most = _OWN_BYTES + _UNPACKED * size
    texts = _require_small(metadata, path, {*schema.names}, _OWN_ROWS[kind] + size // _BYTES_A_ROW[kind], most)
    file = pq.ParquetFile(
        source, metadata=metadata, read_dictionary=texts, pre_buffer=True, page_checksum_verification=True
    )
    return file, most


def _require_small(metadata: pq.FileMetaData, path: str, columns: Container[str], rows: int, size: int) -> list[str]:
    """Refuses a file of which some columns may have more rows, or a row group more bytes; returns those of texts."""
    groups, texts = [metadata.row_group(number) for number in range(metadata.num_row_groups)], dict[str, None]()
    if (got := sum(group.num_rows for group in groups)) > rows:
        raise UserError(f"{path}: expected at most {rows:,} rows in a file of its size, got {got:,}: {_FOREIGN}")
    for group in groups:
        chunks = [group.column(number) for number in range(group.num_columns)]
        chunks = [chunk for chunk in chunks if chunk.path_in_schema.partition(".")[0] in columns]
        for chunk in chunks:
            is_plain = chunk.physical_type != "FIXED_LEN_BYTE_ARRAY" and _ENCODINGS.issuperset(chunk.encodings)
            if chunk.num_values != group.num_rows or not is_plain:
                what = f"{chunk.path_in_schema:.40}: expected a value a row in a usual encoding, got something else"
                raise UserError(f"{path}: {what}: {_FOREIGN}")
            if chunk.physical_type == "BYTE_ARRAY":
                texts[chunk.path_in_schema] = None
        _require_bytes(sum(chunk.total_uncompressed_size for chunk in chunks), size, path)
    return list(texts)


def _require_bytes(got: int, most: int, path: str) -> None:
    if got > most:
        sizes = f"{most / 2**20:.0f} MiB in memory from a file of its size, got {got / 2**20:,.0f}"
        raise UserError(f"{path}: expected at most {sizes}: {_FOREIGN}")


def _whole(table: pa.Table, schema: pa.Schema, path: str, most: int) -> pa.Table:
    """Returns a table with the columns of a schema, those of LATER null where they are missing.

    Raises pa.ArrowInvalid for a code that stands for no text, UserError for texts that have more than `most` bytes.
    """
    table.validate(full=True)
    chunks = [chunk for column in table.columns if pa.types.is_dictionary(column.type) for chunk in column.chunks]
    lengths = (pc.sum(pc.binary_length(chunk.dictionary).take(chunk.indices)).as_py() for chunk in chunks)
    _require_bytes(sum(map(int, filter(None, lengths))), most, path)
    for name in (column.name for column in LATER):
        if name in schema.names and name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table), schema.field(name).type))
    return table.select(schema.names).cast(schema)


def coded_schema(kind: str, columns: Sequence[str]) -> pa.Schema:
    """Returns the schema of some columns with texts as codes: a tenth of the memory, and half the reading time."""
    fields = [SCHEMAS[kind].field(column) for column in columns]
    return pa.schema([field.with_type(_CODED_TEXT) if pa.types.is_string(field.type) else field for field in fields])


def _check_schema(schema: pa.Schema, path: str) -> pa.Schema:
    _check_version(path, (schema.metadata or {})[VERSION_FIELD].decode())
    return schema


def _check_version(path: str, version: object) -> None:
    if str(version) == str(SCHEMA_VERSION):
        return
    number = re.match(r"\d{1,9}", str(version))
    what = "written by a newer freqbench: update this one; nothing was changed"
    if number and int(number[0]) < SCHEMA_VERSION:
        what = "written by an older freqbench: run the job again into a new store"
    raise VersionError(f"{path}: expected results of schema version {SCHEMA_VERSION}, got {version!s:.40}, {what}")
