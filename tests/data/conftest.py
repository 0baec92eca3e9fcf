"""Small Decathlon folders on disk."""

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pytest

from freqbench.data.loaders.decathlon import Decathlon

SHAPE = (12, 10, 8)


class Folder:
    """A Decathlon folder that a test can spoil.

    Cases a, b, c (`validation`) have two classes beside the background; intensities are 0 outside a box.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in "abc":
            self.write(name, *volume(seed=ord(name)))
        self.listed: dict[str, Any] = {}
        self.list(
            labels={"0": "background", "1": "left", "2": "right"},
            numTraining=99,
            training=[],
            validation=[{"image": f"./imagesTr/{n}.nii.gz", "label": f"labelsTr/{n}.nii.gz"} for n in "abc"],
        )

    def write(
        self,
        name: str,
        image: npt.NDArray[Any],
        label: npt.NDArray[Any],
        affine: npt.NDArray[np.float64] | None = None,
        kind: type = nibabel.Nifti1Image,
    ) -> None:
        for folder, voxels in (("imagesTr", image), ("labelsTr", label)):
            (self.root / folder).mkdir(exist_ok=True)
            self.put(f"{folder}/{name}.nii.gz", voxels, affine, kind)

    def put(
        self,
        path: str,
        voxels: npt.NDArray[Any],
        affine: npt.NDArray[np.float64] | None = None,
        kind: type = nibabel.Nifti1Image,
    ) -> None:
        nibabel.save(kind(voxels, np.eye(4) if affine is None else affine), self.root / path)

    def list(self, **changes: Any) -> None:
        """Write the list, with other values of some keys."""
        self.listed |= changes
        (self.root / "dataset.json").write_text(json.dumps(self.listed))

    def dataset(self, **arguments: Any) -> Decathlon:
        return Decathlon(**{"name": "small", "root": str(self.root), "split": "validation", **arguments})


def volume(seed: int = 0) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Intensities 50 to 150 in a box of zeros, labels 0 to 2."""
    rng = np.random.default_rng(seed)
    image = np.zeros(SHAPE, np.float32)
    image[2:10, 1:9, 1:7] = rng.uniform(50, 150, (8, 8, 6))
    label = np.zeros(SHAPE, np.uint8)
    label[3:5, 3:6, 2:5], label[6:8, 3:6, 2:5] = 1, 2
    return image, label


def prepared_by_monai(
    image: Path, label: Path, window: tuple[float, float], size: tuple[int, int, int] | None = None
) -> dict[str, Any]:
    """The papers' validation pipeline as a `Compose` of MONAI's transforms, from files."""
    from monai import transforms

    keys = ["image", "label"]
    low, high = window
    steps = [
        transforms.LoadImaged(keys),
        transforms.EnsureChannelFirstd(keys),
        transforms.Orientationd(keys, axcodes="RAS", labels=None),
        transforms.Spacingd(keys, pixdim=(1.5, 1.5, 2.0), mode=("bilinear", "nearest")),
        *([transforms.ResizeWithPadOrCropd(keys, size)] if size else []),
        transforms.ScaleIntensityRanged("image", a_min=low, a_max=high, b_min=0, b_max=1, clip=True),
        transforms.CropForegroundd(keys, source_key="image"),
    ]
    prepared: dict[str, Any] = transforms.Compose(steps)({"image": image, "label": label})
    return prepared


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)
