"""Jobs on a real head of Ray that train, or are stopped and submitted again."""

import re
import time
from pathlib import Path

import pytest
import tiny_training
from remote.test_cluster import Bench, bench, head, id_in
from tiny_job import job, write

from freqbench.results import Store

__all__ = ["bench", "head"]

pytestmark = pytest.mark.chaos


def test_training_job_leaves_its_network_with_its_results(bench: Bench, tmp_path: Path) -> None:
    """The training job travels; its network is where the next submission looks for it, not in the job's own copy."""
    tiny_training.write(tmp_path, "adv.yaml", tiny_training.training())
    write(tmp_path, tiny_training.benchmark("train://net"))
    text = bench("cluster", "submit", "job.yaml", "--out", "out", "--follow")
    place = tmp_path / "runs" / "adv"
    assert f"adv: training net first, into {place} (the same command goes on)" in " ".join(text.split())
    assert "\n1 record in " in text
    assert (place / "net" / "training.json").is_file()


@pytest.mark.timeout(1200)
def test_stopped_job_goes_on_when_submitted_again(bench: Bench, tmp_path: Path) -> None:
    """Units take seconds, and are enough that the job is still at work when it is stopped."""
    write(tmp_path, job(attacks=[{"name": "pgd", "eps": [f"{n}/255" for n in range(1, 9)], "steps": 300}]))
    job_id = id_in(bench("cluster", "submit", "job.yaml", "--out", "out"))

    def stored() -> int:
        out = tmp_path / "out"
        return sum(run["records"] for run in Store(str(out)).runs()) if out.exists() else 0

    end = time.monotonic() + 400
    while not stored() and time.monotonic() < end:
        time.sleep(0.5)
    assert bench("cluster", "stop", job_id).endswith(f"{job_id}: stopped, {tmp_path / 'out'}\n")
    assert f"stopped: {stored()} records kept" in bench("cluster", "status", job_id)
    assert 0 < stored() < 64
    (run,) = Store(str(tmp_path / "out")).runs()
    assert (run["status"], run["records"]) == ("interrupted", stored())

    again = bench("cluster", "submit", "job.yaml", "--out", "out", "--follow", "--set", "attacks.0.eps=1/255")
    counts = re.search(r"\n(\d+) records? in \d+ s, (\d+) were there before", again)
    assert counts is not None
    assert sum(map(int, counts.groups())) == 8
    listed = bench("cluster", "status")
    for name, status in ((job_id, "stopped"), (id_in(again), "succeeded")):
        assert f"{name}: {status}, {tmp_path / 'out'}\n" in listed
