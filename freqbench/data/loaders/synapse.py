"""Reads Synapse (BTCV): the abdominal CT of the challenge Multi-Atlas Labeling Beyond the Cranial Vault. Landman et
al., MICCAI 2015 workshop and challenge. The split is that of Hanif et al., MICCAI 2023, arXiv:2307.07269."""

from typing import ClassVar

from freqbench.core.input_space import Intensity, Millimetres
from freqbench.core.types import Shape
from freqbench.data.loaders.decathlon import Place, PublishedSplit

WINDOW: Intensity = {"window": (-175.0, 250.0)}


class Synapse(PublishedSplit):
    """Synapse (BTCV): 30 abdominal CT volumes, 13 organs, with the papers' split and preprocessing.

    Split 18 / 12; 1.5 x 1.5 x 2.0 mm; [-175, 250] HU to [0, 1]; cropped to the foreground. `root` holds `imagesTr` and
    `labelsTr`, or the download: `RawData/Training/img` and `label`. The 20 cases of the challenge's test have no public
    label maps. Its volumes may not be passed on.
    """

    loader: ClassVar[str] = "synapse"
    redistributable: ClassVar[bool] = False
    homepage: ClassVar[str] = "https://www.synapse.org/Synapse:syn3193805"
    typical_shape: ClassVar[Shape] = (240, 200, 140)
    shipped: ClassVar[str] = "synapse_18_12.json"
    labelled: ClassVar[tuple[str, ...]] = ("training", "validation")
    names: ClassVar[tuple[str, ...]] = (
        *("background", "spleen", "right kidney", "left kidney", "gallbladder", "esophagus", "liver", "stomach"),
        *("aorta", "inferior vena cava", "portal vein and splenic vein", "pancreas"),
        *("right adrenal gland", "left adrenal gland"),
    )
    places: ClassVar[tuple[Place, ...]] = tuple(
        Place(f"{folder}img", f"{folder}img/{{case}}.nii.gz", f"{folder}label/label{{number}}.nii.gz")
        for folder in ("RawData/Training/", "Training/", "")
    )

    spacing: tuple[Millimetres, Millimetres, Millimetres] | None = (1.5, 1.5, 2.0)
    intensity: Intensity = WINDOW
