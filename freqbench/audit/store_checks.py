"""Reads a store's files once, finds rows that contradict their columns or classes, and keeps facts for later checks."""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import compress, islice
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from freqbench.core.documents import object_of
from freqbench.core.errors import UserError
from freqbench.core.measures import MEANS, METRIC_OF, METRICS, NUMBERS, UNDEFINED
from freqbench.results import Key
from freqbench.results.files import Files, VersionError
from freqbench.results.nested import class_rows, types_of
from freqbench.results.schema import CLASS_RECORDS, CLASSES, COMMIT, KEY, RECORDS, ROWS, Column, added_values
from freqbench.results.store import row_id
from freqbench.results.tolerances import EXACT, TOLERANCES
from freqbench.results.winners import Words, shared_rows

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Row = dict[str, Any]
MOST_EXAMPLES = 3
Verdict = Literal["ok", "wrong", "not checked"]


class Check(NamedTuple):
    """One check of a store; `not checked` if its input is missing."""

    name: str
    verdict: Verdict
    text: str


def valid(column: pa.ChunkedArray) -> Mask:
    """Mask of the rows that are not null."""
    return np.asarray(pc.is_valid(column), bool)


def floats(column: pa.ChunkedArray) -> Floats:
    """Numbers of a column, null as NaN."""
    return np.asarray(pc.fill_null(column.cast(pa.float64()), math.nan), float)


def is_ok(table: pa.Table) -> Mask:
    """Mask of the rows whose status is ok."""
    return np.asarray(pc.fill_null(pc.equal(table["status"].cast(pa.string()), "ok"), False), bool)


class Errors:
    """Errors by check: the first few places and the number of further ones."""

    def __init__(self) -> None:
        self._wrong: dict[str, list[str]] = {}
        self._counts = Counter[str]()

    def wrong(self, name: str, text: str) -> None:
        """Records one error of a check."""
        self._counts[name] += 1
        if self._counts[name] <= MOST_EXAMPLES:
            self._wrong.setdefault(name, []).append(text)

    def wrong_rows(
        self, name: str, where: str, rows: pa.Table, mask: Mask, text: str, *values: Floats, what: str = "rows"
    ) -> None:
        """Records the rows of a mask, if any: their number, the first's id, and `text` with the first of `values`."""
        if mask.any():
            first = int(mask.argmax())
            key = [str(rows[column][first].as_py()) for column in KEY]
            text = text.format(*(each[first] for each in values))
            self.wrong(name, f"{where}{text} in {int(mask.sum())} {what}, first of row {row_id(*key)}")

    def check(self, name: str, ok: str, missing: str = "") -> Check:
        """Makes the verdict of a check: the text is `ok` if nothing is wrong, `missing` if it could not be made."""
        if texts := self._wrong.get(name):
            rest = self._counts[name] - len(texts)
            return Check(name, "wrong", "; ".join(texts) + (f"; and {rest} more like these" if rest else ""))
        return Check(name, "not checked" if missing else "ok", missing or ok)


SLACK = 1e-6  # beyond a range, for rounding
_POSITIVE = ("voxels", "mm", "count", "bytes", "s", "distance", "ratio", "intensity 0..1", "the data's unit")
UNITS: Mapping[str, tuple[float, float]] = {
    **{"fraction": (0.0, 1.0), "1 - distance": (-math.inf, 1.0)},
    **dict.fromkeys(_POSITIVE, (0.0, math.inf)),
}
COLUMNS: Mapping[str, tuple[float, float]] = {each.name: each.within for each in NUMBERS if each.within}


def check_columns(columns: Sequence[Column], rows: pa.Table, where: str, what: str, errors: Errors) -> None:
    """Checks that numbers are possible values of their column, and that required ones are not null."""
    for column in columns:
        name = column.name
        values = rows[column.name]
        if column.required and values.null_count:
            errors.wrong_rows("values", where, rows, ~valid(values), f"{name}: null", what=what)
        if pa.types.is_floating(values.type) or pa.types.is_integer(values.type):
            low, high = COLUMNS.get(name) or UNITS.get(column.unit, (-math.inf, math.inf))
            numbers = floats(values)
            outside = (numbers < low - SLACK) | (numbers > high + SLACK)
            if name not in COLUMNS:
                outside |= np.isinf(numbers)
            text = f"{name}: {{:g}} where {low:g} to {high:g} is possible"
            errors.wrong_rows("values", where, rows, outside, text, numbers, what=what)


