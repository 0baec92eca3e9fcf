"""A page without data of its own: it asks a server, shows what changes and keeps what the reader chose."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from generated_page import data_of, grid

from freqbench.reporting.page import build_page, packed


class Served:
    """What the server sends now, and what it was asked."""

    def __init__(self) -> None:
        self.page = build_page(None).encode()
        self.data = b""
        self.answers: list[int] = []

    def show(self, settings: int) -> None:
        self.data = packed(data_of(*grid(settings, ["unet"], ["unet"], 2, 2)))


@pytest.fixture
def served() -> Iterator[tuple[Served, str]]:
    state = Served()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_data = self.path == "/data"
            tag = f'"{hash(state.data)}"'
            status = 304 if is_data and self.headers.get("If-None-Match") == tag else 200
            body = b"" if status == 304 else state.data if is_data else state.page
            if is_data:
                state.answers.append(status)
            self.send_response(status)
            self.send_header("Content-Type", "application/gzip" if is_data else "text/html; charset=utf-8")
            self.send_header("ETag", tag)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield state, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def test_new_data_keep_the_filters_unchanged_ones_are_not_sent_again_and_a_server_that_fails_is_asked_again(
    served: tuple[Served, str], chromium: Any
) -> None:
    state, url = served
    state.data = b"not json"
    with chromium.new_context() as context:
        page = context.new_page()
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.clock.install()
        page.goto(f"{url}#tab=table&f.base=pgd")
        page.wait_for_selector("header [role=status]:has-text('trying again')")
        state.show(4)
        page.clock.fast_forward(10_000)
        page.wait_for_selector("#panel-table .status:has-text('1 row of 4')")
        page.clock.fast_forward(10_000)
        page.wait_for_function("document.querySelector('header [role=status]').textContent.includes('live')")
        page.wait_for_timeout(300)
        assert state.answers == [200, 200, 304]
        state.show(8)
        page.clock.fast_forward(10_000)
        page.wait_for_selector("#panel-table .status:has-text('2 rows of 8')")
        assert page.locator("#panel-table details.menu.active").count() == 1
        assert not wrong
