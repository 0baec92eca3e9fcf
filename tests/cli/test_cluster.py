"""`submit`, `status`, `stop` and `jobs` as they are typed, over a Jobs API in memory; `tests/remote` has a real one."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command_line import Bench, refused
from ray.job_submission import JobStatus
from tiny_job import small, write

from freqbench.remote import jobs


class Client:
    """Ray's client for jobs that never start; one that is told to stop has stopped when it is asked again."""

    def __init__(self) -> None:
        self.known: dict[str, Any] = {}
        self.log = ""

    def submit_job(self, *, entrypoint: str, submission_id: str, metadata: dict[str, str], runtime_env: Any) -> None:
        self.log = f"ray says\n{entrypoint}\n"
        self.known[submission_id] = SimpleNamespace(
            submission_id=submission_id,
            status=JobStatus.RUNNING,
            message="it runs, last available logs: none",
            metadata=metadata,
            start_time=1_700_000_000_000,
            end_time=None,
            driver_exit_code=None,
            files=sorted(path.name for path in Path(runtime_env["working_dir"]).iterdir()),
        )

    def list_jobs(self) -> list[Any]:
        return [*self.known.values(), SimpleNamespace(submission_id=None)]

    def get_job_info(self, job_id: str) -> Any:
        return self.known[job_id]

    def get_job_logs(self, job_id: str) -> str:
        if self.log == "gone":
            raise RuntimeError("Request failed with status code 500")
        return self.log

    def stop_job(self, job_id: str) -> None:
        self.known[job_id].status = JobStatus.STOPPED


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    client = Client()

    def connect(head: Any, address: str | None) -> None:
        head.url, head._client = address or "http://head:8265", client

    monkeypatch.setattr(jobs.Dashboard, "__init__", connect)
    monkeypatch.setattr(jobs.Dashboard, "_require_answer", lambda head: "2")
    monkeypatch.setattr(jobs.Dashboard, "num_nodes", lambda head: 1)
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    return client


@pytest.fixture
def sent(client: Client, small_copy: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench) -> str:
    """The id of a job that writes to `out`, which is there."""
    monkeypatch.chdir(small_copy.parent)
    code, said, _ = bench("cluster", "submit", "job.yaml", "--out", "out", "--shard", "1/2", "--set", "seeds=[3]")
    assert code == 0
    (job_id,) = client.known
    assert said.splitlines()[0].startswith(f"submitted {job_id}; files that travel: 1 (")
    assert said.splitlines()[1] == f"freqbench cluster status {job_id} --address http://head:8265"
    return job_id


def test_a_job_is_sent_with_its_options_and_its_store(client: Client, sent: str, tmp_path: Path) -> None:
    command = client.log.splitlines()[1]
    assert command.startswith("exec python -m freqbench run job.yaml --address auto --engine ray --out ")
    assert command.endswith(f"{tmp_path / 'out'} --set 'seeds=[3]' --shard 1/2")
    assert client.known[sent].files == ["job.yaml"]


def test_status_shows_the_job_its_last_lines_and_its_store(client: Client, sent: str, bench: Bench) -> None:
    client.log = "".join(f"line {i}\n" for i in range(20))
    code, said, _ = bench("cluster", "status", sent)
    assert code == 0
    for text in ("RUNNING", "it runs", "2023-11-14 22:13:20", "line 19", "1 of 1 record"):
        assert text in " ".join(said.split())
    assert "line 9\n" not in said
    assert "ended (UTC)" not in said
    assert "last available" not in said


def test_status_of_a_job_as_json_has_its_store(client: Client, sent: str, bench: Bench) -> None:
    status = json.loads(bench("cluster", "status", sent, "--json")[1])
    assert (status["id"], status["status"], status["started"]) == (sent, "RUNNING", "2023-11-14 22:13:20")
    assert status["store"]["records"] == {"wanted": 1, "ok": 1, "failed": 0, "left": 0}
    client.known[sent].metadata["out"] = "nowhere"
    _, said, err = bench("cluster", "status", sent, "--json")
    assert json.loads(said)["store"] is None
    assert err.startswith("nowhere cannot be read from here")


