"""Requests of a run to an object storage, as a ratio to its seconds."""

import io
from collections import Counter
from types import SimpleNamespace

import pytest
from rich.console import Console
from s3_server import S3
from tiny_job import expanded, small
from tools.benchmarks.answers import answer

from freqbench.core.files import storage
from freqbench.engine import run
from freqbench.job.plan import make_plan
from freqbench.results import Store, writer


@pytest.mark.parametrize(
    "units_a_second", [pytest.param(2, marks=pytest.mark.chaos), pytest.param(51, marks=pytest.mark.integration)]
)
def test_requests_grow_with_seconds(units_a_second: int, s3: S3, s3_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most a file and a sign of life in five seconds or 5,000 records; it lists when it begins and ends."""
    now = [0.0]
    for module in (run, writer):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    attack = {"name": "gn", "std": [i / 4000 for i in range(1, 1001)]}
    plan = make_plan(expanded(small(attacks=[attack], metrics=["dsc"]))[1], {})

    s3.requests()
    with monkeypatch.context() as patch:
        patch.setattr(Store, "compact", lambda *_: None)
        store = Store(s3_root)
        recorder = run.Recorder(store, plan, Console(file=io.StringIO()))
        with recorder.record_rows() as spec:
            for unit in plan.units:
                now[0] += 1 / units_a_second
                recorder.take(answer(unit, spec.run_id))
                recorder.tick([])
        run.Additions.read(store).add_targets(plan.grid).write(store, plan.grid.job)
    asked = s3.requests()
    lists = sum(request in ("GET /lab", "GET /lab/") for request in asked)
    puts = sum(request.startswith("PUT ") for request in asked)
    commits = len(storage.list_files(storage.join(s3_root, "records"), ".parquet"))
    seconds = 1000 / units_a_second
    assert len(Store(s3_root).covered()) == 1000
    assert commits <= seconds / 5 + 1
    assert puts <= 2 * commits + seconds / 20 + 5, "each and the run's file; begin, heartbeats and end"
    assert lists <= 12
    print(f"\n{units_a_second} units/s, 1,000 units: {commits} files, {puts} PUT, {lists} LIST")
    s3.requests()
    Store(s3_root).compact()
    merging = s3.requests()
    left = storage.list_files(storage.join(s3_root, "records"), ".parquet")
    print(f"compaction: {dict(Counter(request.split()[0] for request in merging))}, {len(left)} file left")
    assert len(left) == 1
    assert len(merging) <= 6 * commits + 24
