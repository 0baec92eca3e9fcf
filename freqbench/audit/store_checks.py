"""Reads the files of a store once, and tells which rows contradict their columns, their classes or each other.

One row group is in memory at a time. What later checks ask is kept as 64-bit hashes of keys, eight megabytes for a
million of them: two of a million differ and share one with a probability of 3e-8 (n^2 / 2^65).
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from freqbench.audit.arrays import Floats, Hashes, Mask, among, floats, hash_rows, is_ok, valid
from freqbench.core.documents import object_of
from freqbench.core.errors import UserError
from freqbench.results.files import SCHEMAS, Files, VersionError, coded_schema
from freqbench.results.rowid import row_id
from freqbench.results.schema import CLASS_RECORDS, COMMIT, KEY, LATER, RECORDS, Column
from freqbench.results.tolerances import EXACT, TOLERANCES
from freqbench.results.winners import Words

MOST_EXAMPLES = 3
MOST_DOUBLES = 200_000  # rows of keys with several that are compared at most: some 100 MB
MOST_KINDS = 100_000  # settings of cells, and origins of rows, that are kept at most

CELL = (
    *("cell_id", "source_model_id", "attack", "variant", "budget_name", "budget", "threat_model", "seed"),
    *("precision", "compile", "num_classes", "params"),
)
ORIGIN = ("run_id", "dataset", "case_id", "case_key", "source_model_id", "target_model_id")
SCORES = tuple(column.name for column in RECORDS if column.mark == "result" and not pa.types.is_string(column.type))

Row = dict[str, Any]
Verdict = Literal["ok", "wrong", "not checked"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check of a store: `not checked` where what it needs is not there."""

    name: str
    verdict: Verdict
    text: str


class Findings:
    """What is wrong, by check: the first few places and how many more."""

    def __init__(self) -> None:
        self._wrong: dict[str, list[str]] = {}
        self._counts = Counter[str]()

    def wrong(self, name: str, text: str) -> None:
        """Something is wrong."""
        self._counts[name] += 1
        if self._counts[name] <= MOST_EXAMPLES:
            self._wrong.setdefault(name, []).append(text)

    def wrong_rows(
        self, name: str, where: str, rows: pa.Table, mask: Mask, text: str, *values: Floats, what: str = "rows"
    ) -> None:
        """Rows that a mask `[rows]` has any of are wrong: how many, and the first by its id.

        The text's braces are for what `values`, `[rows]` each, are there.
        """
        if mask.any():
            first = int(mask.argmax())
            key = [str(rows[column][first].as_py()) for column in KEY]
            text = text.format(*(each[first] for each in values))
            self.wrong(name, f"{where}{text} in {int(mask.sum())} {what}, first of row {row_id(*key)}")

    def check(self, name: str, ok: str, missing: str = "") -> Check:
        """The verdict of a check: `ok` is said if nothing is wrong, `missing` if it could not be made."""
        if texts := self._wrong.get(name):
            rest = self._counts[name] - len(texts)
            more = f"; and {rest} more like these" if rest else ""
            return Check(name=name, verdict="wrong", text="; ".join(texts) + more)
        return Check(name=name, verdict="not checked" if missing else "ok", text=missing or ok)


# Values of single rows

SLACK = 1e-6  # beyond a range: rounding
_POSITIVE = ("voxels", "mm", "count", "bytes", "s", "distance", "ratio", "intensity 0..1", "the data's unit")
UNITS: Mapping[str, tuple[float, float]] = {
    "fraction": (0.0, 1.0),
    "1 - distance": (-math.inf, 1.0),
    **dict.fromkeys(_POSITIVE, (0.0, math.inf)),
}
COLUMNS: Mapping[str, tuple[float, float]] = {"ssim": (-1.0, 1.0), "ssim_body": (-1.0, 1.0), "linf": (0.0, 1.0)}
INFINITE = ("psnr", "seam_energy")  # of volumes that are equal, and of a change within one voxel of a seam


