"""Writes the volume for a command in its format, and opens its label map: NIfTI by nibabel, all others by SimpleITK."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

NIFTI = (".nii.gz", ".nii")
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # RAS+ to the axes of SimpleITK, and back


class OpenedFile(NamedTuple):
    """A label map whose header was read."""

    shape: tuple[int, ...]
    affine: npt.NDArray[np.float64]  # voxel to world millimetres (RAS+), `[4, 4]`
    read: Callable[[], npt.NDArray[Any]]  # returns its voxels `[H, W, D]`


def write(path: Path, voxels: npt.NDArray[np.float32], affine: npt.NDArray[np.float64]) -> None:
    """Writes voxels `[H, W, D]` with their affine (RAS+, millimetres) in the format of the file's name."""
    if path.name.endswith(NIFTI):
        import nibabel as nib

        written = nib.Nifti1Image(voxels, affine)
        written.set_qform(affine, 1)  # some tools read this form of the affine alone
        written.header.set_xyzt_units("mm")
        nib.save(written, path)
        return
    import SimpleITK

    image, grid = SimpleITK.GetImageFromArray(np.ascontiguousarray(voxels.T)), LPS @ affine
    sides = np.linalg.norm(grid[:3, :3], axis=0)
    image.SetSpacing(sides.tolist())
    image.SetDirection((grid[:3, :3] / sides).ravel().tolist())
    image.SetOrigin(grid[:3, 3].tolist())
    SimpleITK.WriteImage(image, str(path))


def open_label_map(path: Path) -> OpenedFile:
    """Reads the header of a label map in the format of the file's name; raises whatever the format's library raises."""
    if path.name.endswith(NIFTI):
        import nibabel as nib

        image = nib.load(path)
        return OpenedFile(image.shape, image.affine, lambda: np.asarray(image.dataobj))
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    shape, size = tuple(map(int, reader.GetSize())), len(reader.GetSize())
    affine = np.eye(4)
    if size == 3:
        affine[:3, :3] = np.reshape(reader.GetDirection(), (3, 3)) * reader.GetSpacing()
        affine[:3, 3] = reader.GetOrigin()
    channels = (reader.GetNumberOfComponents(),) if reader.GetNumberOfComponents() > 1 else ()
    return OpenedFile((*shape, *channels), LPS @ affine, lambda: SimpleITK.GetArrayFromImage(reader.Execute()).T)