def check_words(rows: pa.Table, where: str, errors: Errors) -> None:
    """Checks states, errors and names of metrics, and that every null score has a reason."""

    def tell(mask: Mask, text: str) -> None:
        errors.wrong_rows("values", where, rows, mask, text)

    status, covers, reasons = (Words(rows[name]) for name in ("status", "metrics", "null_reasons"))
    ok, failed = (status.mask([text == state for text in status.texts]) for state in ("ok", "failed"))
    has_error = valid(rows["error"])
    tell(~ok & ~failed, "status: neither ok nor failed")
    tell(failed & ~has_error, "error: none in a failed row")
    tell(ok & has_error, "error: one in a row that is ok")
    listed = [set(filter(None, (text or "").split(","))) for text in covers.texts]
    added = [{name.partition("@")[0] for name in names if "@" in name} for names in listed]
    tell(~covers.mask([all(name in METRICS or "@" in name for name in names) for names in listed]), "metrics: unknown")
    stated = [_reasons(text) for text in reasons.texts]
    tell(reasons.mask([each is None for each in stated]), "null_reasons: invalid")
    for name, metric in METRIC_OF.items():
        if rows[name].null_count:
            asked = ok & covers.mask([metric in names for names in listed])
            excused = reasons.mask([each is None or name in each for each in stated])
            tell(asked & ~valid(rows[name]) & ~excused, f"{name}: null without a reason")
    values = Words(rows["added_metrics"])
    of_texts = [_added_names(text) for text in values.texts]
    tell(values.mask([each is None for each in of_texts]), "added_metrics: invalid")
    for name in set[str]().union(*added):
        has_value = values.mask([each is None or name in each for each in of_texts])
        tell(ok & covers.mask([name in names for names in added]) & ~has_value, f"added_metrics: no {name}")


def _added_names(text: str | None) -> Collection[str] | None:
    """Names of the values of other packages' metrics in a row; None if the text is something else."""
    try:
        return added_values(text)
    except UserError:
        return None


def _reasons(text: str | None) -> frozenset[str] | None:
    """Columns that a row gives a reason for; None if the text is something else."""
    try:
        reasons = object_of(text or "{}", "null_reasons")
    except UserError:
        return None
    return frozenset(reasons) if reasons.keys() <= {column.name for column in RECORDS} else None


ROUNDING = 1e-9
FLAGS = ("missed_classes", "hallucinated_classes")  # of the foreground, in the label or prediction alone
COUNTS = (*UNDEFINED, *FLAGS)


@np.errstate(invalid="ignore")
def check_classes(rows: pa.Table, classes: pa.Table, where: str, errors: Errors) -> None:
    """Reports rows that lack a class or have one twice, and means and counts that contradict their `classes`."""
    places = np.asarray(pc.list_parent_indices(rows[CLASSES].combine_chunks()))
    index = floats(classes["class_index"])
    expected = np.where(is_ok(rows), np.nan_to_num(floats(rows["num_classes"])), 0.0)

    def sums(values: Floats | Mask) -> Floats:
        return np.bincount(places, values, minlength=len(rows)).astype(np.float64)

    squares = expected * (expected + 1) * (2 * expected + 1) / 6  # of 1 to K: each class once
    count = sums(~np.isnan(index))
    is_complete = count == expected
    is_each = sums((np.nan_to_num(index, nan=-1.0) + 1) ** 2) == squares
    errors.wrong_rows("classes", where, rows, ~is_complete, "rows of classes: {:g}, expected {:g}", count, expected)
    errors.wrong_rows("classes", where, rows, is_complete & ~is_each, "class_index: not each class once")
    is_in = [(index > 0) & (floats(classes[name]) > 0) for name in ("label_voxels", "pred_voxels")]
    are_counted = (index > 0) & valid(classes["label_voxels"]) & valid(classes["pred_voxels"])
    alone = dict(zip(FLAGS, (is_in[0] & ~is_in[1], is_in[1] & ~is_in[0]), strict=True))
    for name in (*MEANS, *COUNTS):
        if name in alone:
            asked = sums(are_counted)
            value = sums(alone[name] & are_counted)
        else:
            column, first = MEANS.get(name) or UNDEFINED[name]
            numbers = floats(classes[column])
            is_asked = valid(classes[column]) & (index >= first)
            asked = sums(is_asked)
            value = sums(is_asked & np.isnan(numbers))
            if name in MEANS:
                value = sums(np.where(is_asked & ~np.isnan(numbers), numbers, 0.0)) / (asked - value)
        stored = floats(rows[name])
        compared = is_ok(rows) & is_complete & is_each & valid(rows[name]) & (asked > 0)
        wrong = compared & ~np.isclose(stored, value, rtol=ROUNDING, atol=ROUNDING, equal_nan=True)
        errors.wrong_rows("classes", where, rows, wrong, f"{name}: {{:g}}, the classes say {{:g}}", stored, value)


MOST_DOUBLES = 200_000  # most rows of repeated keys to compare: some 100 MB
MOST_KINDS = 100_000  # most settings of cells, and most origins of rows, to keep
CELL = (
    *("cell_id", "source_model_id", "attack", "variant", "budget_name", "budget", "threat_model", "seed"),
    *("precision", "compile", "num_classes", "params"),
)
ORIGIN = ("run_id", "dataset", "case_id", "case_key", "source_model_id", "target_model_id")
SCORES = tuple(column.name for column in RECORDS if column.mark == "result" and not pa.types.is_string(column.type))


