"""What `reproduce` and `verify` say."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from freqbench.audit.reproduce import Reproducer, Reproduction
from freqbench.audit.verify import verify
from freqbench.core.errors import UserError
from freqbench.job.schema import JobSpec
from freqbench.results import Store
from freqbench.results.rowid import find_row, sample_rows

MOST_DIFFERENCES = 30
WORDS = {
    "equal": "equal to the bit",
    "close": "equal within the tolerances, not to the bit",
    "different": "DIFFERENT",
    "not recomputed": "not recomputed",
}
NONE_DIFFERS = (
    "nothing that is known differs: device, versions, code, threads, window batch, processor, data, checkpoint"
)


def reproduce(out: str, row: str | None, count: int | None, seed: int, job: JobSpec | None, console: Console) -> bool:
    """Recompute one row or some, and say what came of each.

    Args:
        out: folder or URI of the store.
        row: the beginning of a row's id.
        count: or how many rows to draw.
        seed: of the draw.
        job: in place of the store's, see `Reproducer`.
        console: where it is said.

    Returns:
        Whether none differs.

    Raises:
        UserError: not one of `row` and `count`, no such row, or the one row cannot be recomputed.
    """
    if (row is None) == (count is None):
        got = "none" if row is None else "both"
        raise UserError(f"reproduce: expected one of --row ID and --random N, got {got}: see reproduce --help")
    store = Store(out)
    keys = [find_row(store, row)] if row is not None else sample_rows(store, count or 1, seed)
    counts: Counter[str] = Counter()
    for made in Reproducer(store, job).each(keys):
        if row is not None and made.verdict == "not recomputed":
            raise UserError(f"row {made.row_id}: {made.label}: {made.reason}")
        counts[made.verdict] += 1
        _say(made, console)
    if len(keys) > 1:
        console.print(total(counts), soft_wrap=True)
    return not counts["different"]


def _say(made: Reproduction, console: Console) -> None:
    """What came of one row: a line, what differs, and why it may."""
    values = f" ({made.comparison.compared} values)" if made.comparison else ""
    lines = [f"row {made.row_id}: {WORDS[made.verdict]}: {made.label}{values}"]
    lines += [f"  {made.reason}"] if made.reason else []
    lines += [f"  left out: {text}" for text in _left_out(made.comparison.skipped if made.comparison else {})]
    console.print("\n".join(lines), soft_wrap=True)
    if made.comparison is None:
        return
    if differences := made.comparison.differences:
        columns = ("stored", "recomputed", "difference", "tolerance")
        table = Table("column", *(Column(name, justify="right", overflow="fold") for name in columns))
        for each in differences[:MOST_DIFFERENCES]:
            by = "" if each.by is None else f"{each.by:+.3g}"
            mark = "" if each.is_tolerated else " (beyond)"
            table.add_row(each.column, _value(each.stored), _value(each.found), by, f"{each.tolerance}{mark}")
        if len(differences) > MOST_DIFFERENCES:
            table.caption = f"and {len(differences) - MOST_DIFFERENCES} more"
        console.print(table)
    if differences or made.reason:
        causes = [f"differs: {cause.text}" for cause in made.causes] or [NONE_DIFFERS]
        console.print("\n".join(f"  {text}" for text in causes), soft_wrap=True)


def _left_out(skipped: Mapping[str, str]) -> Sequence[str]:
    """Columns that were not compared, those of one reason together."""
    reasons: dict[str, list[str]] = {}
    for name, reason in skipped.items():
        reasons.setdefault(reason, []).append(name)
    return [f"{', '.join(names)}: {reason}" for reason, names in reasons.items()]


def _value(value: Any) -> str:
    return repr(value) if isinstance(value, float) else "none" if value is None else str(value)


def total(counts: Mapping[str, int]) -> str:
    """One line over all rows.

    >>> total({"equal": 19, "different": 1})
    '20 rows: 19 equal to the bit, 1 DIFFERENT'
    """
    parts = [f"{counts[verdict]} {words}" for verdict, words in WORDS.items() if counts.get(verdict)]
    return f"{sum(counts.values())} rows: {', '.join(parts)}"


def check(out: str, with_volumes: bool, console: Console) -> bool:
    """Verify a store, and say what each check found.

    Returns:
        Whether nothing is wrong.

    Raises:
        UserError: no store is there, or a newer release wrote it.
    """
    checks = verify(Store(out), with_volumes)
    table = Table("check", Column("verdict", no_wrap=True), Column("what was found", overflow="fold"), title=out)
    for each in checks:
        table.add_row(each.name, each.verdict, each.text)
    console.print(table)
    return all(each.verdict != "wrong" for each in checks)
