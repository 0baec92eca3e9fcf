"""Commands as they are typed."""

from functools import partial

import called
import pytest
from called import Bench


@pytest.fixture
def bench(capsys: pytest.CaptureFixture[str]) -> Bench:
    """A command's words to its exit code, stdout and stderr."""
    return partial(called.bench, capsys)
