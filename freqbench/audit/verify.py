"""Checks a store: its files can be read, rows of one key agree, and it has the job's records. Never writes to it."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Column, Table

from freqbench.core.errors import UserError
from freqbench.core.terminal import amount
from freqbench.results import RECORDS, SCHEMA_VERSION, Key, Shard, Store, index_keys
from freqbench.results.files import Files, VersionError
from freqbench.results.nested import types_of
from freqbench.results.schema import COMMIT, KEY, ROWS
from freqbench.results.store import row_id
from freqbench.results.tolerances import EXACT, TOLERANCES
from freqbench.results.winners import shared_rows

MOST_EXAMPLES = 3
MOST_DOUBLES = 200_000  # most rows of repeated keys to compare: some 100 MB
SCORES = tuple(column.name for column in RECORDS if column.mark == "result" and not pa.types.is_string(column.type))
Run = Mapping[str, Any]
Verdict = Literal["ok", "wrong", "not checked"]


class Check(NamedTuple):
    """One check; `not checked` if its input is missing."""

    name: str
    verdict: Verdict
    text: str


def show_checks(checks: Sequence[Check], title: str, console: Console) -> bool:
    """Prints the results of checks as a table below a `title` on the `console`, and returns True if nothing is
    wrong."""
    table = Table("check", Column("verdict", no_wrap=True), Column("what was found", overflow="fold"), title=title)
    for each in checks:
        table.add_row(*each)
    console.print(table)
    return all(each.verdict != "wrong" for each in checks)


@dataclass(kw_only=True)
class StoreSurvey:
    """Rows of a store's files, each read once."""

    files: Files
    names: list[str]
    readable: list[str] = field(default_factory=list)  # of `names`, those that could be read to their end
    keys: set[Key] = field(default_factory=set)  # of all rows
    ok: Counter[Key] = field(default_factory=Counter)  # rows that are ok, by key
    errors: list[str] = field(default_factory=list)  # of files


