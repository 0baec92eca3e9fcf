"""Reads the files of a store once, and keeps the facts that its checks need.

One row group is in memory at a time. Later checks use 64-bit hashes of keys, eight megabytes for a
million of them: two of a million differ and share one with a probability of 3e-8 (n^2 / 2^65).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from freqbench.audit.arrays import Hashes, Mask, among, floats, hash_rows, is_ok, valid
from freqbench.audit.store_checks import NEEDED, ClassSums, Findings, check_columns, check_words
from freqbench.core.errors import UserError
from freqbench.results.files import SCHEMAS, Files, VersionError, coded_schema
from freqbench.results.schema import CLASS_RECORDS, COMMIT, KEY, LATER, RECORDS
from freqbench.results.tolerances import EXACT, TOLERANCES

MOST_DOUBLES = 200_000  # most rows of repeated keys to compare: some 100 MB
MOST_KINDS = 100_000  # most settings of cells, and most origins of rows, to keep

CELL = (
    *("cell_id", "source_model_id", "attack", "variant", "budget_name", "budget", "threat_model", "seed"),
    *("precision", "compile", "num_classes", "params"),
)
ORIGIN = ("run_id", "dataset", "case_id", "case_key", "source_model_id", "target_model_id")
SCORES = tuple(column.name for column in RECORDS if column.mark == "result" and not pa.types.is_string(column.type))

Row = dict[str, Any]


class Survey:
    """A store's files, each read once, and the facts in them that later checks need.

    Of each record `keys` has a hash of KEY, `volumes` one of its cell and case, and `is_ok` whether its row is ok.
    `cells` are the distinct settings of cells, columns CELL, `origins` the runs, cases and models, columns ORIGIN, both
    sorted; `left_out` counts those beyond MOST_KINDS. `findings` takes errors of files, schema, values, classes.

    Raises a UserError if another release wrote the store, or it changes while it is read.
    """

    def __init__(self, root: str, metrics: Mapping[str, Sequence[str]], findings: Findings) -> None:
        self._files, self._metrics, self._findings = Files(root), metrics, findings
        self._cells: dict[int, Row] = {}
        self._origins: dict[int, Row] = {}
        nothing = np.zeros(0, np.uint64)
        self._parts: list[tuple[Hashes, Hashes, Mask, NDArray[np.int32]]] = [
            (nothing, nothing, np.zeros(0, np.bool_), np.zeros(0, np.int32))
        ]
        self.names = self._files.names()
        self.counts = dict.fromkeys(SCHEMAS, 0)
        self.left_out = 0
        for number, name in enumerate(self.names):
            try:
                are_whole = [self._has_columns(kind, name) for kind in SCHEMAS]  # reports both
                if all(are_whole):
                    self._read_pair(number, name)
            except FileNotFoundError:
                raise UserError(f"{root}: changes while it is read: verify it when no run goes on") from None
            except VersionError:
                raise
            except UserError as error:
                findings.wrong("files", str(error))
        self.keys, self.volumes, self.is_ok, self._file = map(np.concatenate, zip(*self._parts, strict=True))
        self._parts.clear()
        for name in self._files.halves:
            self._tell_lacking(name)

        def nulls_last(row: Row) -> list[tuple[bool, Any]]:
            return [(value is None, value) for value in row.values()]

        self.cells, self.origins = (sorted(kinds.values(), key=nulls_last) for kinds in (self._cells, self._origins))

    @np.errstate(invalid="ignore")
    def compare_doubles(self) -> str:
        """Compares the ok rows of each repeated key (`doubles`); returns a sentence on them.

        Two copies of one execution must be equal to the bit, others within the tolerances.
        """
        ok = np.flatnonzero(self.is_ok)
        ok = ok[np.argsort(self.keys[ok], kind="stable")]
        is_repeated = self.keys[ok][1:] == self.keys[ok][:-1]
        is_double = np.append(is_repeated, False) | np.insert(is_repeated, 0, False)
        chosen = ok[is_double[: len(ok)]]
        count = len(chosen) - int(is_repeated.sum())
        if not count:
            return "no key has two rows that are ok"
        rows = self._rows_of(chosen[:MOST_DOUBLES])
        before, after = rows.slice(0, len(rows) - 1), rows.slice(1)
        keys, executions = hash_rows(rows, KEY), hash_rows(rows, COMMIT)
        is_pair, is_copy = keys[1:] == keys[:-1], executions[1:] == executions[:-1]
        for name in SCORES:
            one, other = floats(before[name]), floats(after[name])
            tolerance = TOLERANCES["records"].get(name, EXACT)
            absolute, relative = (np.where(is_copy, 0.0, part) for part in (tolerance.absolute, tolerance.relative))
            agrees = np.isclose(other, one, rtol=relative, atol=absolute, equal_nan=True)
            differs = is_pair & valid(before[name]) & valid(after[name]) & ~agrees
            text, what = f"{name}: {{:g}} and {{:g}} (the latest counts)", "pairs of rows of one key"
            self._findings.wrong_rows("doubles", "", after, differs, text, one, other, what=what)
        rest = f"; {len(chosen) - MOST_DOUBLES} of their rows were not compared" if len(chosen) > MOST_DOUBLES else ""
        return f"{count} keys have several rows that are ok, and they agree: the latest counts{rest}"

    def _rows_of(self, chosen: NDArray[np.int64]) -> pa.Table:
        """Reads the rows that share a key with the chosen records, those of a key together, in order of time."""
        wanted, tables = np.unique(self.keys[chosen]), []
        for number in np.unique(self._file[chosen]):
            columns = (*KEY, "run_id", "finished_at", "status", *SCORES)
            table = self._files.columns("records", self.names[number], columns)
            tables.append(table.filter(pa.array(is_ok(table) & among(hash_rows(table, KEY), wanted))))
        rows = pa.concat_tables(tables).unify_dictionaries()
        finished = rows["finished_at"].cast(pa.int64()).to_numpy()
        return rows.take(pa.array(np.lexsort((finished, hash_rows(rows, KEY)))))

    def _read_pair(self, number: int, name: str) -> None:
        """Reads both files; the classes of a pair that cannot be read to its end are not compared."""
        where = f"records/{name}: "
        needed = [coded_schema("records", NEEDED).empty_table()]
        for rows in self._pieces("records", name):
            check_columns(RECORDS, rows, where, "rows", self._findings)
            check_words(rows, where, self._metrics, self._findings)
            self._keep_kinds(rows, CELL, self._cells)
            self._keep_kinds(rows, ORIGIN, self._origins)
            file = np.full(len(rows), number, np.int32)
            self._parts.append((hash_rows(rows, KEY), hash_rows(rows, ("cell_id", "case_key")), is_ok(rows), file))
            needed.append(rows.select(list(NEEDED)))
        sums = ClassSums(pa.concat_tables(needed).unify_dictionaries())
        for rows in self._pieces("class_records", name):
            check_columns(CLASS_RECORDS, rows, f"class_records/{name}: ", "rows of classes", self._findings)
            sums.add(rows)
        sums.compare(where, self._findings)

    def _pieces(self, kind: str, name: str) -> Iterable[pa.Table]:
        """Yields a file in pieces, all columns, texts as codes."""
        schema = coded_schema(kind, SCHEMAS[kind].names)
        for piece in self._files.pieces(kind, name, self._files.open(kind, name), schema):
            self.counts[kind] += len(piece)
            yield piece

    def _keep_kinds(self, rows: pa.Table, columns: Sequence[str], kinds: dict[int, Row]) -> None:
        """Keeps one row of each kind, the distinct values of some columns, while there is room."""
        hashes, places = np.unique(hash_rows(rows, columns), return_index=True)
        new = [(kind, at) for kind, at in zip(hashes.tolist(), places.tolist(), strict=True) if kind not in kinds]
        added = new[: max(0, MOST_KINDS - len(kinds))]
        self.left_out += len(new) - len(added)
        contents = rows.select(list(columns)).take(pa.array([at for _, at in added], pa.int64())).to_pylist()
        kinds |= {kind: row for (kind, _), row in zip(added, contents, strict=True)}

    def _tell_lacking(self, name: str) -> None:
        """Reports a records file without classes, unless pairs have all its ok records too."""
        try:
            rows = self._files.columns("records", name, (*KEY, "status"))
        except UserError as error:
            self._findings.wrong("files", str(error))
            return
        if lost := int((is_ok(rows) & ~among(hash_rows(rows, KEY), np.unique(self.keys[self.is_ok]))).sum()):
            text = f"missing, so that {lost} records do not count: restore it, or give the same run command again"
            rest = f"if another job made them, move records/{name} away"
            self._findings.wrong("files", f"class_records/{name}: {text}; {rest}")

    def _has_columns(self, kind: str, name: str) -> bool:
        """True if a file can be read by the documented columns; reports columns that are not as documented."""
        spec, actual = SCHEMAS[kind], self._files.schema(kind, name)
        missing = [column for column in spec.names if column not in actual.names and column not in LATER]
        misfits = [field for field in actual if field.name in spec.names and field.type != spec.field(field.name).type]
        wrong = [f"no column {column}" for column in missing]
        wrong += [f"column {column}, which is not documented" for column in actual.names if column not in spec.names]
        wrong += [f"{field.name}: {field.type} in place of {spec.field(field.name).type}" for field in misfits]
        for text in wrong:
            self._findings.wrong("schema", f"{kind}/{name}: {text}")
        return not missing and not misfits
