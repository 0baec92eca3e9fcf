"""One store with saved volumes for all tests of the page."""

import pytest
from viewer_page import make_store


@pytest.fixture(scope="session")
def volumes_store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Only read."""
    return make_store(tmp_path_factory.mktemp("volumes") / "store")
