"""Workers that Ray ends because their machine runs low on memory."""

import pytest
from engine.cases import units_of
from engine.ray_session import ray_session
from tiny_job import Collector, small

from freqbench.core.errors import UserError
from freqbench.engine.ray import ray_engine, ray_workers
from freqbench.engine.resources import Pool
from freqbench.engine.schedule import Schedule
from freqbench.engine.worker import WorkerSpec


@pytest.mark.integration
def test_workers_ended_for_memory_come_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray takes any use of memory for too much."""
    for name, value in {"CRASHES": 2, "START_S": 0.0}.items():
        monkeypatch.setattr(ray_workers, name, value)
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.001")
    listener, pool = Collector(), Pool(workers=1, threads=1, gpus=0)
    with ray_session(1), pytest.raises(UserError, match="no worker starts: see the warnings above"):
        ray_engine.run(Schedule(units_of(small())), WorkerSpec(run_id="r", metrics=("dsc",)), pool, listener)
    advice = "Ray ended it, as its machine ran low on memory: take fewer workers (resources.workers), or free memory"
    assert listener.said == [
        f"worker 1 died while it started: {advice}",
        f"worker 1 does not start, and the run goes on without it: {advice}",
    ]
