"""One headless Chromium for all tests of the page."""

from collections.abc import Iterator
from typing import Any

import pytest
from generated_page import browser


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    with browser() as opened:
        yield opened
