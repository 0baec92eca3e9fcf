"""Gives the distance in millimetres beyond which the normalised surface Dice counts a surface as wrong. Organs: FLARE
2022, J. Ma et al., Lancet Digital Health 6(11), 2024. Tasks: M. Antonelli et al., "The Medical Segmentation Decathlon",
Nature Communications 13, 2022. All others: J. Wasserthal et al., "TotalSegmentator: robust segmentation of 104 anatomic
structures in CT images", Radiology: Artificial Intelligence 5(5), 2023."""

from collections.abc import Mapping, Sequence

TOLERANCE_MM = 3.0
ORGANS: Mapping[str, float] = {
    **dict.fromkeys(("liver", "pancreas", "stomach"), 5.0),
    **dict.fromkeys(("kidney", "kidneys", "spleen", "esophagus"), 3.0),
    **dict.fromkeys(("aorta", "inferior vena cava", "adrenal gland", "gallbladder"), 2.0),
    **dict.fromkeys(("anterior", "posterior"), 1.0),  # of the hippocampus, as in TASKS
    "duodenum": 7.0,
}
TASKS: Mapping[str, float] = {  # of the Decathlon, by their name in `dataset.json` and by their folder
    **dict.fromkeys(("brats", "braintumour", "pancreas"), 5.0),
    **dict.fromkeys(("leftatrium", "heart", "prostate", "colon"), 4.0),
    **dict.fromkeys(("hepaticvessel", "spleen"), 3.0),
    **{"liver": 7.0, "hippocampus": 1.0, "lung": 2.0},
}


def organ_tolerances(names: Sequence[str]) -> tuple[float, ...]:
    """Returns the tolerance in mm of each class of `names` by its organ: `kidney_left`, `Left kidney` and `kidney` are
    one.

    >>> organ_tolerances(["adrenal_gland_right", "vertebra"])
    (2.0, 3.0)
    """
    tolerances: list[float] = []
    for name in names:
        words = name.lower().replace("_", " ").split()
        organ = " ".join(word for word in words if word not in ("left", "right"))
        tolerances.append(ORGANS.get(organ, TOLERANCE_MM))
    return tuple(tolerances)
