"""A client's lines about a head that does not answer as it should, and the way it follows a job."""

import asyncio
import os
import socket
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from ray.job_submission import JobStatus
from s3_server import free_port

from freqbench.cli import cluster
from freqbench.core.errors import UserError
from freqbench.job.training import TrainingEntry
from freqbench.remote import jobs


@pytest.fixture(autouse=True)
def no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray remembers for the whole process that there is one."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        (None, "expected --address http://HEAD:8265, or RAY_API_SERVER_ADDRESS, got neither"),
        ("ray://head:10001", "--address ray://head:10001: expected http://HEAD:8265"),
        ("http://", "--address http://: expected http://HEAD:8265"),
    ],
)
def test_an_address_that_is_no_dashboard_s_is_refused(address: str | None, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        jobs.Dashboard(address)


def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "ANSWER_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(UserError, match="got no answer"):
        jobs.Dashboard(f"http://127.0.0.1:{silent.getsockname()[1]}")


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """A server that always says the same."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "body", "complaint"),
    [
        (404, b"", "expected the dashboard of a Ray head, got an answer without its version .status 404"),
        (200, b"<html>", "expected the dashboard of a Ray head, got "),
        (200, b'{"version": "4", "ray_version": "2.49.1"}', r"expected Ray 2\..*, got a cluster of Ray 2.49.1"),
        (
            403,
            b"Forbidden: Invalid token",
            r"expected a token that this head takes .Forbidden: Invalid token.: set RAY",
        ),
    ],
)
def test_another_server_another_ray_or_a_wrong_token_is_told(status: int, body: bytes, complaint: str) -> None:
    with answering(status, body) as url, pytest.raises(UserError, match=complaint):
        jobs.Dashboard(url)


def test_the_address_that_is_given_goes_before_the_variables_of_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    given, other = free_port(), free_port()
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", f"http://127.0.0.1:{other}")
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{other}")
    with pytest.raises(UserError, match=f"http://127.0.0.1:{given}: .*got no answer: check --address"):
        jobs.Dashboard(f"http://127.0.0.1:{given}")
    assert os.environ["RAY_API_SERVER_ADDRESS"] == f"http://127.0.0.1:{other}"


def test_a_missing_jobs_api_is_one_line_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    monkeypatch.delitem(sys.modules, "freqbench.remote.jobs")
    monkeypatch.delattr("freqbench.remote.jobs")
    with pytest.raises(UserError, match=r"pip install '.\[cluster\]' in a clone of freqbench"):
        cluster.status("freqbench-a-1")


def test_a_store_named_like_a_job_is_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "freqbench-runs").mkdir()
    with pytest.raises(UserError, match="freqbench-runs"):
        cluster.status("freqbench-runs")


RAYS_OWN = "2026-11-28 12:31:52,755\tINFO job_manager.py:581 -- Runtime env is setting up.\n"


class Known(jobs.Dashboard):
    """A head of three nodes that nobody has to ask; it knows one job, whose connection breaks once."""

    def __init__(self) -> None:
        self.url, self._client, self.broke = "http://head:8265", self, False

    def _require_answer(self) -> str:
        return "2.60.0"

    def num_nodes(self) -> int:
        return 3

    def get_job_info(self, job_id: str) -> Any:
        if job_id != "known":
            raise RuntimeError("Request failed with status code 404: Job unknown does not exist.")
        return SimpleNamespace(status=JobStatus.FAILED if self.broke else JobStatus.RUNNING, driver_exit_code=2)

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        yield RAYS_OWN + "one\n"
        yield "two"
        if not self.broke:
            self.broke = True
            raise RuntimeError("the connection was lost")
        yield "\nthree\n"


@pytest.mark.usefixtures("own_loop")
def test_a_connection_that_breaks_is_taken_up_again_and_nothing_is_shown_twice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command ends as the job did."""
    monkeypatch.setattr(jobs, "POLL_S", 0.0)
    with pytest.raises(typer.Exit) as ended:
        cluster._follow(jobs, Known(), "known")
    assert ended.value.exit_code == 2
    assert capsys.readouterr().out == "one\ntwo\nthree\nknown: FAILED\n"
    with pytest.raises(UserError, match=r"^unknown: expected a job that http://head:8265 knows, found none: see"):
        asyncio.run(Known().follow("unknown", print))


def test_stop_waits_until_the_job_has_flushed(monkeypatch: pytest.MonkeyPatch) -> None:
    head, states = Known(), iter([JobStatus.RUNNING, JobStatus.RUNNING, JobStatus.STOPPED])
    monkeypatch.setattr(jobs, "POLL_S", 0.0)
    monkeypatch.setattr(head, "stop_job", lambda job_id: True, raising=False)
    monkeypatch.setattr(head, "get_job_info", lambda job_id: SimpleNamespace(status=next(states)))
    assert head.stop("known").status == JobStatus.STOPPED


def test_ctrl_c_stops_following_and_the_job_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(coroutine: Any) -> None:
        coroutine.close()
        raise KeyboardInterrupt

    monkeypatch.setattr(asyncio, "run", interrupted)
    with pytest.raises(typer.Exit) as ended:
        cluster._follow(jobs, Known(), "known")
    assert ended.value.exit_code == 130
    said = " ".join(capsys.readouterr().out.split())
    assert said == "known goes on: freqbench cluster status known --address http://head:8265, or cluster stop"


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [("SUCCEEDED", 0, 0), ("STOPPED", None, 130), ("FAILED", 1, 1), ("FAILED", 2, 2), ("FAILED", 137, 1)],
)
def test_a_followed_job_ends_with_the_exit_code_that_run_has(status: str, code: int | None, expected: int) -> None:
    details: Any = SimpleNamespace(status=JobStatus(status), driver_exit_code=code)
    assert jobs.exit_code(details) == expected


def test_networks_that_a_job_trains_go_where_all_nodes_read_them() -> None:
    def kept(out: str) -> list[str]:
        return list(cluster._shared_places([TrainingEntry(job="adv.yaml", out=out)], Known(), "job.yaml"))

    assert kept("file:///nets") == ['training.0.out="file:///nets"']
    assert kept("${NETS}/adv") == []
    shared = r"^job.yaml: training\[0\].out runs/adv: expected a place that the 3 nodes .* share"
    for out, complaint in (("runs/adv", shared), ("https://me:secret@host/x", "expected URIs without credentials")):
        with pytest.raises(UserError, match=complaint):
            kept(out)
