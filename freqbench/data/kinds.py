"""The layouts of folders that are known, and what tells them apart."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freqbench.data import nifti
from freqbench.data.loaders.msd import TASKS

ORGANS = ("spleen", "kidney_right", "kidney_left", "gallbladder", "liver", "stomach", "pancreas")


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A layout that is known.

    Attributes:
        title: what it is called.
        sign: what is looked for, in words.
        here: whether a folder has it.
        loader: of DATASETS.
        keys: of the loader, beside its root, as the folder asks for them.
        all_cases: keys that take in what the job line leaves out, to look at every case.
    """

    title: str
    sign: str
    here: Callable[[Path], bool]
    loader: str
    keys: Callable[[Path], dict[str, Any]] = lambda _: {}
    all_cases: tuple[tuple[str, Any], ...] = ()


def structures(case: Path) -> list[str]:
    """The structures that a case of TotalSegmentator has masks of."""
    return sorted(nifti.stem(path.name) for path in case.glob("segmentations/*.nii.gz"))


def classes(folder: Path) -> dict[str, Any]:
    """Structures for a job line: abdominal organs where there are any."""
    cases = sorted(folder.glob("s[0-9]*/segmentations"))
    there = max((structures(case.parent) for case in cases), key=len, default=[])
    return {"classes": [name for name in ORGANS if name in there] or there[:5] or list(ORGANS)}


def _has(*patterns: str) -> Callable[[Path], bool]:
    return lambda folder: any(next(folder.glob(pattern), None) for pattern in patterns)


def _is_nnunet(folder: Path) -> bool:
    """Images end in the number of their channel and label maps do not."""
    image = next(folder.glob("imagesTr/*_0000.nii*"), None)
    return image is not None and not (folder / "labelsTr" / image.name).exists()


KINDS: tuple[Kind, ...] = (
    Kind(
        title="TotalSegmentator",
        sign="s0000/ct.nii.gz and s0000/segmentations",
        here=_has("s[0-9][0-9][0-9][0-9]/ct.nii.gz", "s[0-9][0-9][0-9][0-9]/segmentations"),
        loader="totalsegmentator",
        keys=classes,
    ),
    Kind(
        title="raw folder of nnU-Net",
        sign="imagesTr/case_0000.nii.gz and labelsTr/case.nii.gz",
        here=_is_nnunet,
        loader="nnunet_raw",
    ),
    Kind(
        title="BTCV as downloaded",
        sign="RawData/Training/img/img0001.nii.gz",
        here=_has(
            *(f"{place}img/img*.nii.gz" for place in ("RawData/Training/", "Training/", "")),
            *(f"{place}avg*.nii*" for place in ("RawData/Training/img/", "Training/img/", "img/", "averaged-*/")),
            "averaged-*/DET*_avg*.nii*",
        ),
        loader="synapse",
    ),
    Kind(
        title="ACDC as downloaded",
        sign="training/patient001/patient001_frame01.nii.gz",
        here=_has(
            "database/training/patient[0-9]*", "training/patient[0-9]*", "patient[0-9]*/patient[0-9]*_frame*.nii.gz"
        ),
        loader="acdc",
    ),
    Kind(
        title="AMOS",
        sign="imagesTr/amos_0001.nii.gz",
        here=_has("imagesTr/amos_*.nii.gz", "imagesVa/amos_*.nii.gz"),
        loader="amos",
        all_cases=(("modality", "all"),),
    ),
    Kind(
        title="Synapse (BTCV) in the Decathlon layout",
        sign="imagesTr/img0001.nii.gz",
        here=_has("imagesTr/img[0-9]*.nii.gz", "imagesTr/avg*.nii.gz"),
        loader="synapse",
    ),
    Kind(
        title="ACDC in the Decathlon layout",
        sign="imagesTr/patient001_frame01.nii.gz",
        here=_has("imagesTr/patient[0-9]*_frame*.nii.gz"),
        loader="acdc",
    ),
    Kind(
        title="task of the Medical Segmentation Decathlon",
        sign="a folder called Task09_Spleen or so",
        here=lambda folder: folder.name in TASKS,
        loader="msd",
        keys=lambda folder: {"task": folder.name},
    ),
    Kind(
        title="folder in the layout of the Decathlon",
        sign="dataset.json or imagesTr",
        here=_has("dataset.json", "imagesTr"),
        loader="decathlon",
    ),
)


def kind_of(folder: Path) -> Kind | None:
    """The first layout that a folder has."""
    return next((kind for kind in KINDS if kind.here(folder)), None)
