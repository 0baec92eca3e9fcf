"""The colours of tables, pictures and the page: one a class by its index, one style a series by its place."""

from typing import NamedTuple

from freqbench.data.colours import BACKGROUND, CYCLE

# Okabe and Ito (2008), "Color Universal Design", without the yellow, which is lost on white; black first.
OKABE_ITO = ("#000000", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "p")
MAX_CLASSES = 256
DASHES = ("solid", "dashed", "dashdot", "dotted")


class SeriesStyle(NamedTuple):
    """How a series is drawn.

    Attributes:
        color: `#rrggbb`.
        marker: as matplotlib spells it.
        dash: `solid`, `dashed`, `dashdot` or `dotted`.
    """

    color: str
    marker: str
    dash: str


def class_color(index: int) -> str:
    """The colour of a class as `#rrggbb`, the same in every picture: the background black, then the fixed cycle.

    The cycle is that of `freqbench.data.colours`, whose colours are apart to colour-blind eyes too; beyond 17 classes
    they come again.

    >>> class_color(0), class_color(1)
    ('#000000', '#b30033')
    """
    return BACKGROUND if index == 0 else CYCLE[(index - 1) % len(CYCLE)]


def class_colors() -> list[str]:
    """The colours of all classes that a label map can hold, by index."""
    return [class_color(index) for index in range(MAX_CLASSES)]


def series_style(index: int) -> SeriesStyle:
    """The style of the series at a place: colour, marker and dash turn with cycles of 7, 11 and 4.

    So two of 308 in a row never look alike, and neighbours are told apart in grey by marker and dash.

    >>> series_style(1)
    SeriesStyle(color='#d55e00', marker='s', dash='dashed')
    """
    return SeriesStyle(OKABE_ITO[index % len(OKABE_ITO)], MARKERS[index % len(MARKERS)], DASHES[index % len(DASHES)])
