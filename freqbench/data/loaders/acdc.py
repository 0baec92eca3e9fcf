"""Reads ACDC: cine MR of the heart, the Automated Cardiac Diagnosis Challenge. Bernard et al., IEEE Transactions on
Medical Imaging 2018. The split is that of Malik et al., BMVC 2024, arXiv:2406.08486."""

from typing import ClassVar

from pydantic import PositiveInt, field_validator

from freqbench.core.input_space import Millimetres
from freqbench.core.types import Shape
from freqbench.data.loaders.decathlon import Place, PublishedSplit
from freqbench.data.loaders.synapse import WINDOW


class ACDC(PublishedSplit):
    """ACDC: cardiac MR of 100 patients at end-diastole and end-systole, 3 structures, with the published split.

    Frames 140 / 20 / 40 (training / validation / test) of 70 / 10 / 20 patients: statistics cluster by patient. 1.5 x
    1.5 x 2.0 mm; cropped or padded about the centre to `size`; intensities to [0, 1]; cropped to the foreground, which
    removes some of the padding again. `root` holds `imagesTr` and `labelsTr` (with `imagesTs` and `labelsTs` for the
    test), or the download: `training/patient001/patient001_frame01.nii.gz` and `_gt`. They may not be passed on.

    **Differs from** the released loader in `intensity`: it kept its default for CT: all above 250 saturates.

    Attributes:
        intensity: `percentile` (0.5 to 99.5 of the volume before `size`), `released` ([-175, 250], the authors' code),
            or any value that other datasets take.
        pad_to: None, as in the released loader: models pad volumes smaller than their window, and only voxels of the
            file are attacked and scored. `[96, 96, 96]` attacks the padding too, as BMVC's code does.
    """

    loader: ClassVar[str] = "acdc"
    redistributable: ClassVar[bool] = False
    homepage: ClassVar[str] = "https://www.creatis.insa-lyon.fr/Challenge/acdc/"
    typical_shape: ClassVar[Shape] = (96, 96, 96)
    shipped: ClassVar[str] = "acdc_140_20.json"
    labelled: ClassVar[tuple[str, ...]] = ("training", "validation", "test")
    names: ClassVar[tuple[str, ...]] = ("background", "right ventricle", "myocardium", "left ventricle")
    places: ClassVar[tuple[Place, ...]] = tuple(
        Place(mark, f"{folder}{{patient}}/{{case}}.nii.gz", f"{folder}{{patient}}/{{case}}_gt.nii.gz")
        for mark, folder in (("database/training", "database/training/"), ("training", "training/"), ("patient001", ""))
    )

    spacing: tuple[Millimetres, Millimetres, Millimetres] | None = (1.5, 1.5, 2.0)
    size: tuple[PositiveInt, PositiveInt, PositiveInt] | None = (96, 96, 96)

    @field_validator("intensity", mode="before")
    @classmethod
    def _released_window(cls, value: object) -> object:
        return WINDOW if value == "released" else value
