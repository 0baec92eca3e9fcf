"""Colours stay what they are, and no two series look alike."""

from itertools import pairwise

from freqbench.data.colours import class_colours
from freqbench.reporting.colors import class_color, series_style


def test_a_class_has_one_colour_by_its_index() -> None:
    assert [class_color(index) for index in (0, 1, 17, 18)] == ["#000000", "#b30033", "#004d00", "#b30033"]


def test_classes_without_a_colour_of_their_own_have_that_of_their_index() -> None:
    names = ["background", *(f"part {index}" for index in range(17))]
    assert tuple(class_color(index) for index in range(18)) == class_colours(names)


def test_series_differ() -> None:
    styles = [series_style(index) for index in range(308)]
    assert len(set(styles)) == 308
    assert all(a.color != b.color and a.marker != b.marker and a.dash != b.dash for a, b in pairwise(styles))
