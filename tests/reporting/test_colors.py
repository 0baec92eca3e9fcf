"""Colours stay what they are, all eyes tell classes apart, and no two series look alike."""

from itertools import combinations, pairwise

import numpy as np
import numpy.typing as npt
from skimage.color import deltaE_ciede2000, rgb2lab

from freqbench.reporting.colors import CYCLE, class_color, series_style

# Linear sRGB as dichromats see it: Machado et al., IEEE TVCG 2009, table for severity 1.
EYES = {
    "normal": np.eye(3),
    "protanopic": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopic": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopic": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def _seen(colour: str, eye: npt.ArrayLike) -> npt.NDArray[np.float64]:
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.asarray(eye) @ linear, 0, 1)
    again = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    lab: npt.NDArray[np.float64] = rgb2lab(again[None, None])[0, 0]
    return lab


def test_any_two_colours_are_told_apart() -> None:
    for eye in EYES.values():
        seen = [_seen(colour, eye) for colour in CYCLE]
        for some, least in ((seen, 12), (seen[:4], 20)):
            assert min(float(deltaE_ciede2000(a, b)) for a, b in combinations(some, 2)) > least


def test_a_class_has_one_colour_by_its_index() -> None:
    assert [class_color(index) for index in (0, 1, 17, 18)] == ["#000000", "#b30033", "#004d00", "#b30033"]


def test_series_differ() -> None:
    styles = [series_style(index) for index in range(308)]
    assert len(set(styles)) == 308
    assert all(a.color != b.color and a.marker != b.marker and a.dash != b.dash for a, b in pairwise(styles))