def test_status_says_what_of_a_job_cannot_be_read_from_here(client: Client, sent: str, bench: Bench) -> None:
    """Neither the log, whose node is gone, nor the store, which only nodes reach."""
    client.log, client.known[sent].metadata["out"] = "gone", "nowhere"
    code, said, _ = bench("cluster", "status", sent)
    assert code == 0
    assert said.splitlines()[-1].startswith(
        "nowhere cannot be read from here: nowhere/run.json: expected a result store"
    )
    client.known[sent].metadata = None
    assert "cannot be read" not in bench("cluster", "status", sent)[1]


def test_a_job_is_stopped_once(client: Client, sent: str, bench: Bench) -> None:
    code, said, _ = bench("cluster", "stop", sent)
    assert code == 0
    assert said.splitlines()[0] == f"stopping {sent}: it stores work in flight first"
    assert said.splitlines()[-1] == f"{sent}: STOPPED"
    assert bench("cluster", "stop", sent)[1] == f"{sent} had already ended: STOPPED\n"


def test_a_job_that_does_not_stop_is_1_and_ctrl_c_meanwhile_130(
    client: Client, sent: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "stop_job", lambda job_id: None)
    monkeypatch.setattr(jobs, "STOP_S", 0)
    monkeypatch.setattr(jobs, "ANSWER_S", 0.05)
    monkeypatch.setattr(jobs, "POLL_S", 0.01)
    code, said, _ = bench("cluster", "stop", sent)
    assert code == 1
    assert f"it takes longer than it should: freqbench cluster status {sent} --address http://head:8265" in said

    def interrupt(head: Any, job_id: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs.Dashboard, "stop", interrupt)
    code, said, _ = bench("cluster", "stop", sent, "--address", "http://other:8265")
    assert code == 130
    assert (
        f"{sent} was told to stop, and may still be running: freqbench cluster status {sent} --address http://other"
        in said
    )


def test_the_jobs_of_a_cluster_are_listed(client: Client, sent: str, bench: Bench) -> None:
    client.known["raysubmit_1"] = SimpleNamespace(
        submission_id="raysubmit_1", status=JobStatus.PENDING, metadata=None, start_time=None
    )
    code, said, complaint = bench("cluster", "list", "--address", "http://other:8265")
    assert (code, complaint) == (0, "")
    assert "http://other:8265" in said
    assert said.index("PENDING") < said.index("RUNNING")  # the latest last
    assert f"\n{sent}  RUNNING    2023-11-14 22:13:20  " in said  # on a line, however narrow


def test_a_name_that_is_neither_a_store_nor_an_id_says_how_to_list_ids(bench: Bench) -> None:
    assert refused(bench, "cluster", "status", "spleen") == (
        "error: spleen: expected a result store, or a job's id such as freqbench-NAME-20260131-120000-1a2b, found "
        "neither: freqbench cluster list shows the ids\n"
    )


@pytest.mark.usefixtures("own_loop")
def test_a_job_that_is_followed_ends_as_it_does(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench
) -> None:
    async def follow(head: Any, job_id: str, write: Any) -> Any:
        write("a line\n")
        return SimpleNamespace(status=JobStatus.FAILED, driver_exit_code=1)

    monkeypatch.setattr(jobs.Dashboard, "follow", follow)
    monkeypatch.chdir(tmp_path)
    code, said, _ = bench("cluster", "submit", write(tmp_path, small()), "--follow", "--force")
    (job_id,) = client.known
    assert (code, said.splitlines()[-2:]) == (1, ["a line", f"{job_id}: FAILED"])
    assert client.known[job_id].metadata["out"] == str(tmp_path / "runs" / "tiny")
    assert "--force" in client.log


def test_logs_are_the_whole_output_of_a_job(client: Client, sent: str, bench: Bench) -> None:
    client.log = "".join(f"line {i}\n" for i in range(20))
    client.log = (
        f"2026-11-28 12:31:52,755\tINFO job_manager.py:581 -- Runtime env is setting up.\n{(whole := client.log)}"
    )
    assert bench("cluster", "logs", sent)[:2] == (0, whole)
    client.log = "gone"
    assert bench("cluster", "logs", sent)[1].startswith(f"{sent}: no output: ")
