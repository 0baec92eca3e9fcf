"""Assigns colours to classes and series, the same in tables, figures and the page."""

from typing import NamedTuple

BACKGROUND = "#000000"
# Any two are 12 apart (CIEDE2000), the first four 20, for normal, protanopic, deuteranopic and tritanopic vision.
CYCLE = (
    *("#b30033", "#ffe633", "#8099ff", "#66ffe6", "#998000", "#339966", "#cc9999", "#804dff", "#1a6699"),
    *("#1a00cc", "#cce699", "#994d66", "#4d334d", "#b3b31a", "#b3ccff", "#9980b3", "#004d00"),
)
# Okabe and Ito (2008), "Color Universal Design", without the yellow, which is lost on white; black first.
OKABE_ITO = ("#000000", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "p")
MAX_CLASSES = 256
DASHES = ("solid", "dashed", "dashdot", "dotted")


class SeriesStyle(NamedTuple):
    """A series' color (`#rrggbb`), and its marker and dash in matplotlib's notation."""

    color: str
    marker: str
    dash: str


def class_color(index: int) -> str:
    """Returns the colour of the class of this `index` as `#rrggbb`: black for 0, the background, then CYCLE, which
    repeats after 17 classes."""
    return BACKGROUND if index == 0 else CYCLE[(index - 1) % len(CYCLE)]


def class_colors() -> list[str]:
    """Returns the colours of all classes that a label map can hold, by index."""
    return [class_color(index) for index in range(MAX_CLASSES)]


def series_style(index: int) -> SeriesStyle:
    """Returns the style of a series by its index; the first 308 styles differ, and neighbours differ in grey too."""
    return SeriesStyle(OKABE_ITO[index % len(OKABE_ITO)], MARKERS[index % len(MARKERS)], DASHES[index % len(DASHES)])