def _check_columns(columns: Sequence[Column], rows: pa.Table, where: str, what: str, findings: Findings) -> None:
    for column in columns:
        name, values = column.name, rows[column.name]
        if column.required and values.null_count:
            findings.wrong_rows("values", where, rows, ~valid(values), f"{name}: null", what=what)
        if pa.types.is_floating(values.type) or pa.types.is_integer(values.type):
            low, high = COLUMNS.get(name) or UNITS.get(column.unit, (-math.inf, math.inf))
            numbers = floats(values)
            outside = (numbers < low - SLACK) | (numbers > high + SLACK)
            if name not in INFINITE:
                outside |= np.isinf(numbers)
            text = f"{name}: {{:g}} where {low:g} to {high:g} is possible"
            findings.wrong_rows("values", where, rows, outside, text, numbers, what=what)


def _check_words(rows: pa.Table, where: str, metrics: Mapping[str, Sequence[str]], findings: Findings) -> None:
    """States, errors, names of metrics, and for every score that is null a reason."""

    def tell(mask: Mask, text: str) -> None:
        findings.wrong_rows("values", where, rows, mask, text)

    status, covers, reasons = (Words(rows[name]) for name in ("status", "metrics", "null_reasons"))
    ok, failed = (status.mask([text == state for text in status.texts]) for state in ("ok", "failed"))
    has_error = valid(rows["error"])
    tell(~ok & ~failed, "status: neither ok nor failed")
    tell(failed & ~has_error, "error: none in a failed row")
    tell(ok & has_error, "error: one in a row that is ok")
    listed = [set(filter(None, (text or "").split(","))) for text in covers.texts]
    tell(covers.mask([not names <= metrics.keys() for names in listed]), "metrics: unknown")
    stated = [_reasons(text) for text in reasons.texts]
    tell(reasons.mask([each is None for each in stated]), "null_reasons: not what it is")
    for metric, columns in metrics.items():
        asked = ok & covers.mask([metric in names for names in listed])
        for name in columns:
            if rows[name].null_count:
                excused = reasons.mask([each is None or name in each for each in stated])
                tell(asked & ~valid(rows[name]) & ~excused, f"{name}: null without a reason")


def _reasons(text: str | None) -> frozenset[str] | None:
    """The columns that a row gives a reason for; None where the text is something else."""
    try:
        given = object_of(text or "{}", "null_reasons")
    except UserError:
        return None
    return frozenset(given) if given.keys() <= {column.name for column in RECORDS} else None


# Records against their classes

ROUNDING = 1e-9
_FOREGROUND = (
    *("nsd", "assd_mm", "volume_error_ml", "volume_error_relative", "component_f1"),
    *("betti0_error", "betti1_error", "betti2_error"),
)
MEANS: Mapping[str, tuple[str, int]] = {
    "dsc": ("dsc", 0),
    "dsc_clean": ("dsc_clean", 0),
    "dsc_foreground": ("dsc", 1),
    "dsc_foreground_clean": ("dsc_clean", 1),
    "hd95": ("hd95", 0),
    "hd95_clean": ("hd95_clean", 0),
    "hd95_mm": ("hd95_mm", 1),
    "hd95_mm_clean": ("hd95_mm_clean", 1),
    "hd95_medpy_mm": ("hd95_medpy_mm", 1),
    **{each: (each, 1) for name in _FOREGROUND for each in (name, f"{name}_clean")},
    "ece_foreground": ("ece", 1),
    "ece_foreground_clean": ("ece_clean", 1),
}
"""Columns of records: of which column of the classes they are the mean over defined values, and from which class on."""
UNDEFINED: Mapping[str, tuple[str, int]] = {
    "hd95_undefined_classes": ("hd95", 0),
    "nsd_undefined_classes": ("nsd", 1),
    "assd_undefined_classes": ("assd_mm", 1),
    "volume_undefined_classes": ("volume_error_ml", 1),
    "components_undefined_classes": ("component_f1", 1),
    "topology_undefined_classes": ("betti0_error", 1),
    "calibration_undefined_classes": ("ece", 1),
}
"""Columns of records: of which column of the classes they count the undefined values, and from which class on."""
COUNTS = (*UNDEFINED, "missed_classes", "hallucinated_classes")
NEEDED = (*COMMIT, "status", "num_classes", *MEANS, *COUNTS)


