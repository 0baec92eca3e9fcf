"""A tiny folder of NIfTI files on a grid of its own, and NIfTI files as third-party tools write them."""

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
from data.downloads import SHAPE, put

AFFINE = np.array([[-3.0, 0, 0, 40], [0, 2, 0, -7], [0, 0, 2.5, 5], [0, 0, 0, 1]])


def voxels_of(path: Path) -> Any:
    return np.asanyarray(nibabel.load(path).dataobj)


def case(channels: int = 1, top: float = 1000) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Intensities in a box of zeros, labels 0 to 2."""
    image = np.zeros((*SHAPE, channels), np.float32)
    image[2:10, 1:9, 1:7] = np.random.default_rng(3).uniform(top / 4, top, (8, 8, 6, channels)).round(1)
    label = np.zeros(SHAPE, np.uint8)
    label[3:5, 3:6, 2:5] = 1
    label[6:8, 3:6, 2:5] = 2
    return image.squeeze(-1) if channels == 1 else image, label


def folder(root: Path, **asked: Any) -> dict[str, Any]:
    image, label = case(**asked)
    put(root / "imagesTr" / "x.nii.gz", image, AFFINE)
    put(root / "labelsTr" / "x.nii.gz", label, AFFINE)
    listed = {
        "labels": {"0": "background", "1": "left", "2": "right"},
        "validation": [{"image": "imagesTr/x.nii.gz", "label": "labelsTr/x.nii.gz"}],
    }
    (root / "dataset.json").write_text(json.dumps(listed))
    entry = {"name": "small", "loader": "decathlon", "root": str(root), "split": "validation"}
    return {**entry, "spacing": [1.5, 1.5, 1.5], "pad_to": [16, 16, 16]}