def verify(store: Store) -> list[Check]:
    """Runs every check of a store in which no run goes on. `files`: each can be read, its pages fit their checksums,
    its columns are those of the schema; `doubles`: ok rows of one key agree; `holes`: the job's records are there.
    Raises a UserError if there is no store, another release wrote it, or it changes meanwhile."""
    job = store.job()
    survey = _survey(store.root)
    runs = list(_runs(store, survey.errors))
    doubles = {key: count for key, count in survey.ok.items() if count > 1}
    rows = _rows_of(survey, frozenset(islice(doubles, MOST_DOUBLES // 2)))
    agree = "no key has two rows that are ok"
    if doubles:
        agree = f"{len(doubles)} keys have several rows that are ok, and they agree: the latest counts"
    if left_out := sum(doubles.values()) - len(rows):
        agree += f"; {left_out} of their rows were not compared"
    return [
        _check("files", f"{len(survey.names)} files can be read to the end", survey.errors),
        _check("doubles", agree, list(_differences(rows))),
        _check_holes(job, survey, runs),
    ]


def _check(name: str, ok: str, errors: Sequence[str]) -> Check:
    """Makes a check of its errors: the first few, and the number of further ones."""
    if not errors:
        return Check(name, "ok", ok)
    rest = len(errors) - MOST_EXAMPLES
    more = f"; and {rest} more like these" if rest > 0 else ""
    return Check(name, "wrong", "; ".join(errors[:MOST_EXAMPLES]) + more)


def _survey(root: str) -> StoreSurvey:
    files = Files(root)
    survey = StoreSurvey(files=files, names=files.names())
    for name in survey.names:
        try:
            _read_file(survey, name)
        except FileNotFoundError:
            raise UserError(f"{root}: changes while it is read: verify it when no run goes on") from None
        except VersionError:
            raise
        except UserError as error:
            survey.errors.append(str(error))
    return survey


def _read_file(survey: StoreSurvey, name: str) -> None:
    """Reads all columns of a file to its end, and keeps the keys of its rows."""
    stored = types_of(survey.files.schema(name))
    documented = types_of(ROWS)
    columns = {**stored, **documented}
    if others := [column for column in columns if stored.get(column) != documented.get(column)]:
        expected = f"expected the columns of schema version {SCHEMA_VERSION}"
        raise UserError(f"records/{name}: {expected}, got others: {', '.join(others[:MOST_EXAMPLES])}")
    keys = set[Key]()
    good = list[Key]()
    for rows in survey.files.pieces(name, survey.files.open(name)):
        keys.update(shared_rows(rows.select(KEY)))
        good += shared_rows(_ok_rows(rows).select(KEY))
    survey.keys |= keys
    survey.ok.update(good)
    survey.readable.append(name)


def _ok_rows(rows: pa.Table) -> pa.Table:
    return rows.filter(pc.equal(rows["status"].cast(pa.string()), "ok"))


def _runs(store: Store, errors: list[str]) -> Iterator[Run]:
    """Yields what can be read of the runs' files."""
    for run_id in store.run_ids():
        try:
            yield store.run(run_id)
        except UserError as error:
            errors.append(str(error))


def _rows_of(survey: StoreSurvey, keys: Collection[Key]) -> pa.Table:
    """Reads the ok rows with these keys, those of a key together, in order of time."""
    columns = (*KEY, "run_id", "finished_at", "status", *SCORES)
    plain = pa.schema([ROWS.field(name) for name in columns])
    tables = [plain.empty_table()]
    for name in survey.readable if keys else ():
        rows = _ok_rows(survey.files.columns(name, columns))
        is_wanted = [key in keys for key in shared_rows(rows.select(KEY))]
        tables.append(rows.filter(pa.array(is_wanted, pa.bool_())).cast(plain))
    return pa.concat_tables(tables).sort_by([(name, "ascending") for name in (*KEY, "finished_at")])


@np.errstate(invalid="ignore")
def _differences(rows: pa.Table) -> Iterator[str]:
    """Yields the columns in which rows of one key differ: copies to the bit, others within tolerances."""
    before = rows.slice(0, max(0, len(rows) - 1))
    after = rows.slice(1)
    same = {name: np.asarray(before[name]) == np.asarray(after[name]) for name in COMMIT}
    is_pair = np.logical_and.reduce([same[name] for name in KEY])
    is_copy = np.logical_and.reduce([same[name] for name in COMMIT])
    for name in SCORES:
        one, other = (np.asarray(pc.fill_null(each[name].cast(pa.float64()), np.nan)) for each in (before, after))
        has_both = np.asarray(pc.and_(pc.is_valid(before[name]), pc.is_valid(after[name])), bool)
        ways = (EXACT, TOLERANCES["records"].get(name, EXACT))
        equal, close = (np.isclose(other, one, way.relative, way.absolute, equal_nan=True) for way in ways)
        differs = is_pair & has_both & ~np.where(is_copy, equal, close)
        if differs.any():
            first = int(differs.argmax())
            key = [str(after[column][first].as_py()) for column in KEY]
            values = f"{one[first]:g} and {other[first]:g} (the latest counts)"
            yield f"{name}: {values} in {int(differs.sum())} pairs of rows of one key, first of row {row_id(*key)}"


def _check_holes(job: Mapping[str, Any], survey: StoreSurvey, runs: Sequence[Run]) -> Check:
    """Finds records that the job asks for but the store lacks. Ignores shards that were never run."""
    wanted = index_keys(job["index"])
    shards = _shards(runs)
    asked = {key for key in wanted if not shards or any(shard.holds(key[0]) for shard in shards)}
    missing = sorted(asked - survey.keys)
    failed = len(asked & survey.keys - survey.ok.keys())
    if missing:
        states = sorted({str(run.get("status")) for run in runs} - {"done"})
        why = f" (runs ended as {', '.join(states)})" if states else ""
        examples = ", ".join(row_id(*key) for key in missing[:MOST_EXAMPLES])
        records = amount(len(asked), "record")
        text = f"{len(missing)} of {records} that the job asks for have no row, such as {examples}{why}"
        return Check("holes", "wrong", f"{text}: run the job again")
    beside = f"; {failed} of them failed, for the reasons in their rows" if failed else ""
    beside += f"; {len(wanted) - len(asked)} more are of shards that no run was for" if len(wanted) > len(asked) else ""
    return Check("holes", "ok", f"{len(asked)} records that the job asks for have a row{beside}")


def _shards(runs: Sequence[Run]) -> list[Shard]:
    """Parts of the grid that runs were for; empty if one was for all of it, or does not say."""
    shards = []
    for run in runs:
        text = run.get("shard")
        if "shard" not in run or text == str(Shard()):
            return []
        if isinstance(text, str):  # None: a run that only scored
            shards.append(Shard.parse(text))
    return shards
