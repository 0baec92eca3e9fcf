"""How far a store is, from its files alone: neither data nor checkpoints are needed."""

from collections import Counter

from rich.table import Column, Table

from freqbench.results import KEY, Store, index_keys


def of_store(out: str) -> list[Table]:
    """A table of records by attack and source, and one of runs.

    Raises:
        UserError: no store is there, or it cannot be read.
    """
    store = Store(out)
    wanted = index_keys(store.job()["index"])
    records = store.records((*KEY, "attack", "source_model", "status"))
    rows = zip(*(column.to_pylist() for column in records.columns), strict=True)
    counts = Counter(row[3:] for row in rows if row[:3] in wanted)
    progress = Table("attack", "source", "ok", "failed", title=f"{out}: {counts.total()} of {len(wanted)} records")
    for attack, source in sorted({group[:2] for group in counts}):
        progress.add_row(attack, source, *(str(counts[attack, source, status]) for status in ("ok", "failed")))
    progress.add_row("not done yet", "", str(len(wanted) - counts.total()), "")
    runs = Table(
        Column("run", no_wrap=True), "status", "records", "failed", "last sign of life", "warnings", title="runs"
    )
    for run in store.runs():
        facts = (run.get(name, "") for name in ("run_id", "status", "records", "failed", "heartbeat"))
        runs.add_row(*map(str, facts), str(len(run.get("warnings", []))))
    return [progress, runs]
