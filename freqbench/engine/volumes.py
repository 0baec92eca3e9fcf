"""Saved volumes: what a unit made, as NIfTI files on the preprocessed grid with its true affine.

The grid is that of the source model's space, predictions are on their target's. Channels lie along a fourth axis.
"""

import gzip
import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from freqbench import storage
from freqbench.evaluate import AttackedVolume
from freqbench.grid import Cell
from freqbench.types import Case, CaseRef

FACTS = "attack.json"


@dataclass(frozen=True, kw_only=True)
class AttackFacts:
    """What a saved volume took to make, None where nobody knows; its file is written last and says that the volume is
    whole."""

    num_windows: int | None
    num_forwards: int | None
    num_backwards: int | None
    attack_seconds: float | None


def cell_folder(cell: Cell) -> str:
    """What the folder of a cell is called."""
    return f"{cell.attack.name}-{cell.source.name}-{cell.cell_id}"


def folder(root: str, cell: Cell, ref: CaseRef) -> str:
    """Where the volumes of a cell and case lie below `root`."""
    return storage.join(root, cell_folder(cell), f"{ref.case_id}-{cell.dataset.case_key(ref)}")


def is_saved(root: str, cell: Cell, ref: CaseRef) -> bool:
    """Whether the adversarial volume of a cell and case lies below `root`."""
    return storage.exists(storage.join(folder(root, cell, ref), FACTS))


def save(root: str, cell: Cell, case: Case, attacked: AttackedVolume, attack_seconds: float | None) -> None:
    """Write `adversarial`, `clean` (float32) and `label` (uint8), then the facts."""
    place = folder(root, cell, case.ref)
    write(storage.join(place, "adversarial.nii.gz"), attacked.adversarial, case.affine)
    write(storage.join(place, "clean.nii.gz"), case.image, case.affine)
    write(storage.join(place, "label.nii.gz"), case.label, case.affine)
    facts = AttackFacts(
        num_windows=attacked.num_windows,
        num_forwards=attacked.num_forwards,
        num_backwards=attacked.num_backwards,
        attack_seconds=attack_seconds,
    )
    storage.write_atomic(storage.join(place, FACTS), json.dumps(asdict(facts)).encode())


def save_prediction(root: str, cell: Cell, case: Case, target: str, pred_clean: Tensor, pred: Tensor) -> None:
    """Write the target's label maps of both volumes, `prediction_clean-TARGET` and `prediction_adversarial-TARGET`."""
    place = folder(root, cell, case.ref)
    write(storage.join(place, f"prediction_clean-{target}.nii.gz"), pred_clean, case.affine)
    write(storage.join(place, f"prediction_adversarial-{target}.nii.gz"), pred, case.affine)


def read(root: str, cell: Cell, ref: CaseRef) -> tuple[AttackedVolume, float | None]:
    """A saved adversarial volume, and the seconds it took to make; None where nobody knows."""
    place = folder(root, cell, ref)
    facts = AttackFacts(**json.loads(storage.read_bytes(storage.join(place, FACTS))))
    attacked = AttackedVolume(
        adversarial=torch.from_numpy(_read(storage.join(place, "adversarial.nii.gz"))),
        num_windows=facts.num_windows,
        num_forwards=facts.num_forwards,
        num_backwards=facts.num_backwards,
    )
    return attacked, facts.attack_seconds


def write(path: str, volume: Tensor, affine: npt.NDArray[np.float64]) -> None:
    """Write one NIfTI file of the volume's type, whole or not at all.

    Args:
        path: ends in `.nii.gz`.
        volume: `[H, W, D]` or `[C, H, W, D]`; several channels become the file's fourth axis.
        affine: voxel to world millimetres (RAS+).
    """
    import nibabel

    several = volume.ndim == 4 and len(volume) > 1
    voxels = volume.movedim(0, -1) if several else volume.reshape(volume.shape[-3:])
    image = nibabel.Nifti1Image(voxels.numpy(), affine)
    image.header.set_xyzt_units("mm")
    storage.write_atomic(path, gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))


def _read(path: str) -> npt.NDArray[np.float32]:
    """The channels of a file, `[C, H, W, D]`."""
    import nibabel

    image: Any = nibabel.Nifti1Image.from_bytes(gzip.decompress(storage.read_bytes(path)))
    voxels = np.asarray(image.dataobj).astype(np.float32)
    return np.moveaxis(voxels, -1, 0) if voxels.ndim == 4 else voxels[None]
