"""An S3 server on loopback: moto's, over HTTP in a process of its own, with a journal and with faults on demand.

moto keeps objects in memory. So that the server may be killed and started again, whatever it has done is in a journal
before it answers, and a new process does all of it again.

    python tests/s3_server.py --folder /tmp/s3 --port 9000
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

BUCKET = "lab"
START_S = 240.0
WRITES = ("PUT", "POST", "DELETE")
FAULTS = "/_faults"
REQUESTS = "/_requests"

Environ = dict[str, Any]
Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


class Journal:
    """Requests that changed something, one file each, in their order; a torn one was never answered."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._number = max((int(path.stem) for path in folder.glob("*.request")), default=-1) + 1

    def add(self, environ: Environ, body: bytes) -> None:
        head = {name: value for name, value in environ.items() if isinstance(value, str)}
        path = self._folder / f"{self._number:08d}.request"
        temporary = path.with_suffix(".new")
        temporary.write_bytes(json.dumps(head).encode() + b"\n" + body)
        temporary.replace(path)
        self._number += 1

    def entries(self) -> Iterator[tuple[Environ, bytes]]:
        for path in sorted(self._folder.glob("*.request")):
            head, _, body = path.read_bytes().partition(b"\n")
            yield json.loads(head), body


class Server:
    """The WSGI application: faults and journal around moto's."""

    def __init__(self, moto: Application, folder: Path) -> None:
        self._moto = moto
        self._journal = Journal(folder)
        self._lock = threading.Lock()
        self._faults: list[dict[str, Any]] = []
        self._seen: list[str] = []
        for environ, body in self._journal.entries():
            _called(moto, environ, body)

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        path = environ["PATH_INFO"]
        length = int(environ.get("CONTENT_LENGTH") or 0)
        if path == FAULTS:
            self._faults = json.loads(environ["wsgi.input"].read(length))
            return _answer(start_response, b"")
        if path == REQUESTS:
            seen = self._seen
            self._seen = []
            return _answer(start_response, json.dumps(seen).encode())
        self._seen.append(f"{method} {path}")
        fault = self._fault(method, path)
        is_cut = fault.get("kind") == "cut" and method in WRITES
        body = environ["wsgi.input"].read(length // 2 if is_cut else length)
        if len(body) < length:  # or whoever sent it died
            start_response("400 Bad Request", [])
            return _hang_up(environ)
        if fault.get("kind") == "refuse":
            start_response(f"{fault['status']} Refused", [("Content-Type", "application/xml")])
            code = {403: "AccessDenied", 503: "SlowDown"}.get(fault["status"], "InternalError")
            error = f"<Error><Code>{code}</Code><Message>a fault on demand</Message></Error>"
            return [b"" if method == "HEAD" else error.encode()]  # else aiohttp reads the next answer from the middle
        if fault.get("kind") == "slow":
            time.sleep(fault["seconds"])
        if method not in WRITES:
            status, headers, content = _called(self._moto, environ, body)
            start_response(status, headers)
            return _half(environ, content) if fault.get("kind") == "cut" else [content]
        with self._lock:
            status, headers, content = _called(self._moto, environ, body)
            if status.startswith("2"):
                self._journal.add(environ, body)
        start_response(status, headers)
        return [content]

    def _fault(self, method: str, path: str) -> dict[str, Any]:
        for fault in self._faults:
            if fault["times"] > 0 and fault["method"] == method and fault["match"] in path:
                fault["times"] -= 1
                return fault
        return {}


def _called(moto: Application, environ: Environ, body: bytes) -> tuple[str, list[tuple[str, str]], bytes]:
    """Answers of moto."""
    answer: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], *_: Any) -> None:
        answer[:] = [status, headers]

    content = b"".join(moto({**environ, "wsgi.input": BytesIO(body), "wsgi.errors": sys.stderr}, start_response))
    return answer[0], answer[1], content


def _answer(start_response: Callable[..., Any], content: bytes) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(content)))])
    return [content]


def _hang_up(environ: Environ) -> Iterable[bytes]:
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    return []


def _half(environ: Environ, content: bytes) -> Iterator[bytes]:
    yield content[: len(content) // 2]
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)


def serve(folder: Path, port: int) -> None:
    """Serve until killed, or until whoever started this closes its standard input."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Silent(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, *_: Any, **__: Any) -> None:
            """Nothing."""

    if not sys.stdin.isatty():
        threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(0)), daemon=True).start()
    server = Server(DomainDispatcherApplication(create_backend_app), folder)
    make_server("127.0.0.1", port, server, threaded=True, request_handler=Silent).serve_forever()


class S3:
    """A server's process, as tests see it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self) -> None:
        """Start it, or start it again with what it had."""
        command = [sys.executable, __file__, "--folder", str(self._folder), "--port", str(self.port)]
        environment = {**os.environ, **self.environment}
        with (self._folder.parent / f"{self._folder.name}.log").open("ab") as log:
            self._process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stderr=log)
        end = time.monotonic() + START_S
        while True:
            try:
                self._ask(FAULTS, b"[]")
                break
            except OSError:
                if time.monotonic() > end or self._process.poll() is not None:
                    raise
                time.sleep(0.05)
        self._ask(f"/{BUCKET}", b"", "PUT")

    def kill(self) -> None:
        """End it at once, as a lost machine does."""
        if self._process:
            self._process.kill()
            self._process.communicate()  # closes its input

    def fault(
        self, kind: str, method: str = "PUT", match: str = "", times: int = 1, status: int = 503, seconds: float = 5.0
    ) -> None:
        """Faults of the next requests whose path holds `match`: `refuse`, `slow`, `cut` half-way or `none`."""
        fault = {"kind": kind, "method": method, "match": match, "times": times, "status": status, "seconds": seconds}
        self._ask(FAULTS, json.dumps([] if kind == "none" else [fault]).encode())

    def requests(self) -> list[str]:
        """`METHOD /bucket/key` of each request since this was last asked."""
        seen: list[str] = json.loads(self._ask(REQUESTS, b""))
        return seen

    def _ask(self, path: str, body: bytes, method: str = "POST") -> bytes:
        request = urllib.request.Request(self.endpoint + path, body, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            content: bytes = answer.read()
            return content


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def s3_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """One server for all tests of a process."""
    import s3fs

    server = S3(tmp_path_factory.mktemp("s3"))
    server.start()
    s3fs.S3FileSystem.clear_instance_cache()
    yield server
    server.kill()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def s3(s3_process: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """The server, with the environment that clients need; its bucket is `s3://lab`, `s3_root` a folder in it."""
    for name, value in s3_process.environment.items():
        monkeypatch.setenv(name, value)
    yield s3_process
    s3_process.fault("none")


@pytest.fixture
def s3_root(s3: S3) -> str:
    """A folder of this test's own."""
    return f"s3://{BUCKET}/{uuid.uuid4().hex[:8]}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="of the journal")
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    serve(arguments.folder, arguments.port)
