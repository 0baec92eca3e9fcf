"""Serves the page over stores that still grow: read-only, by FastAPI, on this machine unless told otherwise."""

import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware

from freqbench.audit import probe_files
from freqbench.audit.probe_files import Gradients, SavedScores, root_of
from freqbench.core.errors import UserError
from freqbench.core.files import storage
from freqbench.reporting.page import build_page, data_of, pack_data, viewer_script
from freqbench.reporting.page.manifest import live_manifest, volume_bytes
from freqbench.results import Store

LOOPBACK = ("127.0.0.1", "localhost", "::1")
REST = 5
"""Pause between two reads of a store, as a multiple of the time that a read takes; LEAST_REST_S at least."""
LEAST_REST_S = 2.0

_HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY"}


class Live:
    """The page's data, made again once the stores have changed and some time has passed; safe for several threads."""

    def __init__(self, stores: Sequence[Store]) -> None:
        self._stores = stores
        self._lock = threading.Lock()
        self._mark = ""
        self._packed = b""
        self._next = 0.0

    def pack(self) -> tuple[str, bytes]:
        """Returns the ETag and the data as gzipped JSON; UserError where a store cannot be read."""
        with self._lock:
            started = time.monotonic()
            if started >= self._next:
                mark = self._look()
                if mark != self._mark:
                    self._packed, self._mark = self._make_data(), mark
                took = time.monotonic() - started
                self._next = time.monotonic() + max(LEAST_REST_S, REST * took)
            return self._mark, self._packed

    def _look(self) -> str:
        """Hash that changes when a store or its audit does: files of rows, facts of runs, measurements."""
        seen = [
            [store.root, storage.list_files(storage.join(store.root, "records"), ".parquet"), store.runs()]
            for store in (*self._stores, *(Store(root_of(store.root)) for store in self._stores))
        ]
        seen += [
            [str(probe_files.read(store.root, kind)) for kind in (Gradients, SavedScores)] for store in self._stores
        ]
        return hashlib.blake2b(json.dumps(seen, sort_keys=True).encode(), digest_size=8).hexdigest()

    def _make_data(self) -> bytes:
        content, data = data_of(self._stores, may_be_empty=True)
        roots = [store.root for store in self._stores]
        manifest = live_manifest(content.records, content.classes, roots, data.regions)
        return pack_data(data.model_copy(update={"volumes": manifest}))


def make_app(roots: Sequence[str], hosts: Sequence[str] = LOOPBACK) -> FastAPI:
    """Makes a server of the page over these stores (folders or URIs), and of nothing else; UserError for a store that
    cannot be read. It answers only requests that name one of `hosts`, so that no foreign page in a browser can read it
    under a name of its own."""
    stores = [Store(root) for root in roots]
    for store in stores:
        store.job()
    live = Live(stores)
    app = FastAPI(title="freqbench", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*hosts, *(f"[{host}]" for host in hosts if ":" in host)])

    frame = build_page(None, viewer_script()).encode()  # once: 200 clients at a time would hold a copy each

    @app.get("/")
    def page() -> HTMLResponse:
        return HTMLResponse(frame, headers=_HEADERS)

    @app.get("/data")
    def data(request: Request) -> Response:
        try:
            mark, packed = live.pack()
        except UserError as error:
            return Response(str(error), status_code=503, media_type="text/plain", headers=_HEADERS)
        headers = {**_HEADERS, "ETag": f'"{mark}"', "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == f'"{mark}"':
            return Response(status_code=304, headers=headers)
        return Response(packed, media_type="application/gzip", headers=headers)

    @app.get("/volumes/{name}")
    def volume(name: str) -> Response:
        try:
            content = volume_bytes(roots, name.removesuffix(".nii.gz"))
        except (UserError, FileNotFoundError) as error:
            return Response(str(error), status_code=404, media_type="text/plain", headers=_HEADERS)
        return Response(content, media_type="application/gzip", headers=_HEADERS)

    return app


def serve(roots: Sequence[str], host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serves stores (folders or URIs) until it is interrupted.

    Args:
        host: to listen on; LOOPBACK: only this machine's programs reach it.
        port: 0: any free one.
        ready: called with the address.

    Raises:
        UserError: as `make_app`, or the address cannot be listened on.
    """
    app = make_app(roots, LOOPBACK if host in LOOPBACK else ("*",))
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise UserError(f"{host}:{port}: {reason}: choose another --port or --host") from None
    with listening:
        address = f"[{host}]" if ":" in host else host
        ready(f"http://{address}:{listening.getsockname()[1]}/")
        uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run([listening])