class _ClassSums:
    """Sums over the classes of the records of one file, columns NEEDED."""

    def __init__(self, records: pa.Table) -> None:
        self._records = records
        hashes = hash_rows(records, COMMIT)
        self._order = np.argsort(hashes, kind="stable")
        self._hashes: Hashes = hashes[self._order]
        self._sums = defaultdict[tuple[str, str], Floats](lambda: np.zeros(len(records)))
        self._orphans = 0

    def add(self, classes: pa.Table) -> None:
        """Add rows of class_records."""
        hashes = hash_rows(classes, COMMIT)
        is_known = among(hashes, self._hashes)
        if not is_known.all():
            self._orphans += int((~is_known).sum())
            classes, hashes = classes.filter(pa.array(is_known)), hashes[is_known]
        of = self._order[np.searchsorted(self._hashes, hashes)]

        def add(name: str, what: str, weights: NDArray[Any]) -> None:
            self._sums[name, what] += np.bincount(of, weights, len(self._records))

        index = pc.fill_null(classes["class_index"], -1).to_numpy()
        add("class_index", "rows", np.ones(len(index)))
        add("class_index", "squares", (index + 1.0) ** 2)
        for name, (column, first) in MEANS.items():
            if classes[column].null_count == len(classes):
                continue  # nobody asked for it
            values = floats(classes[column])
            is_defined = (index >= first) & ~np.isnan(values)
            add(name, "asked", (index >= first) & valid(classes[column]))
            add(name, "defined", is_defined)
            add(name, "total", np.where(is_defined, values, 0.0))
        label, pred = floats(classes["label_voxels"]), floats(classes["pred_voxels"])
        has_voxels, is_foreground = ~np.isnan(label) & ~np.isnan(pred), index > 0
        undefined = (
            (name, (index >= first) & valid(classes[column]), np.isnan(floats(classes[column])))
            for name, (column, first) in UNDEFINED.items()
        )
        for name, asked, counted in (
            *undefined,
            ("missed_classes", has_voxels, is_foreground & (label > 0) & (pred <= 0)),
            ("hallucinated_classes", has_voxels, is_foreground & (label <= 0) & (pred > 0)),
        ):
            add(name, "asked", asked)
            add(name, "total", asked & counted)

    @np.errstate(invalid="ignore")
    def compare(self, where: str, findings: Findings) -> None:
        """Tell of records that do not have each class once, and of means and counts that are not their classes'."""
        records, sums = self._records, self._sums
        if self._orphans:
            findings.wrong("classes", f"{where}{self._orphans} rows of classes have no record in their file")
        expected = np.where(is_ok(records), np.nan_to_num(floats(records["num_classes"])), 0.0)
        squares = expected * (expected + 1) * (2 * expected + 1) / 6  # of 1 to K: each class once
        rows = sums["class_index", "rows"]
        is_complete, is_each = rows == expected, sums["class_index", "squares"] == squares
        text = "rows of classes: {:g}, expected {:g}"
        findings.wrong_rows("classes", where, records, ~is_complete, text, rows, expected)
        findings.wrong_rows("classes", where, records, is_complete & ~is_each, "class_index: not each class once")
        is_whole = is_ok(records) & is_complete & is_each
        for name in (*MEANS, *COUNTS):
            stored = floats(records[name])
            expected = sums[name, "total"] / (sums[name, "defined"] if name in MEANS else 1.0)
            compared = is_whole & valid(records[name]) & (sums[name, "asked"] > 0)
            wrong = compared & ~np.isclose(stored, expected, rtol=ROUNDING, atol=ROUNDING, equal_nan=True)
            text = f"{name}: {{:g}}, the classes say {{:g}}"
            findings.wrong_rows("classes", where, records, wrong, text, stored, expected)


