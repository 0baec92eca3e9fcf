"""One fixed colour a class, the same in every figure."""

from collections.abc import Iterable, Mapping

BACKGROUND = "#000000"

# Any two are at least 12 apart (CIEDE2000) to normal, protanopic, deuteranopic and tritanopic eyes alike.
COLOURS: Mapping[str, str] = {
    "spleen": "#b30033",
    "right kidney": "#ffe633",
    "left kidney": "#998000",
    "gallbladder": "#339966",
    "esophagus": "#66ffe6",
    "liver": "#cc9999",
    "stomach": "#804dff",
    "aorta": "#1a6699",
    "inferior vena cava": "#8099ff",
    "portal vein and splenic vein": "#1a00cc",
    "pancreas": "#cce699",
    "right adrenal gland": "#994d66",
    "left adrenal gland": "#4d334d",
    "duodenum": "#b3b31a",
    "bladder": "#b3ccff",
    "prostate/uterus": "#9980b3",
    "right ventricle": "#1a6699",
    "myocardium": "#ffe633",
    "left ventricle": "#b30033",
}

# What stands in for names that the table lacks, in this order.
CYCLE = tuple(dict.fromkeys([*COLOURS.values(), "#004d00"]))

_SAME = {"kidneys": "right kidney", "gall bladder": "gallbladder", "urinary bladder": "bladder"}


def class_colours(class_names: Iterable[str]) -> tuple[str, ...]:
    """A colour a class as `#rrggbb`, in the order of the names; the background is black.

    Case, underscores and the order of words do not matter: `kidney_right` is `Right kidney`. A name that the table
    lacks takes the first colour of the cycle that no other has; beyond 17 classes colours come again.

    >>> class_colours(["background", "liver", "tumour"])
    ('#000000', '#cc9999', '#b30033')
    """
    names = list(class_names)
    known = {_words(name): colour for name, colour in COLOURS.items()}
    taken: dict[int, str] = {}
    for index, name in enumerate(names):
        colour = BACKGROUND if _words(name) == _words("background") else known.get(_words(name))
        if colour and colour not in taken.values():
            taken[index] = colour
    free = [colour for colour in CYCLE if colour not in taken.values()] or list(CYCLE)
    others = [index for index in range(len(names)) if index not in taken]
    taken |= {index: free[number % len(free)] for number, index in enumerate(others)}
    return tuple(taken[index] for index in range(len(names)))


def _words(name: str) -> frozenset[str]:
    text = name.lower().replace("_", " ")
    return frozenset(_SAME.get(text, text).split())
