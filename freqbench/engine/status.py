"""How far a store is, from its files alone: neither data nor checkpoints are needed."""

from rich.table import Column, Table

from freqbench.grid import index_keys
from freqbench.results import KEY, Store


def of_store(out: str) -> list[Table]:
    """A table of records by attack and source, and one of runs.

    Raises:
        UserError: no store is there, or it cannot be read.
    """
    store = Store(out)
    wanted = index_keys(store.job()["index"])
    records = store.records().select([*KEY, "status", "attack", "source_model", "error"]).to_pylist()
    mine = [row for row in records if tuple(row[name] for name in KEY) in wanted]
    groups: dict[tuple[str, str], dict[str, int]] = {}
    for row in mine:
        group = groups.setdefault((row["attack"], row["source_model"]), {"ok": 0, "failed": 0})
        group[row["status"]] += 1
    missing = len(wanted) - len(mine)
    progress = Table("attack", "source", "ok", "failed", title=f"{out}: {len(mine)} of {len(wanted)} records")
    for (attack, source), group in sorted(groups.items()):
        progress.add_row(attack, source, str(group["ok"]), str(group["failed"]))
    progress.add_row("not done yet", "", str(missing), "")
    runs = Table(
        Column("run", no_wrap=True), "status", "records", "failed", "last sign of life", "warnings", title="runs"
    )
    for run in store.runs():
        facts = (run.get(name, "") for name in ("run_id", "status", "records", "failed", "heartbeat"))
        runs.add_row(*map(str, facts), str(len(run.get("warnings", []))))
    return [progress, runs]
