"""A page without data of its own: it asks a server, shows what changes and keeps what the reader chose."""

from typing import Any

import pytest
from generated_page import data_of, grid

from freqbench.reporting.page import build_page, packed

URL = "http://localhost/"


@pytest.mark.integration
def test_new_data_keep_the_filters_unchanged_ones_are_not_sent_again_and_a_server_that_fails_is_asked_again(
    chromium: Any,
) -> None:
    sent, answers, wrong = [b"not json"], list[int](), list[str]()

    def answer(route: Any) -> None:
        if route.request.url == URL:
            return route.fulfill(body=build_page(None), content_type="text/html; charset=utf-8")
        tag = f'"{hash(sent[-1])}"'
        answers.append(304 if route.request.headers.get("if-none-match") == tag else 200)
        route.fulfill(status=answers[-1], body=b"" if answers[-1] == 304 else sent[-1], headers={"ETag": tag})

    with chromium.new_context() as context:
        page = context.new_page()
        page.route("**/*", answer)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.clock.install()
        page.goto(f"{URL}#tab=table&f.base=pgd")
        page.wait_for_selector("header [role=status]:has-text('trying again')")
        for settings, said in ((4, "1 row of 4"), (8, "2 rows of 8")):
            sent.append(packed(data_of(*grid(settings, ["unet"], ["unet"], 2, 2))))
            page.clock.fast_forward(10_000)
            page.wait_for_selector(f"#panel-table .status:has-text('{said}')")
            page.clock.fast_forward(10_000)
            page.wait_for_selector("header [role=status]:has-text('live')")
            page.wait_for_timeout(300)
        assert answers == [200, 200, 304, 200, 304]
        assert page.locator("#panel-table details.menu.active").count() == 1
        assert not wrong
