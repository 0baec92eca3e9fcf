"""Small Decathlon folders on disk, and what refuses them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from freqbench.core.config import validate
from freqbench.core.errors import DataError, UserError
from freqbench.core.types import Case, NativeCase
from freqbench.data import DATASETS, Dataset
from freqbench.data.layouts import Layout, recognise
from freqbench.data.loaders.decathlon import Decathlon
from freqbench.job.schema import build_dataset

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
        put_json(self.root / "dataset.json", self.listed)

    def dataset(self, **arguments: Any) -> Decathlon:
        return Decathlon(**{"name": "small", "root": str(self.root), "split": "validation", **arguments})


def refused(text: str, read: Callable[[], object], kind: type[UserError] = DataError) -> None:
    """Fails unless reading raises an error of one line that holds the text."""
    with pytest.raises(kind) as error:
        read()
    assert text in str(error.value)
    assert "\n" not in str(error.value)


def made(loader: str, root: Path | str = ".", **arguments: Any) -> Any:
    return validate({"name": "x", "root": str(root), **arguments}, DATASETS[loader], where="job.yaml")


def put_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


def layout_of(root: Path, **options: bool) -> Layout:
    return recognise(str(root), **options)


def proposed(root: Path, **keys: Any) -> Any:
    """The dataset of the line that doctor proposes for a folder; keywords change it."""
    (entry,) = yaml.safe_load(layout_of(root).job_line)
    return build_dataset({**entry, **keys}, where="job.yaml")


def names_of(dataset: Dataset, *split: str) -> list[str]:
    """The ids of a dataset's cases, or of those of another split."""
    return [ref.case_id for ref in dataset.refs(*split)]


def first_case(dataset: Dataset) -> Case:
    return dataset.load(dataset.refs()[0])


def first_native(dataset: Dataset) -> NativeCase:
    return dataset.native(dataset.refs()[0])


def first_key(dataset: Dataset) -> str:
    return dataset.case_key(dataset.refs()[0])


def first_label(dataset: Dataset) -> Array:
    """The label map `[H, W, D]` of a dataset's first case on the grid of its file."""
    return first_native(dataset).label[0].numpy()


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
