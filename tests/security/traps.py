"""Files that somebody made to harm whoever reads them, and the command line that reads them."""

import copy
from pathlib import Path
from typing import Any

import pytest

from freqbench.core.errors import UserError


class Trap:
    """An object whose pickle makes a file where it is loaded."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.sprung,)


def works(sprung: Path) -> bool:
    """Springs the trap by a copy, which has a pickle's protocol; if it does nothing, tests with it show nothing."""
    copy.copy(Trap(sprung))
    has_sprung = sprung.exists()
    sprung.unlink(missing_ok=True)
    return has_sprung


def line_of(error: pytest.ExceptionInfo[UserError]) -> str:
    """The one line of an error."""
    text = str(error.value)
    assert text.isprintable(), text
    return text