class StoreSurvey:
    """A store's files, each read once, and facts that later checks need: `keys` of all records, how many are `ok` of
    each; distinct `cells` (CELL) and `origins` (ORIGIN: runs, cases, models), sorted, `left_out` beyond MOST_KINDS;
    `errors` of files, schema, values, classes. Raises a UserError if another release wrote it, or it changes."""

    def __init__(self, root: str, errors: Errors) -> None:
        self._files = Files(root)
        self._errors = errors
        self._kinds: dict[tuple[str, ...], dict[tuple[Any, ...], Row]] = {CELL: {}, ORIGIN: {}}
        self.keys = set[Key]()
        self.ok = Counter[Key]()
        self._readable = list[str]()
        self.names = self._files.names()
        self.num_rows = self.num_classes = self.left_out = 0
        for name in self.names:
            try:
                if self._has_columns(name):
                    self._read_file(name)
            except FileNotFoundError:
                raise UserError(f"{root}: changes while it is read: verify it when no run goes on") from None
            except VersionError:
                raise
            except UserError as error:
                errors.wrong("files", str(error))
        self.cells, self.origins = (
            sorted(kinds.values(), key=lambda row: [(value is None, value) for value in row.values()])
            for kinds in self._kinds.values()
        )

    @np.errstate(invalid="ignore")
    def compare_doubles(self) -> str:
        """Compares ok rows of one key, copies to the bit, others within tolerances; returns a sentence on them."""
        if not (doubles := {key: count for key, count in self.ok.items() if count > 1}):
            return "no key has two rows that are ok"
        rows = self._rows_of(frozenset(islice(doubles, MOST_DOUBLES // 2)))
        before, after = rows.slice(0, len(rows) - 1), rows.slice(1)
        same = {name: np.asarray(before[name]) == np.asarray(after[name]) for name in COMMIT}
        is_pair, is_copy = (np.logical_and.reduce([same[name] for name in names]) for names in (KEY, COMMIT))
        for name in SCORES:
            one = floats(before[name])
            other = floats(after[name])
            ways = (EXACT, TOLERANCES["records"].get(name, EXACT))
            equal, close = (np.isclose(other, one, way.relative, way.absolute, equal_nan=True) for way in ways)
            differs = is_pair & valid(before[name]) & valid(after[name]) & ~np.where(is_copy, equal, close)
            text = f"{name}: {{:g}} and {{:g}} (the latest counts)"
            what = "pairs of rows of one key"
            self._errors.wrong_rows("doubles", "", after, differs, text, one, other, what=what)
        rest = f"; {more} of their rows were not compared" if (more := sum(doubles.values()) - len(rows)) else ""
        return f"{len(doubles)} keys have several rows that are ok, and they agree: the latest counts{rest}"

    def _rows_of(self, keys: Collection[Key]) -> pa.Table:
        """Reads the ok rows with these keys, those of a key together, in order of time."""
        columns = (*KEY, "run_id", "finished_at", "status", *SCORES)
        tables = []
        for name in self._readable:
            table = self._files.columns(name, columns)
            is_wanted = [key in keys for key in shared_rows(table.select(KEY))]
            tables.append(table.filter(pa.array(is_ok(table) & is_wanted)))
        plain = pa.schema([ROWS.field(name) for name in columns])
        return pa.concat_tables(tables).cast(plain).sort_by([(name, "ascending") for name in (*KEY, "finished_at")])

    def _read_file(self, name: str) -> None:
        where = f"records/{name}: "
        good = list[Key]()
        for rows in self._files.pieces(name, self._files.open(name)):
            classes = class_rows(rows)
            self.num_rows = self.num_rows + len(rows)
            self.num_classes = self.num_classes + len(classes)
            check_columns(RECORDS, rows, where, "rows", self._errors)
            check_columns(CLASS_RECORDS, classes, where, "rows of classes", self._errors)
            check_words(rows, where, self._errors)
            check_classes(rows, classes, where, self._errors)
            for columns, kinds in self._kinds.items():
                self._keep_kinds(rows.select(columns), kinds)
            keys = list(shared_rows(rows.select(KEY)))
            self.keys.update(keys)
            good += compress(keys, is_ok(rows))
        self.ok.update(good)  # of files that can be read to their end, as they may be read again
        self._readable.append(name)

    def _keep_kinds(self, rows: pa.Table, kinds: dict[tuple[Any, ...], Row]) -> None:
        """Keeps one row of each kind, the distinct values of all columns, while there is room."""
        for row in rows.group_by(rows.column_names, use_threads=False).aggregate([]).to_pylist():
            if len(kinds) < MOST_KINDS or tuple(row.values()) in kinds:
                kinds[tuple(row.values())] = row
            else:
                self.left_out += 1

    def _has_columns(self, name: str) -> bool:
        """True if a file can be read by the documented columns; reports columns that are not as documented."""
        types = types_of(ROWS)
        actual = types_of(self._files.schema(name))
        missing = [f"no column {column}" for column in types if column not in actual]
        more = [f"column {column}, which is not documented" for column in actual if column not in types]
        others = {column: kind for column, kind in actual.items() if types.get(column, kind) != kind}
        misfits = [f"{column}: {kind} in place of {types[column]}" for column, kind in others.items()]
        for text in (*missing, *more, *misfits):
            self._errors.wrong("schema", f"records/{name}: {text}")
        return not missing and not misfits