class Survey:
    """A store's files, each read once, and what of them later checks ask.

    Of each record `keys` has a hash of KEY, `volumes` one of its cell and case, and `is_ok` whether its row is ok.
    `cells` are the distinct settings of cells, columns CELL, `origins` the runs, cases and models, columns ORIGIN, both
    sorted; `left_out` counts those beyond MOST_KINDS. `findings` is told of `files`, `schema`, `values` and `classes`.

    Raises a UserError where another release wrote the store, or it changes while it is read.
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
                are_whole = [self._has_columns(kind, name) for kind in SCHEMAS]  # tells of both
                if all(are_whole):
                    self._read_pair(number, name)
            except FileNotFoundError:
                if name not in self._files.names():
                    raise UserError(f"{root}: changes while it is read: verify it when no run goes on") from None
                findings.wrong("files", f"class_records/{name}: missing, though its records are there")
            except VersionError:
                raise
            except UserError as error:
                findings.wrong("files", str(error))
        self.keys, self.volumes, self.is_ok, self._file = map(np.concatenate, zip(*self._parts, strict=True))
        self._parts.clear()

        def nulls_last(row: Row) -> list[tuple[bool, Any]]:
            return [(value is None, value) for value in row.values()]

        self.cells, self.origins = (sorted(kinds.values(), key=nulls_last) for kinds in (self._cells, self._origins))

    @np.errstate(invalid="ignore")
    def compare_doubles(self) -> str:
        """Compare the rows of a key that are ok, `doubles`; returns a sentence on what there is.

        They are equal to the bit where they are one execution in two files, else within the tolerances.
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
        """The rows of the keys of some records with what is compared, those of a key together, in their order."""
        wanted, tables = np.unique(self.keys[chosen]), []
        for number in np.unique(self._file[chosen]):
            columns = (*KEY, "run_id", "finished_at", "status", *SCORES)
            table = self._files.columns("records", self.names[number], columns)
            tables.append(table.filter(pa.array(is_ok(table) & among(hash_rows(table, KEY), wanted))))
        rows = pa.concat_tables(tables).unify_dictionaries()
        finished = rows["finished_at"].cast(pa.int64()).to_numpy()
        return rows.take(pa.array(np.lexsort((finished, hash_rows(rows, KEY)))))

    def _read_pair(self, number: int, name: str) -> None:
        """Read both files; the classes of a pair that cannot be read to its end are not compared."""
        where = f"records/{name}: "
        needed = [coded_schema("records", NEEDED).empty_table()]
        for rows in self._pieces("records", name):
            _check_columns(RECORDS, rows, where, "rows", self._findings)
            _check_words(rows, where, self._metrics, self._findings)
            self._keep_kinds(rows, CELL, self._cells)
            self._keep_kinds(rows, ORIGIN, self._origins)
            file = np.full(len(rows), number, np.int32)
            self._parts.append((hash_rows(rows, KEY), hash_rows(rows, ("cell_id", "case_key")), is_ok(rows), file))
            needed.append(rows.select(list(NEEDED)))
        sums = _ClassSums(pa.concat_tables(needed).unify_dictionaries())
        for rows in self._pieces("class_records", name):
            _check_columns(CLASS_RECORDS, rows, f"class_records/{name}: ", "rows of classes", self._findings)
            sums.add(rows)
        sums.compare(where, self._findings)

    def _pieces(self, kind: str, name: str) -> Iterable[pa.Table]:
        """A file in pieces, all columns, texts as codes."""
        schema = coded_schema(kind, SCHEMAS[kind].names)
        for piece in self._files.pieces(kind, name, self._files.open(kind, name), schema):
            self.counts[kind] += len(piece)
            yield piece

    def _keep_kinds(self, rows: pa.Table, columns: Sequence[str], kinds: dict[int, Row]) -> None:
        """Keep one row of each kind, the distinct values of some columns, while there is room."""
        hashes, places = np.unique(hash_rows(rows, columns), return_index=True)
        new = [(kind, at) for kind, at in zip(hashes.tolist(), places.tolist(), strict=True) if kind not in kinds]
        kept = new[: max(0, MOST_KINDS - len(kinds))]
        self.left_out += len(new) - len(kept)
        found = rows.select(list(columns)).take(pa.array([at for _, at in kept], pa.int64())).to_pylist()
        kinds |= {kind: row for (kind, _), row in zip(kept, found, strict=True)}

    def _has_columns(self, kind: str, name: str) -> bool:
        """Whether a file can be read by the documented columns; tells of those that are not as documented."""
        known, found = SCHEMAS[kind], self._files.schema(kind, name)
        missing = [column for column in known.names if column not in found.names and column not in LATER]
        misfits = [field for field in found if field.name in known.names and field.type != known.field(field.name).type]
        wrong = [f"no column {column}" for column in missing]
        wrong += [f"column {column}, which nobody documents" for column in found.names if column not in known.names]
        wrong += [f"{field.name}: {field.type} in place of {known.field(field.name).type}" for field in misfits]
        for text in wrong:
            self._findings.wrong("schema", f"{kind}/{name}: {text}")
        return not missing and not misfits
