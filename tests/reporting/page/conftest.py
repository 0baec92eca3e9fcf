"""One headless Chromium and one store with saved volumes for all tests of the page."""

from collections.abc import Iterator
from typing import Any

import pytest
from page_rows import browser
from viewer_page import make_store


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    with browser() as opened:
        yield opened


@pytest.fixture(scope="session")
def volumes_store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Only read."""
    return make_store(tmp_path_factory.mktemp("volumes") / "store")
