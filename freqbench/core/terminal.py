"""Prints texts of files and stores literally: without markup, and without control characters."""

import re
from collections.abc import Iterable
from typing import Any

from rich.box import Box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table

# Control characters of either set, except line breaks and tabs, and those that change the writing direction.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

RESET = "\x1b[0m"

# The only line of a table that is not drawn on a terminal, under its headings: other programs read it too.
_UNDERLINED = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)


def printable(text: str) -> str:
    r"""Returns a text with its control characters replaced, which a terminal would obey.

    >>> printable("a\x1b[31mb")
    'a?[31mb'
    """
    return _CONTROL.sub("?", text)


def elide(text: str, most: int) -> str:
    """Returns a text of at most `most` letters: an ellipsis stands for the middle of a longer one.

    >>> elide("vafa_opt on unetr", 9)
    'vafa…netr'
    """
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[:half]}…{text[-half:]}"


def amount(number: int, word: str) -> str:
    """Joins a number with its word.

    >>> amount(1, "case"), amount(3, "case")
    ('1 case', '3 cases')
    """
    return f"{number} {word}{'' if number == 1 else 's'}"


class PlainConsole(Console):
    """A rich Console without markup and control characters; tables have no box in a pipe or a file."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, "highlight": False, **options})

    def print(self, *objects: Any, **options: Any) -> None:
        """Prints as `Console.print` does, but no lone reset of colours, which Ray has colorama write at exit."""
        if objects != (RESET,):
            super().print(*objects, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Renders as `Console.render` does; rich's own cursor movements stay."""
        if isinstance(renderable, Table) and not self.is_terminal:
            renderable.box = _UNDERLINED
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))
