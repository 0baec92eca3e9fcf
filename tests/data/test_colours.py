"""One colour a class, which all eyes tell apart."""

from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab

from freqbench.data import DATASETS
from freqbench.data.colours import COLOURS, CYCLE, class_colours
from freqbench.data.loaders.amos import AMOS

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


@pytest.mark.parametrize("eye", EYES)
def test_any_two_colours_are_told_apart(eye: str) -> None:
    seen = [_seen(colour, EYES[eye]) for colour in CYCLE]
    assert min(float(deltaE_ciede2000(a, b)) for a, b in combinations(seen, 2)) > 12


@pytest.mark.parametrize("name", ["synapse", "acdc", "amos"])
def test_all_classes_of_the_datasets_stand_in_the_table(name: str) -> None:
    names = DATASETS[name].model_validate({"name": "x", "root": "."}).class_names
    assert class_colours(names) == ("#000000", *(COLOURS[organ] for organ in names[1:]))
    assert len(set(class_colours(names))) == len(names)


def test_an_organ_has_the_same_colour_however_it_is_written() -> None:
    names = ["kidney_right", "Right Kidney", "adrenal_gland_left", "gall bladder"]
    assert [class_colours([name])[0] for name in names] == [
        COLOURS["right kidney"],
        COLOURS["right kidney"],
        COLOURS["left adrenal gland"],
        COLOURS["gallbladder"],
    ]


def test_unknown_names_take_what_is_left() -> None:
    colours = class_colours(["background", "tumour", "spleen", "cyst"])
    assert colours[2] == COLOURS["spleen"]
    assert len(set(colours)) == 4
    assert len(class_colours(map(str, range(40)))) == 40


def test_a_colour_does_not_hang_on_the_unknown_beside_it() -> None:
    names = AMOS(name="x", root=".").class_names
    assert class_colours([*names, "tumour"])[: len(names)] == class_colours(names)
