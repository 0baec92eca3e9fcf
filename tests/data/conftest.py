"""Small Decathlon folders on disk, and what refuses them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from freqbench.core.config import validate
from freqbench.core.errors import DataError, UserError
from freqbench.data import DATASETS
from freqbench.data.loaders.decathlon import Decathlon

from .downloads import Array, Nifti1, put, volume


class Folder:
    """A Decathlon folder to spoil: cases a, b, c (`validation`) with two classes; intensities are 0 outside a box."""

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

    def write(self, name: str, image: Array, label: Array, affine: Array | None = None, kind: type = Nifti1) -> None:
        self.put(f"imagesTr/{name}.nii.gz", image, affine, kind)
        self.put(f"labelsTr/{name}.nii.gz", label, affine, kind)

    def put(self, path: str, voxels: Array, affine: Array | None = None, kind: type = Nifti1) -> None:
        put(self.root / path, voxels, affine, kind)

    def list(self, **changes: Any) -> None:
        self.listed |= changes
        (self.root / "dataset.json").write_text(json.dumps(self.listed))

    def dataset(self, **arguments: Any) -> Decathlon:
        return Decathlon(**{"name": "small", "root": str(self.root), "split": "validation", **arguments})


def refused(text: str, read: Callable[[], object], kind: type[UserError] = DataError) -> None:
    """Fails unless reading raises an error of one line that holds the text."""
    with pytest.raises(kind) as error:
        read()
    assert text in str(error.value)
    assert "\n" not in str(error.value)


def made(loader: str, **arguments: Any) -> Any:
    return validate({"name": "x", "root": ".", **arguments}, DATASETS[loader], where="job.yaml")


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
