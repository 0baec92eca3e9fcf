"""Folders as downloads leave them, with tiny volumes."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import torch
from scipy.spatial.transform import Rotation

from freqbench.core.types import CaseRef, NativeCase

SHAPE = (12, 10, 8)
# Columns are where the file's axes point, in millimetres RAS+; by TURN they are turned, as by a tilted gantry.
LPS = np.array([[-1.0, 0, 0, 30], [0, -2.0, 0, 5], [0, 0, 3.0, -70], [0, 0, 0, 1]])
SRA = np.array([[0, 1.0, 0, 4], [0, 0, 2.0, 5], [3.0, 0, 0, 6], [0, 0, 0, 1]])
TURN = np.eye(4)
TURN[:3, :3] = Rotation.from_euler("xyz", [12, -7, 20], degrees=True).as_matrix()
Array = npt.NDArray[Any]
Nifti1 = nibabel.Nifti1Image
PLACES = {
    "decathlon": ("imagesTr/{case}.nii.gz", "labelsTr/label{number}.nii.gz"),
    "raw": ("RawData/Training/img/{case}.nii.gz", "RawData/Training/label/label{number}.nii.gz"),
    "training": ("Training/img/{case}.nii.gz", "Training/label/label{number}.nii.gz"),
    "flat": ("img/{case}.nii.gz", "label/label{number}.nii.gz"),
}

ACDC_PLACES = {
    "decathlon": ("images{side}/{case}.nii.gz", "labels{side}/{case}_gt.nii.gz"),
    "database": ("database/training/{patient}/{case}.nii.gz", "database/training/{patient}/{case}_gt.nii.gz"),
    "training": ("training/{patient}/{case}.nii.gz", "training/{patient}/{case}_gt.nii.gz"),
    "patients": ("{patient}/{case}.nii.gz", "{patient}/{case}_gt.nii.gz"),
}


def volume(seed: int = 0) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Intensities 50 to 150 in a box of zeros, labels 0 to 2."""
    rng = np.random.default_rng(seed)
    image = np.zeros(SHAPE, np.float32)
    image[2:10, 1:9, 1:7] = rng.uniform(50, 150, (8, 8, 6))
    label = np.zeros(SHAPE, np.uint8)
    label[3:5, 3:6, 2:5] = 1
    label[6:8, 3:6, 2:5] = 2
    return image, label


VOXELS, CLASSES = volume()
"""The usual volume, only to be read."""


def native_case(image: Array, label: Array, source: str = "x.nii.gz", **changes: Any) -> NativeCase:
    """A case of `[H, W, D]`, or with channels before, in voxels of 1 mm."""
    voxels, classes = (torch.as_tensor(np.asarray(each)) for each in (image, label))
    shape = (classes.shape[-3], classes.shape[-2], classes.shape[-1])
    fields = {
        "ref": CaseRef(case_id="c", patient_id="c", fingerprint="0" * 16, shape=shape),
        "image": voxels.float().reshape(-1, *shape),
        "label": classes.to(torch.uint8).reshape(1, *shape),
        "affine": np.eye(4),
        "spacing": (1.0, 1.0, 1.0),
        "source": source,
    }
    return NativeCase(**fields | changes)


def put(path: Path, voxels: Array, affine: Array | None = None, kind: type = Nifti1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(kind(voxels, np.eye(4) if affine is None else affine), path)


def put_case(image: Path, label: Path, seed: int) -> None:
    voxels, classes = volume(seed)
    put(image, voxels)
    put(label, classes)


def synapse(root: Path, place: str, cases: Iterable[str]) -> None:
    for case in cases:
        image, label = (root / path.format(case=case, number=case[3:]) for path in PLACES[place])
        put_case(image, label, int(case[3:]))


def acdc(root: Path, place: str, frames: Iterable[tuple[str, str]]) -> None:
    for seed, (case, side) in enumerate(frames):
        patient = case.partition("_")[0]
        image, label = (root / path.format(case=case, patient=patient, side=side) for path in ACDC_PLACES[place])
        put_case(image, label, seed)


def decathlon(root: Path, listed: dict[str, list[str]], labels: Iterable[str] = ("air", "left", "right")) -> None:
    """A list with `image` and `label` of `training` and `validation`, and with bare names of `test`."""
    lines: dict[str, Any] = {"labels": {str(index): name for index, name in enumerate(labels)}}
    for split, cases in listed.items():
        side = {"training": "Tr", "validation": "Va", "test": "Ts"}[split]
        lines[split] = [f"./images{side}/{case}.nii.gz" for case in cases]
        if split != "test":
            lines[split] = [{"image": image, "label": image.replace("images", "labels")} for image in lines[split]]
            for case in cases:
                put_case(root / f"images{side}/{case}.nii.gz", root / f"labels{side}/{case}.nii.gz", sum(case.encode()))
    (root / "dataset.json").write_text(json.dumps(lines))


def totalsegmentator(root: Path, splits: dict[str, str]) -> None:
    """Structures: the spleen is the box of class 1, the liver both boxes and so overlaps it, the aorta is empty."""
    for seed, case in enumerate(splits):
        image, label = volume(seed)
        put(root / case / "ct.nii.gz", image)
        for structure, mask in {"spleen": label == 1, "liver": label > 0, "aorta": label > 2}.items():
            put(root / case / f"segmentations/{structure}.nii.gz", mask.astype(np.uint8))
    rows = ["image_id;age;split", *(f"{case};40;{split}" for case, split in splits.items())]
    (root / "meta.csv").write_text("\ufeff" + "\n".join(rows) + "\n", encoding="utf-8")


def nnunet(root: Path, training: Iterable[str], test: Iterable[str] = (), channels: int = 1, **changes: Any) -> None:
    for side, cases in (("Tr", training), ("Ts", test)):
        for case in cases:
            image = root / f"images{side}/{case}_0000.nii.gz"
            label = root / f"labels{side}/{case}.nii.gz"
            put_case(image, label, sum(case.encode()))
            for channel in range(1, channels):
                put(root / f"images{side}/{case}_{channel:04d}.nii.gz", volume(1000 + channel)[0])
    content = {
        "channel_names": {str(channel): f"channel {channel}" for channel in range(channels)},
        "labels": {"background": 0, "left": 1, "right": 2},
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(content | changes))
