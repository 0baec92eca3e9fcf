"""Lines about a head that does not answer as it should, and the places that its nodes share."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
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
        jobs.Dashboard.reach(address)


def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "ANSWER_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(UserError, match="got no answer"):
        _ = jobs.Dashboard(f"http://127.0.0.1:{silent.getsockname()[1]}").num_nodes


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
        (404, b"", "expected an answer of a Ray head's dashboard, got another one .status 404"),
        (200, b"<html>", "expected an answer of a Ray head's dashboard, got another one .status 200"),
        (403, b"Forbidden: Invalid token", r"a token that this head takes .Forbidden: Invalid token.: set RAY_AUTH"),
    ],
)
def test_another_server_or_a_wrong_token_is_told(status: int, body: bytes, complaint: str) -> None:
    with answering(status, body) as url, pytest.raises(UserError, match=complaint):
        _ = jobs.Dashboard(url).num_nodes


def test_only_nodes_that_are_alive_are_counted() -> None:
    body = b'{"data": {"result": {"result": [{"state": "ALIVE"}, {"state": "DEAD"}, {"state": "ALIVE"}]}}}'
    with answering(200, body) as url:
        assert jobs.Dashboard(url).num_nodes == 2


def test_a_job_is_told_by_its_id_state_and_store() -> None:
    sent = {"submission_id": "a", "status": "RUNNING", "start_time": 2, "metadata": {"out": "s3://lab/a"}}
    others = [sent | {"submission_id": None}, sent | {"submission_id": "b", "start_time": 1, "metadata": None}]
    with answering(200, json.dumps([sent, *others]).encode()) as url:
        told = jobs.Dashboard(url).job_lines()
    assert [*told.items()] == [("b", "b: running, not a job of freqbench"), ("a", "a: running, s3://lab/a")]


def test_a_command_of_ray_that_fails_is_one_line() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(UserError, match=rf"^ray job list at {url}: expected it to end well, got .*Failed to connect"):
        jobs.Dashboard(url).ray_job("list")


def test_a_missing_jobs_api_is_one_line_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "find_spec", lambda name: None if name == "aiohttp" else name)
    with pytest.raises(UserError, match=r"pip install '.\[cluster\]' in a clone of freqbench"):
        cluster.stop("freqbench-a-1")


def test_networks_that_a_job_trains_go_where_all_nodes_read_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs.Dashboard, "num_nodes", 3)

    def kept(out: str) -> list[str]:
        head = jobs.Dashboard("http://head:8265")
        return list(cluster._shared_places([TrainingEntry(job="adv.yaml", out=out)], head, "job.yaml"))

    assert kept("file:///nets") == ['training.0.out="file:///nets"']
    assert kept("${NETS}/adv") == []
    shared = r"^job.yaml: training\[0\].out runs/adv: expected a place that the 3 nodes .* share"
    for out, complaint in (("runs/adv", shared), ("https://me:secret@host/x", "expected URIs without credentials")):
        with pytest.raises(UserError, match=complaint):
            kept(out)
