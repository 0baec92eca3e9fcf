"""What a client says where no head answers as it should: each a line."""

import os
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import cluster_session
import pytest

from freqbench.cli import cluster
from freqbench.core.errors import UserError
from freqbench.remote import jobs


@pytest.fixture(autouse=True)
def no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray remembers for the whole process that there is one."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)


def test_no_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="expected --address http://HEAD:8265, or RAY_API_SERVER_ADDRESS, got neither"):
        jobs.Head(None)


@pytest.mark.parametrize("address", ["ray://head:10001", "ftp://head", "http://"])
def test_an_address_that_is_no_dashboard_s_is_refused(address: str) -> None:
    with pytest.raises(UserError, match=f"--address {address}: expected http://HEAD:8265"):
        jobs.Head(address)


def test_where_nobody_answers_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = cluster_session.free_ports(1)
    with pytest.raises(UserError, match="expected the dashboard of a Ray head, got no answer: check --address"):
        jobs.Head(f"127.0.0.1:{port}")


def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "ANSWER_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(UserError, match="got no answer"):
        jobs.Head(f"http://127.0.0.1:{silent.getsockname()[1]}")


@pytest.mark.parametrize(
    ("status", "body", "complaint"),
    [
        (404, b"", "expected the dashboard of a Ray head, got an answer without its version .status 404"),
        (200, b"<html>", "expected the dashboard of a Ray head, got "),
        (200, b'{"version": "4", "ray_version": "2.59.1"}', "expected Ray 2.60.*, got a cluster of Ray 2.59.1"),
    ],
)
def test_another_server_or_another_ray_is_told(status: int, body: bytes, complaint: str) -> None:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(UserError, match=complaint):
            jobs.Head(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()


def test_the_address_that_is_given_goes_before_the_variables_of_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    (given, other) = cluster_session.free_ports(2)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", f"http://127.0.0.1:{other}")
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{other}")
    with pytest.raises(UserError, match=f"http://127.0.0.1:{given}: "):
        jobs.Head(f"http://127.0.0.1:{given}")
    assert os.environ["RAY_API_SERVER_ADDRESS"] == f"http://127.0.0.1:{other}"


def test_without_the_jobs_api_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    monkeypatch.delitem(sys.modules, "freqbench.remote.jobs")
    monkeypatch.delattr("freqbench.remote.jobs")
    with pytest.raises(UserError, match=r"pip install 'freqbench\[cluster\]'"):
        cluster.status("freqbench-a-1")


def test_a_store_named_like_a_job_is_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "freqbench-runs").mkdir()
    with pytest.raises(UserError, match="freqbench-runs"):
        cluster.status("freqbench-runs")


class Many(jobs.Head):
    """A head of three nodes that nobody has to ask."""

    def __init__(self) -> None: ...

    def num_nodes(self) -> int:
        return 3


def kept(out: str) -> list[str]:
    return list(cluster._kept([{"job": {}, "out": out}], Many(), "job.yaml"))


def test_networks_that_a_job_trains_go_where_all_nodes_read_them() -> None:
    assert kept("file:///nets") == ['training.0.out="file:///nets"']
    assert kept("${NETS}/adv") == []
    with pytest.raises(
        UserError, match=r"^job.yaml: training\[0\].out runs/adv: expected a place that the 3 nodes .* share"
    ):
        kept("runs/adv")
    with pytest.raises(UserError, match=r"^job.yaml: training\[0\].out: expected URIs without credentials"):
        kept("https://me:secret@host/x")
