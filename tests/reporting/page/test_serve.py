"""The page over growing stores: what it answers, to whom, and that it stays within its stores."""

import asyncio
import gzip
import json
import re
import signal
import socket
import subprocess
import sys
import tracemalloc
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from audit.planted import gradients
from fastapi.testclient import TestClient
from reporting.handmade import job_of, row, stored

from freqbench.audit.probe_files import write
from freqbench.core.errors import UserError
from freqbench.reporting.page import serve
from freqbench.results import Store


def add(root: Path, name: str, rows: list[dict[str, Any]], all_rows: list[dict[str, Any]]) -> None:
    """Commit rows to a store whose job wants all of them."""
    store = stored(*rows, root=root, name=name)
    store.write_run("run0", {"status": "running", "records": len(rows), "failed": 0, "heartbeat": name})
    store.write_job(job_of(all_rows))


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    return [row("pgd", case=case, dsc=0.5, dsc_clean=0.9) for case in range(3)]


@pytest.fixture
def client(tmp_path: Path, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> TestClient:
    monkeypatch.setattr(serve, "LEAST_REST_S", 0.0)
    monkeypatch.setattr(serve, "REST", 0)
    add(tmp_path / "out", "a", rows[:1], rows)
    return TestClient(serve.make_app([str(tmp_path / "out")]), base_url="http://127.0.0.1:8760")


def data_of(response: Any) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    data: dict[str, Any] = json.loads(gzip.decompress(response.content))
    return data


def test_the_page_fetches_what_it_shows(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert '<meta name="freqbench-source" content="data">' in page.text
    assert data_of(client.get("/data"))["counts"]["ok"] == 1


def test_all_requests_share_one_page_in_memory(client: TestClient) -> None:
    """A page that each request made anew held 1 GB after a thousand requests of 200 clients."""
    tracemalloc.start()
    try:
        size = max(len(client.get("/").content) for _ in range(2))
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        with ThreadPoolExecutor(1) as thread:  # a test of the browser leaves a loop running in this one
            assert thread.submit(asyncio.run, sent(client.app, "/")).result() == size
        assert tracemalloc.get_traced_memory()[1] - before < size / 2
    finally:
        tracemalloc.stop()


async def sent(app: Any, path: str) -> int:
    """The bytes that an app sends for a path, of which nothing is kept."""
    total = 0

    async def send(message: dict[str, Any]) -> None:
        nonlocal total
        total += len(message.get("body", b""))

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    headers = [(b"host", b"127.0.0.1")]
    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": headers, "scheme": "http"}
    await app(scope, receive, send)
    return total


def test_a_growing_store_is_shown_as_it_grows_but_not_read_again_at_once(
    client: TestClient, tmp_path: Path, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = client.get("/data")
    same = client.get("/data", headers={"If-None-Match": first.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")
    add(tmp_path / "out", "b", [rows[1], rows[0] | {"cell_id": "of no job"}], rows)
    monkeypatch.setattr(serve, "LEAST_REST_S", 100.0)
    grown = client.get("/data", headers={"If-None-Match": first.headers["etag"]})
    assert data_of(grown)["counts"]["ok"] == 2
    add(tmp_path / "out", "c", rows[2:], rows)
    assert data_of(client.get("/data"))["counts"]["ok"] == 2


@pytest.mark.integration
def test_findings_of_an_audit_are_shown_as_it_adds_them(
    client: TestClient, tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    def of_check(check: str) -> set[tuple[str, str]]:
        findings = data_of(client.get("/data"))["audit"]["findings"]
        return {(each["subject"], each["verdict"]) for each in findings if each["check"] == check}

    assert (of_check("zero_gradients"), len(of_check("distances"))) == ({("", "not checked")}, 1)
    write(str(tmp_path / "out"), gradients(model="unet", model_id="id_unet", zero_share=1.0))
    assert of_check("zero_gradients") == {("", "violated")}
    added = [row("vafa", dsc=0.4, dsc_clean=0.9)]
    add(tmp_path / "out" / "audit", "a", added, added)
    assert len(of_check("distances")) == 2


def test_a_server_refuses_other_names_changes_and_other_places(client: TestClient) -> None:
    for host in ("evil.example", "127.0.0.1.evil.example"):
        assert client.get("/data", headers={"Host": host}).status_code == 400
    assert client.get("/data", headers={"Host": "localhost:8760"}).status_code == 200
    for method, path in (("POST", "/"), ("PUT", "/data"), ("DELETE", "/volumes/0-YQ"), ("PATCH", "/data")):
        assert client.request(method, path).status_code == 405
    outside = ("/volumes/..%2f..%2frun.json", "/volumes/0-Li4vLi4vcnVuLmpzb24", "/volumes/9-YS9iL2M.nii.gz")
    for path in (*outside, "/run.json", "/records"):
        assert client.get(path).status_code == 404
    for path in ("/", "/data"):  # nor can other pages frame it
        headers = client.get(path).headers
        assert (headers["x-frame-options"], headers["x-content-type-options"]) == ("DENY", "nosniff")


def test_a_store_that_breaks_meanwhile_is_told_in_one_line(client: TestClient, tmp_path: Path) -> None:
    (tmp_path / "out" / "records" / "b-000000.parquet").write_bytes(b"torn")
    broken = client.get("/data")
    assert broken.status_code == 503
    assert "expected a Parquet file of results" in broken.text
    assert "\n" not in broken.text


def test_a_run_without_rows_yet_is_shown(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    store = Store(str(tmp_path / "new"))
    store.write_run("run0", {"status": "running", "records": 0, "failed": 0, "heartbeat": "now"})
    store.write_job(job_of([]))
    client = TestClient(serve.make_app([store.root]), base_url="http://localhost")
    assert data_of(client.get("/data"))["counts"] == {"ok": 0, "failed": 0, "left_out": 0}


def test_a_server_listens_on_this_machine_and_says_where(
    tmp_path: Path, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    add(tmp_path / "out", "a", rows, rows)
    monkeypatch.setattr(uvicorn.Server, "run", lambda server, sockets: said.append(sockets[0].getsockname()[0]))
    serve.serve([str(tmp_path / "out")], "127.0.0.1", 0, said.append)
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", said[0])
    assert said[1] == "127.0.0.1"
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match="in use: choose another --po"):
        serve.serve([str(tmp_path / "out")], "127.0.0.1", taken.getsockname()[1], said.append)


@pytest.mark.slow
def test_the_command_answers_and_ends_with_ctrl_c(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    add(tmp_path / "out", "a", rows, rows)
    command = [sys.executable, "-m", "freqbench", "report", "--serve", str(tmp_path / "out"), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        address = process.stdout.readline().split()[0]
        try:
            with urllib.request.urlopen(address + "data", timeout=60) as answer:
                assert json.loads(gzip.decompress(answer.read()))["counts"]["ok"] == 3
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(30) in (0, 130)
