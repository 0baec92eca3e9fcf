"""Asks the files of a store, with SQL, which rows contradict their columns, their classes or each other.

Arrow reads the files, as it compares the checksums of their pages, and DuckDB answers over a piece at a time. A rule is
a condition that no row of a sound store meets. Keys are compared by their 64-bit hashes, eight megabytes for a million
of them: two of a million differ and share one with a probability of 3e-8 (n^2 / 2^65).
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import duckdb
import pyarrow as pa

from freqbench.core.errors import UserError
from freqbench.results.files import SCHEMAS, Files, VersionError, coded_schema
from freqbench.results.rowid import row_id
from freqbench.results.schema import CLASS_RECORDS, COMMIT, KEY, RECORDS, Column
from freqbench.results.tolerances import EXACT, TOLERANCES

MOST_EXAMPLES = 3
MOST_DOUBLES = 100_000
"""Keys with several rows that are compared at most: some 100 MB of rows."""

MOST_AT_ONCE = 20_000
"""Rows in memory with all their columns, some 15 MB."""

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
    """One check of a store.

    Attributes:
        name: of the check, one word.
        verdict: `not checked` where what it needs is not there.
        text: one sentence.
    """

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

    def check(self, name: str, ok: str, missing: str = "") -> Check:
        """The verdict of a check.

        Args:
            name: of it.
            ok: the sentence if nothing is wrong.
            missing: why it could not be made, if it could not; what is wrong is wrong all the same.
        """
        if texts := self._wrong.get(name):
            rest = self._counts[name] - len(texts)
            more = f"; and {rest} more like these" if rest else ""
            return Check(name=name, verdict="wrong", text="; ".join(texts) + more)
        return Check(name=name, verdict="not checked" if missing else "ok", text=missing or ok)


@dataclass(frozen=True)
class Rule:
    """An SQL condition that no sound row meets, and a sentence on those that do, its braces for some of their values.

    Rows break a rule with a column `null` only where that is null. DuckDB takes NaN for equal to itself and larger than
    any number.
    """

    wrong: str
    text: str
    values: tuple[str, ...] = ()
    null: str = ""


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


def column_rules(columns: Sequence[Column]) -> list[Rule]:
    """Columns that must not be null, and numbers in the range of their unit."""
    rules = []
    for column in columns:
        name, is_float = column.name, pa.types.is_floating(column.type)
        if column.required:
            rules.append(Rule(f"{name} IS NULL", f"{name}: null", null=name))
        low, high = COLUMNS.get(name) or UNITS.get(column.unit, (-math.inf, math.inf))
        outside = [f"{name} < {low - SLACK}"] if low > -math.inf else []
        outside += [f"({name} > {high + SLACK} AND NOT isnan({name}))"] if high < math.inf else []
        outside += [f"isinf({name})"] if is_float and name not in INFINITE else []
        if outside:
            text = f"{name}: {{:g}} where {low:g} to {high:g} is possible"
            rules.append(Rule(" OR ".join(outside), text, (name,)))
    return rules


_COLUMN_NAMES = ", ".join(f"'{column.name}'" for column in RECORDS)
_KEYS_OF_JSON = "json_keys(TRY_CAST(null_reasons AS JSON))"
WITH_REASONS = f"""(
    SELECT *, CASE
        WHEN coalesce(null_reasons, '') = '' THEN []
        WHEN json_type(TRY_CAST(null_reasons AS JSON)) = 'OBJECT'
            AND list_has_all([{_COLUMN_NAMES}], {_KEYS_OF_JSON}) THEN {_KEYS_OF_JSON}
    END AS reasons FROM piece)"""


def word_rules(metrics: Mapping[str, Sequence[str]]) -> list[Rule]:
    """States, errors, names of metrics, and for every score that is null a reason; over WITH_REASONS.

    Args:
        metrics: the columns of each metric.
    """
    words = "|".join(map(re.escape, metrics))
    without = "status = 'ok' AND {0} IS NULL AND contains(',' || metrics || ',', ',{1},') AND NOT {2}"
    return [
        Rule("coalesce(status, '') NOT IN ('ok', 'failed')", "status: neither ok nor failed"),
        Rule("status = 'failed' AND error IS NULL", "error: none in a failed row"),
        Rule("status = 'ok' AND error IS NOT NULL", "error: one in a row that is ok"),
        Rule(f"NOT regexp_full_match(metrics, '(({words})?,)*({words})?')", "metrics: unknown"),
        Rule("reasons IS NULL", "null_reasons: not what it is"),
        *(
            Rule(
                without.format(name, metric, f"list_contains(reasons, '{name}')"),
                f"{name}: null without a reason",
                null=name,
            )
            for metric, columns in metrics.items()
            for name in columns
        ),
    ]


# Records against their classes

ROUNDING = 1e-9
_FOREGROUND = " FILTER (class_index > 0)"
MEANS: Mapping[str, tuple[str, str]] = {
    "dsc": ("dsc", ""),
    "dsc_clean": ("dsc_clean", ""),
    "dsc_foreground": ("dsc", _FOREGROUND),
    "dsc_foreground_clean": ("dsc_clean", _FOREGROUND),
    "hd95": ("hd95", ""),
    "hd95_clean": ("hd95_clean", ""),
    "hd95_mm": ("hd95_mm", _FOREGROUND),
    "hd95_mm_clean": ("hd95_mm_clean", _FOREGROUND),
    "hd95_medpy_mm": ("hd95_medpy_mm", _FOREGROUND),
}
"""Columns of records: of which column of which classes they are the mean over defined values."""
_HAS_VOXELS = "label_voxels IS NOT NULL AND pred_voxels IS NOT NULL"
COUNTS: Mapping[str, tuple[str, str]] = {
    "hd95_undefined_classes": ("hd95 IS NOT NULL", "isnan(hd95)"),
    "missed_classes": (_HAS_VOXELS, "class_index > 0 AND label_voxels > 0 AND pred_voxels <= 0"),
    "hallucinated_classes": (_HAS_VOXELS, "class_index > 0 AND label_voxels <= 0 AND pred_voxels > 0"),
}
"""Columns of records: which of their classes can be counted, and which are."""
NEEDED = (*COMMIT, "status", "num_classes", *MEANS, *COUNTS)

_EXECUTION = f"hash({', '.join(COMMIT)})"
_DEFINED = ", ".join(
    f"CASE WHEN NOT isnan({column}) THEN {column} END AS defined_{column}"
    for column in dict.fromkeys(column for column, _ in MEANS.values())
)
SUMS = f"""
    SELECT file, {_EXECUTION} AS execution, count(*)::DOUBLE AS num_rows, sum((class_index + 1) ** 2) AS squares, {
    ", ".join(
        f"count({column}){of}::DOUBLE AS asked_{name}, count(defined_{column}){of}::DOUBLE AS defined_{name}, "
        f"sum(defined_{column}){of} AS total_{name}"
        for name, (column, of) in MEANS.items()
    )
}, {
    ", ".join(
        f"count_if({asked})::DOUBLE AS asked_{name}, count_if({asked} AND {counted})::DOUBLE AS expected_{name}"
        for name, (asked, counted) in COUNTS.items()
    )
} FROM (SELECT *, {_DEFINED} FROM piece) GROUP BY file, execution"""
COMPARED = f"""(
    SELECT records.*, sums.* EXCLUDE (file, execution, num_rows, squares),
        coalesce(num_rows, 0) AS num_rows, coalesce(squares, 0) AS squares,
        IF(status = 'ok', coalesce(num_classes, 0), 0) AS num_expected,
        {", ".join(f"coalesce(total_{name} / nullif(defined_{name}, 0), 'nan') AS expected_{name}" for name in MEANS)}
    FROM records LEFT JOIN (
        SELECT file, execution, sum(COLUMNS(* EXCLUDE (file, execution))) FROM sums GROUP BY file, execution
    ) AS sums ON records.file = sums.file AND {_EXECUTION} = execution)"""
ORPHANS = f"""
    SELECT file, sum(num_rows) FROM sums WHERE (file, execution) NOT IN (SELECT (file, {_EXECUTION}) FROM records)
    GROUP BY file ORDER BY file"""


def _agree(one: str, other: str, within: str) -> str:
    is_near = f"{one} = {other} OR abs({one} - {other}) <= {within}"
    return f"(isnan({one}) = isnan({other}) AND (isnan({one}) OR {is_near}))"


def class_rules() -> list[Rule]:
    """Each class once, and means and counts that are those of the classes; over COMPARED."""
    squares = "num_expected * (num_expected + 1) * (2 * num_expected + 1) / 6"  # of 1 to K: each class once
    is_whole = f"status = 'ok' AND num_rows = num_expected AND squares = {squares}"
    rules = [
        Rule("num_rows != num_expected", "rows of classes: {:g}, expected {:g}", ("num_rows", "num_expected")),
        Rule(f"num_rows = num_expected AND squares != {squares}", "class_index: not each class once"),
    ]
    for name in (*MEANS, *COUNTS):
        expected = f"expected_{name}"
        near = _agree(name, expected, f"{ROUNDING} * greatest(1.0, abs({expected}))")
        text = f"{name}: {{:g}}, the classes say {{:g}}"
        rules.append(Rule(f"{is_whole} AND asked_{name} > 0 AND NOT {near}", text, (name, expected)))
    return rules


# Rows of one key

_BEFORE = ", ".join(f"lag({name}) OVER earlier AS before_{name}" for name in SCORES)
REPEATED = f"""(
    SELECT *, {_BEFORE}, execution = lag(execution) OVER earlier AS is_copy, 0 AS file FROM again
    WINDOW earlier AS (PARTITION BY key ORDER BY finished_at))"""
AGAIN = f"SELECT *, hash({', '.join(KEY)}) AS key, {_EXECUTION} AS execution FROM piece"


def double_rules() -> list[Rule]:
    """A row as the one before it of its key: to the bit where both are one execution, else within the tolerances."""
    rules = []
    for name in SCORES:
        tolerance = TOLERANCES["records"].get(name, EXACT)
        within = f"{tolerance.absolute} + {tolerance.relative} * abs(before_{name})"
        to_the_bit, near = (_agree(f"before_{name}", name, slack) for slack in ("0", within))
        rules.append(
            Rule(f"NOT IF(is_copy, {to_the_bit}, {near})", f"{name}: {{:g}} and {{:g}}", (f"before_{name}", name))
        )
    return rules


def _numbered(table: pa.Table, file: int) -> pa.Table:
    """Rows with the place of their file."""
    return table.append_column("file", pa.repeat(pa.scalar(file, pa.int32()), len(table)))


class Survey:
    """A store's files, each read once, and what of them later checks ask: tables of a database in memory.

    `seen`: of each record `key` and `volume` (the hashes of KEY, and of its cell and case), `is_ok`, and `file`, the
    place of its file in `names`; `cells`: the distinct settings of cells, columns CELL; `origins`: the distinct runs,
    cases and models of rows, columns ORIGIN.

    Args:
        root: of the store.
        metrics: the columns of each metric.
        findings: told of what is wrong: `files`, `schema`, `values`, `classes`.

    Raises:
        UserError: another release wrote it, or the store changes while it is read.
    """

    def __init__(self, root: str, metrics: Mapping[str, Sequence[str]], findings: Findings) -> None:
        self._files, self._findings = Files(root), findings
        self._database = duckdb.connect(config={"threads": 1})
        self._rules = {
            "records": [*column_rules(RECORDS), *word_rules(metrics)],
            "class_records": column_rules(CLASS_RECORDS),
        }
        self._waiting: dict[str, list[pa.Table]] = {kind: [] for kind in SCHEMAS}
        self.names = self._files.names()
        self.counts = dict.fromkeys(SCHEMAS, 0)
        empty = {kind: _numbered(SCHEMAS[kind].empty_table(), 0) for kind in SCHEMAS}
        self.ask("CREATE TABLE seen (key UBIGINT, volume UBIGINT, is_ok BOOLEAN, file INTEGER)")
        for table, columns in (("cells", CELL), ("origins", ORIGIN), ("records", (*NEEDED, "file"))):
            self.ask(f"CREATE TABLE {table} AS SELECT {', '.join(columns)} FROM piece", piece=empty["records"])
        self.ask(f"CREATE TABLE sums AS {SUMS}", piece=empty["class_records"])
        compared = 0
        for number, name in enumerate(self.names):
            try:
                are_whole = [self._has_columns(kind, name) for kind in SCHEMAS]
                if all(are_whole):
                    self._read_pair(number, name)
            except FileNotFoundError:
                if name not in self._files.names():
                    raise UserError(f"{root}: changes while it is read: verify it when no run goes on") from None
                self._leave(number, f"class_records/{name}: missing, though its records are there")
            except VersionError:
                raise
            except UserError as error:
                self._leave(number, str(error))
            if self.counts["records"] - compared >= MOST_AT_ONCE:
                self._compare_classes()
                compared = self.counts["records"]
        self._compare_classes()

    def ask(self, query: str, **tables: pa.Table) -> list[tuple[Any, ...]]:
        """The rows that an SQL query returns; it may name these tables too."""
        for name, table in tables.items():
            self._database.register(name, table)
        rows: list[tuple[Any, ...]] = self._database.execute(query).fetchall()
        return rows

    def rows(self, table: str, columns: Sequence[str]) -> Iterator[Row]:
        """All rows of a table, by the names of their columns."""
        found = self._database.execute(f"SELECT {', '.join(columns)} FROM {table} ORDER BY ALL")
        while chunk := found.fetchmany(10_000):
            yield from (dict(zip(columns, row, strict=True)) for row in chunk)

    def compare_doubles(self) -> str:
        """Compare the rows of a key that are ok, `doubles`; returns a sentence on what there is."""
        self.ask(
            "CREATE TABLE doubled AS SELECT key FROM seen WHERE is_ok GROUP BY key HAVING count(*) > 1 ORDER BY key"
        )
        ((count,),) = self.ask("SELECT count(*) FROM doubled")
        if not count:
            return "no key has two rows that are ok"
        columns = (*KEY, "run_id", "finished_at", "status", *SCORES)
        compared = f"(SELECT key FROM doubled LIMIT {MOST_DOUBLES})"
        self.ask(f"CREATE TABLE again AS {AGAIN}", piece=coded_schema("records", columns).empty_table())
        for (number,) in self.ask(f"SELECT DISTINCT file FROM seen WHERE is_ok AND key IN {compared} ORDER BY file"):
            piece = self._files.columns("records", self.names[number], columns)
            self.ask(f"INSERT INTO again FROM ({AGAIN}) WHERE status = 'ok' AND key IN {compared}", piece=piece)
        self._judge("doubles", double_rules(), REPEATED, "pairs of rows of one key", end=": the latest counts")
        rest = f"; the rows of {count - MOST_DOUBLES} were not compared" if count > MOST_DOUBLES else ""
        return f"{count} keys have several rows that are ok, and they agree: the latest counts{rest}"

    def _read_pair(self, number: int, name: str) -> None:
        """Read both files, all columns, texts as codes, comparing the checksums of their pages."""
        for kind in SCHEMAS:
            schema = coded_schema(kind, SCHEMAS[kind].names)
            for piece in self._files.pieces(kind, name, self._files.open(kind, name), schema, is_checked=True):
                self._waiting[kind].append(_numbered(piece, number))
                self.counts[kind] += len(piece)
                if sum(len(each) for each in self._waiting[kind]) >= MOST_AT_ONCE:
                    self._take(kind)

    def _take(self, kind: str) -> None:
        """Check the values of the rows that wait, and keep what later checks ask: many files at once, as each query
        takes a moment to prepare."""
        if not self._waiting[kind]:
            return
        piece = pa.concat_tables(self._waiting[kind])
        self._database.register("piece", piece)
        self._waiting[kind] = []
        rules = [rule for rule in self._rules[kind] if not rule.null or piece[rule.null].null_count]
        if kind == "class_records":
            self._judge("values", rules, "piece", "rows of classes", kind)
            self.ask(f"INSERT INTO sums {SUMS}")
            return
        self._judge("values", rules, WITH_REASONS, "rows", kind)
        key, volume = f"hash({', '.join(KEY)})", "hash(cell_id, case_key)"
        self.ask(f"INSERT INTO seen SELECT {key}, {volume}, coalesce(status = 'ok', false), file FROM piece")
        self.ask(f"INSERT INTO records SELECT {', '.join(NEEDED)}, file FROM piece")
        for table, columns in (("cells", CELL), ("origins", ORIGIN)):
            self.ask(f"INSERT INTO {table} SELECT DISTINCT {', '.join(columns)} FROM piece EXCEPT FROM {table}")

    def _leave(self, number: int, why: str) -> None:
        """Tell of a pair that cannot be read to its end; its classes are not compared."""
        self._findings.wrong("files", why)
        for kind, table in (("records", "records"), ("class_records", "sums")):
            self._take(kind)
            self.ask(f"DELETE FROM {table} WHERE file = {number}")

    def _compare_classes(self) -> None:
        """Compare the records so far with their classes, and forget them."""
        for kind in SCHEMAS:
            self._take(kind)
        for number, count in self.ask(ORPHANS):
            where = f"records/{self.names[number]}"
            self._findings.wrong("classes", f"{where}: {count:g} rows of classes have no record in their file")
        self._judge("classes", class_rules(), COMPARED, "rows", "records")
        for table in ("records", "sums"):
            self.ask(f"DELETE FROM {table}")

    def _judge(
        self, check: str, rules: Sequence[Rule], source: str, what: str, folder: str = "", end: str = ""
    ) -> None:
        """Tell of each rule that rows of a source break: how many of which file, and the first by its id."""
        (counts,) = self.ask(f"SELECT {', '.join(f'count_if({rule.wrong})' for rule in rules)} FROM {source}")
        for rule in (rule for rule, count in zip(rules, counts, strict=True) if count):
            columns, key = ", ".join((*KEY, *rule.values)), ", ".join(KEY)
            found = self.ask(
                f"SELECT file, count(*) OVER (PARTITION BY file), {columns} FROM {source} WHERE {rule.wrong} "
                f"QUALIFY row_number() OVER (PARTITION BY file ORDER BY {key}) = 1 ORDER BY file"
            )
            for number, count, cell, case, target, *values in found:
                where = f"{folder}/{self.names[number]}: " if folder else ""
                first = row_id(str(cell), str(case), str(target))
                text = f"{where}{rule.text.format(*values)} in {count} {what}, first of row {first}{end}"
                self._findings.wrong(check, text)

    def _has_columns(self, kind: str, name: str) -> bool:
        """Whether a file can be read by the documented columns; tells of those that are not as documented."""
        known, found = SCHEMAS[kind], self._files.schema(kind, name)
        missing = [column for column in known.names if column not in found.names]
        misfits = [field for field in found if field.name in known.names and field.type != known.field(field.name).type]
        wrong = [f"no column {column}" for column in missing]
        wrong += [f"column {column}, which nobody documents" for column in found.names if column not in known.names]
        wrong += [f"{field.name}: {field.type} in place of {known.field(field.name).type}" for field in misfits]
        for text in wrong:
            self._findings.wrong("schema", f"{kind}/{name}: {text}")
        return not missing and not misfits
