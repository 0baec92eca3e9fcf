"""Devices of the tests of this folder: `stand-in` is the card of card.py, `cuda` a GPU, under `-m gpu`."""

from collections.abc import Iterator

import pytest
import torch
from tools.gpu.card import CARD, Card


@pytest.fixture
def cuda() -> Iterator[torch.device]:
    """The GPU; nothing refuses waits when the test ends, and the process may take all of its memory again."""
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    torch.cuda.empty_cache()
    yield torch.device("cuda")
    torch.cuda.set_sync_debug_mode("default")
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.fixture(params=["stand-in", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """A device that is not the CPU."""
    if request.param == "cuda":
        yield request.getfixturevalue("cuda")
    else:
        with Card():
            yield CARD


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """A worker leaves its number of threads to nobody, least of all to what is measured next."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
