"""Reads saved volumes as figures show them, their axes turned to right, anterior and superior."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import nibabel
import numpy as np
import numpy.typing as npt

from freqbench.core import names
from freqbench.core.errors import DataError
from freqbench.core.files import storage
from freqbench.core.types import IGNORED, Spacing
from freqbench.data import image_files, nifti
from freqbench.results import volumes

T = TypeVar("T", bound=np.generic)
Image = npt.NDArray[np.float32]
Mask = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class CaseVolumes:
    """One case under one attack, `[H, W, D]` along right, anterior and superior: intensities in [0, 1] (of several
    channels the one that changed most), classes, each target's predictions on the clean and on the adversarial volume,
    and millimetres per voxel."""

    clean: Image
    adversarial: Image
    label: Mask
    predictions: Mapping[str, tuple[Mask, Mask]]
    spacing: Spacing

    @property
    def change(self) -> Image:
        """adversarial - clean."""
        return self.adversarial - self.clean


def read(root: str, folder: str) -> CaseVolumes:
    """Reads the volumes of one folder; leaves out predictions on another grid than the source's.

    Raises a UserError where files are damaged or missing, do not lie on one grid, or links lead elsewhere.
    """
    names.require_inside(root.rpartition("/")[0] or ".", folder)
    clean, affine = _channels(storage.join(folder, volumes.CLEAN))
    adversarial, _ = _channels(storage.join(folder, volumes.ADVERSARIAL))
    label = _classes(storage.join(folder, volumes.LABEL))
    if not (clean.shape == adversarial.shape and clean.shape[1:] == label.shape):
        raise DataError(
            f"{folder}: expected clean, adversarial and label on one grid, got {clean.shape[1:]}, "
            f"{adversarial.shape[1:]} and {label.shape}: run the cell again"
        )
    predictions = {}
    kinds = (volumes.ON_CLEAN, volumes.ON_ADVERSARIAL)
    for target, files in sorted(volumes.predictions(storage.list_files(folder, volumes.SUFFIX)).items()):
        if len(files) == 2:
            before, after = (_classes(storage.join(folder, files[kind])) for kind in kinds)
            if before.shape == label.shape:
                predictions[target] = before, after
    return turned(clean, adversarial, label, predictions, affine)


def turned(
    clean: Image,
    adversarial: Image,
    label: Mask,
    predictions: Mapping[str, tuple[Mask, Mask]],
    affine: npt.NDArray[np.float64],
) -> CaseVolumes:
    """Turns the axes of volumes `[C, H, W, D]` and maps `[H, W, D]`; `affine` maps voxels to world millimetres."""
    most = int(np.abs(adversarial - clean).sum(axis=(1, 2, 3), dtype=float).argmax())
    turn = nibabel.io_orientation(affine)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)[np.argsort(turn[:, 0])]

    def turn_to_ras(volume: npt.NDArray[T]) -> npt.NDArray[T]:
        return np.ascontiguousarray(nibabel.apply_orientation(volume, turn))

    return CaseVolumes(
        clean=turn_to_ras(clean[most]),
        adversarial=turn_to_ras(adversarial[most]),
        label=turn_to_ras(label),
        predictions={name: (turn_to_ras(before), turn_to_ras(after)) for name, (before, after) in predictions.items()},
        spacing=(float(spacing[0]), float(spacing[1]), float(spacing[2])),
    )


def _channels(path: str) -> tuple[Image, npt.NDArray[np.float64]]:
    """Reads the voxels `[C, H, W, D]` of a file, and its affine."""
    header = nifti.read_header(storage.fetch(path), multichannel=True)
    voxels = nifti.read_packed(storage.read_bytes(path), path)
    return (np.moveaxis(voxels, -1, 0) if voxels.ndim == 4 else voxels[None]), header.affine


def _classes(path: str) -> Mask:
    """Reads a label map; voxels that do not count are drawn as background."""
    classes = image_files.read_integers(nifti.read_header(storage.fetch(path))).astype(np.uint8)
    classes[classes == IGNORED] = 0
    return classes
