"""Shows what files and stores say as it is: nothing in it is markup, and no control character comes through."""

import re
from collections.abc import Iterable
from typing import Any

from rich.box import Box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table

# Control characters of either set, line breaks and tabs aside, and those that turn the direction of writing.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

# A table's only line, under its headings, where it is not drawn on a screen: other programs read it too.
_UNDERLINED = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)


def printable(text: str) -> str:
    """A text whose control characters are replaced: a terminal would obey them.

    >>> printable("a\\x1b[31mb")
    'a?[31mb'
    """
    return _CONTROL.sub("?", text)


class PlainConsole(Console):
    """A rich Console that takes no markup from texts and lets no control character of theirs through.

    Tables have no box in a pipe or a file.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, "highlight": False, **options})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As `Console.render`; cursor movements of rich's own stay."""
        if isinstance(renderable, Table) and not self.is_terminal:
            renderable.box = _UNDERLINED
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))
