"""Records that stand in a store more than once: whether they say the same."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from freqbench.results.files import Files
from freqbench.results.findings import Findings
from freqbench.results.fingerprints import row_numbers
from freqbench.results.rowid import row_id
from freqbench.results.schema import KEY, RECORDS
from freqbench.results.soundness import Survey
from freqbench.results.tolerances import EXACT, TOLERANCES

MOST_ROWS = 200_000
"""Rows that are compared at most, some 100 MB of them: the first in the order of their keys' numbers."""

RESULTS = tuple(column.name for column in RECORDS if column.mark == "result" and not pa.types.is_string(column.type))


def check_doubles(root: str, survey: Survey, findings: Findings) -> str:
    """Compare the rows of a key that are ok: equal to the bit where they are one row that stands in two files, within
    the tolerances where it was computed twice.

    Returns:
        A sentence on what there is.
    """
    ok = np.flatnonzero(survey.ok)
    order = ok[np.argsort(survey.keys[ok], kind="stable")]
    keys = survey.keys[order]
    same = np.concatenate(([False], keys[1:] == keys[:-1])) if len(keys) else np.zeros(0, np.bool_)
    again = same | np.concatenate((same[1:], [False])) if len(keys) else same
    chosen, doubled = order[again], int((again & ~same).sum())
    if not doubled:
        return "no key has two rows that are ok"
    rows = _rows(root, survey, chosen[:MOST_ROWS])
    _compare(rows, findings)
    rest = f"; {len(chosen) - MOST_ROWS} of their rows were not compared" if len(chosen) > MOST_ROWS else ""
    return f"{doubled} keys have several rows that are ok, and they agree: the latest counts{rest}"


def _rows(root: str, survey: Survey, chosen: np.ndarray) -> pa.Table:
    """Some rows with what is compared, those of a key one after the other."""
    files, tables = Files(root), []
    wanted = np.unique(survey.keys[chosen])
    for number in np.unique(survey.file[chosen]).tolist():
        table = files.columns("records", survey.names[number], (*KEY, "run_id", "finished_at", "status", *RESULTS))
        is_ok = pc.equal(table["status"].cast(pa.string()), "ok").to_numpy()
        tables.append(table.filter(pa.array(is_ok & np.isin(row_numbers(table, KEY), wanted))))
    found = pa.concat_tables(tables).unify_dictionaries()
    numbers = row_numbers(found, KEY)
    return found.take(pa.array(np.lexsort((found["finished_at"].cast(pa.int64()).to_numpy(), numbers))))


def _compare(rows: pa.Table, findings: Findings) -> None:
    """Each row with the one before it, where both are of one key."""
    keys = row_numbers(rows, KEY)
    commits = row_numbers(rows, ("run_id", "finished_at"))
    pairs = np.flatnonzero(keys[1:] == keys[:-1])
    is_copy = commits[1:][pairs] == commits[:-1][pairs]
    for name in RESULTS:
        values = pc.fill_null(rows[name].cast(pa.float64()), np.nan).to_numpy()
        valid = pc.is_valid(rows[name]).to_numpy()
        one, other = values[:-1][pairs], values[1:][pairs]
        both = valid[:-1][pairs] & valid[1:][pairs]
        tolerance = TOLERANCES["records"].get(name, EXACT)
        with np.errstate(invalid="ignore"):
            near = np.abs(one - other) <= tolerance.absolute + tolerance.relative * np.abs(one)
        equal = (one == other) | (np.isnan(one) & np.isnan(other))
        differs = both & ~equal & (is_copy | ~near)
        if differs.any():
            at = int(pairs[differs.argmax()])
            key = [str(rows[part][at].as_py()) for part in KEY]
            findings.wrong(
                "doubles",
                f"{name}: {one[differs][0]:g} and {other[differs][0]:g} in {int(differs.sum())} pairs of rows of one "
                f"key, first of row {row_id(*key)}: the latest counts",
            )
