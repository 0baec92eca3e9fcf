"""Draws CT-like volumes: a dataset that needs no download and no disk, also as a stand-in for another."""

from dataclasses import replace
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field
from typing_extensions import override

from freqbench.core.errors import DataError, unknown
from freqbench.core.identity import digest
from freqbench.core.input_space import Preprocess
from freqbench.core.types import CaseRef, NativeCase, Spacing, triple
from freqbench.data.base import ClassName, Dataset
from freqbench.data.loaders import anatomy
from freqbench.data.nsd_tolerances import organ_tolerances
from freqbench.ops.classes import Classes

REVISION = 2  # raise it with every change of the output of `anatomy.draw`
FIELD_OF_VIEW_MM = (320.0, 256.0, 192.0)
WINDOW_HU = (-175.0, 250.0)
REHEARSED = "rehearsed"  # split of a stand-in whose cases replace the scored ones
SPLITS = {"train": range(64), "validation": range(1000, 1008), "test": range(2000, 2020)}
Side = Annotated[int, Field(ge=16, le=512)]


class Phantom(Dataset):
    """Random upper abdomens in Hounsfield units, windowed to [-175, 250] HU as in the papers' CT preprocessing.

    A case depends only on its number and the generator's revision. Splits are ranges of numbers: train 0-63,
    validation 1000-1007, test 2000-2019. Six classes: background, liver, spleen, kidneys, aorta, gallbladder.

    Attributes:
        shape: voxels of the field of view of 320 x 256 x 192 mm; the default gives voxels of 4 x 4 x 6 mm.
        regions: true: lesions in four channels in place of the organs, with the regions of `anatomy.REGIONS`, each of
            which lies inside the one before.
    """

    loader: ClassVar[str] = "phantom"

    shape: tuple[Side, Side, Side] = (80, 64, 32)
    regions: bool = False

    @property
    @override
    def classes(self) -> Classes:
        return self._classes_of(("background", *anatomy.REGIONS) if self.regions else anatomy.CLASS_NAMES)

    def _classes_of(self, names: tuple[str, ...]) -> Classes:
        nested = {number: (1 << number) - 1 for number in range(len(names))} if self.regions else {}
        return Classes(names=names, overlap=self.regions, stated=nested, tolerances_mm=organ_tolerances(names[1:]))

    @property
    @override
    def num_channels(self) -> int:
        return len(anatomy.CONTRASTS) if self.regions else 1

    @property
    def spacing(self) -> Spacing:
        """Sides of a voxel in millimetres."""
        return triple(extent / size for extent, size in zip(FIELD_OF_VIEW_MM, self.shape, strict=True))

    @override
    def recipe(self) -> dict[str, Any]:
        recipe = {"loader": self.loader, "revision": REVISION, "shape": self.shape, "window": WINDOW_HU}
        return recipe | ({"regions": anatomy.REGIONS} if self.regions else {})

    @override
    def refs(self, split: str | None = None) -> tuple[CaseRef, ...]:
        numbers = {f"phantom_{number:04d}": number for number in self._numbers(split or self.split)}
        return tuple(
            CaseRef(
                case_id=case_id,
                patient_id=self.patient_of(case_id),
                fingerprint=digest(["phantom", REVISION, numbers[case_id]]),
                shape=self.shape,
                grid=(self.shape, self.spacing),
            )
            for case_id in self.chosen(list(numbers))
        )

    def _numbers(self, split: str) -> range:
        if split not in SPLITS:
            raise DataError(f"{self.name}: {unknown('split', split, SPLITS)}")
        return SPLITS[split]

    def native(self, ref: CaseRef) -> NativeCase:
        """Draws the patient of `ref` (some 40 ms at the default shape on one thread)."""
        import torch

        rng = np.random.default_rng([REVISION, int(ref.case_id.removeprefix("phantom_"))])
        hu, label = anatomy.draw(rng, self.shape, self.spacing)
        channels = hu[None]
        if self.regions:
            channels, label = anatomy.lesions(rng, hu, label, self.spacing)
        affine = np.diag([*self.spacing, 1.0])
        affine[:3, 3] = [-(size - 1) / 2 * step for size, step in zip(self.shape, self.spacing, strict=True)]
        image = torch.from_numpy(channels)
        classes = torch.from_numpy(label)[None]
        return NativeCase(ref=ref, image=image, label=classes, affine=affine, spacing=self.spacing, source=ref.case_id)

    @property
    def space(self) -> Preprocess:
        """The grid as it is drawn, and the papers' CT window."""
        return Preprocess(intensity={"window": WINDOW_HU}, crop_foreground=False)


class StandIn(Phantom, populate_by_name=True):
    """The phantom with the classes and channels of another dataset, for `--dry-data phantom`. Organs beyond the number
    of classes become the last class. Channels are copies of the volume."""

    loader: ClassVar[str] = "stand_in"

    labels: tuple[ClassName, ...] = Field(anatomy.CLASS_NAMES, alias="classes", min_length=2, max_length=256)
    channels: Annotated[int, Field(ge=1)] = 1

    @property
    @override
    def classes(self) -> Classes:
        return self._classes_of(self.labels)

    @property
    @override
    def num_channels(self) -> int:
        return self.channels

    @override
    def recipe(self) -> dict[str, Any]:
        return {**super().recipe(), "classes": self.labels, "channels": self.channels}

    def _numbers(self, split: str) -> range:
        """Returns the numbers of a split's cases; in a rehearsal, any split but REHEARSED has other cases."""
        if self.split != REHEARSED:
            return super()._numbers(split)
        return range(64) if split == REHEARSED else range(3000, 4000)

    def native(self, ref: CaseRef) -> NativeCase:
        """Returns the phantom's volume of `ref` in every channel, and its labels or regions within the classes."""
        drawn = super().native(ref)
        image = drawn.image[:1].repeat(self.channels, 1, 1, 1)
        highest = len(self.class_names) - 1
        label = drawn.label & (1 << highest) - 1 if self.regions else drawn.label.clamp(max=highest)
        return replace(drawn, image=image, label=label)
