"""Counts the progress of a store's job from the store's files alone: neither data nor checkpoints are needed."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.table import Column, Table

from freqbench.core.config import Strict, validate
from freqbench.core.terminal import amount
from freqbench.results import KEY, Store, index_keys

MOST_WORKERS = 20
RUN = ("run_id", "status", "records", "failed", "heartbeat")


def facts(out: str) -> dict[str, Any]:
    """Returns the content of `status --json`: `out`; `records`: `wanted`, `ok`, `failed`, `left`; `attacks`: `attack`,
    `source`, `ok`, `failed` of each; `runs`: the fields RUN, or null, and `warnings`; `workers` of each unfinished run,
    else of the last one. Raises UserError if the store does not exist or cannot be read."""
    store = Store(out)
    wanted = index_keys(store.job()["index"])
    counts = Counter(row[3:] for row in store.rows((*KEY, "attack", "source_model", "status")) if row[:3] in wanted)
    groups = sorted({group[:2] for group in counts})
    attacks = [_attack(counts, *group) for group in groups]
    ok = sum(row["ok"] for row in attacks)
    failed = sum(row["failed"] for row in attacks)
    runs = store.runs()
    latest = [run for run in runs if run.get("status") == "running"] or runs[-1:]
    workers = [{"run_id": run["run_id"], "workers": run["workers"]} for run in latest if run.get("workers")]
    return {
        "out": out,
        "records": {"wanted": len(wanted), "ok": ok, "failed": failed, "left": len(wanted) - counts.total()},
        "attacks": attacks,
        "runs": [*map(_run, runs)],
        "workers": workers,
    }


def _attack(counts: Counter[Any], attack: str, source: str) -> dict[str, Any]:
    ok = counts[attack, source, "ok"]
    failed = counts[attack, source, "failed"]
    return {"attack": attack, "source": source, "ok": ok, "failed": failed}


def _run(facts: Mapping[str, Any]) -> dict[str, Any]:
    warnings = facts.get("warnings")
    return {name: facts.get(name) for name in RUN} | {"warnings": len(warnings) if isinstance(warnings, list) else 0}


def tables(found: Mapping[str, Any]) -> list[Table]:
    """Returns tables of `facts`: records by attack and source, runs, and the workers of each run."""
    records = found["records"]
    title = f"{found['out']}: {records['ok'] + records['failed']} of {amount(records['wanted'], 'record')}"
    progress = Table(*(Column(head, overflow="fold") for head in ("attack", "source", "ok", "failed")), title=title)
    for row in found["attacks"]:
        progress.add_row(*map(str, row.values()))
    progress.add_row("not done yet", "", str(records["left"]), "")
    heads = (Column(head, overflow="fold") for head in ("status,\nlast seen", "records", "failed", "warnings"))
    runs = Table(Column("run", no_wrap=True), *heads, title="runs")
    for run in found["runs"]:
        texts = {name: "" if value is None else str(value) for name, value in run.items()}
        status = f"{texts['status']}\n{texts['heartbeat'][5:16].replace('T', ' ')}".strip()
        runs.add_row(texts["run_id"], status, texts["records"], texts["failed"], texts["warnings"])
    return [progress, runs, *(_workers(found["out"], run) for run in found["workers"])]


class _Worker(Strict):
    worker: int
    node: str
    units: int
    load_seconds: float
    device_seconds: float
    idle_seconds: float

    @property
    def seconds(self) -> tuple[float, float, float]:
        return self.load_seconds, self.device_seconds, self.idle_seconds

    @property
    def share(self) -> float:
        return self.device_seconds / (sum(self.seconds) or 1.0)


def _workers(out: str, run: Mapping[str, Any]) -> Table:
    """Tabulates the time of a run's workers: of all, and of those whose devices had least work."""
    workers = [validate(facts, _Worker, f"{out}/runs/{run['run_id']}.json") for facts in run["workers"]]
    title = f"workers of {run['run_id']}"
    columns = ("worker", "node", "load s", "device s", "idle s", "device share")
    table = Table(*(Column(head, overflow="fold") for head in columns), title=title)
    times = zip(*(worker.seconds for worker in workers), strict=True)
    load, device, idle = map(sum, times)
    everyone = _Worker(worker=0, node="", units=0, load_seconds=load, device_seconds=device, idle_seconds=idle)
    least = sorted(sorted(workers, key=lambda one: one.share)[:MOST_WORKERS], key=lambda one: one.worker)
    for name, one in ((f"all {len(workers)}", everyone), *((str(one.worker), one) for one in least)):
        seconds = (f"{value:.0f}" for value in one.seconds)
        table.add_row(name, one.node, *seconds, f"{100 * one.share:.0f} %")
    if len(workers) > MOST_WORKERS:
        table.caption = f"the {MOST_WORKERS} of least device share"
    return table
