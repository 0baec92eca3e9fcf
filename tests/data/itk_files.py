"""Files of the formats that SimpleITK writes, with the grid of a NIfTI file."""

from pathlib import Path

import numpy as np
import SimpleITK

from .downloads import Array, put


def put_itk(path: Path, voxels: Array, affine: Array | None = None, packed: bool = False) -> None:
    """Writes `[H, W, D]`, or with channels behind, by the format that the name says; `affine` is RAS+."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith((".nii", ".nii.gz")):
        return put(path, voxels, affine)
    grid = np.diag([-1.0, -1.0, 1.0, 1.0]) @ (np.eye(4) if affine is None else affine)
    axes = np.moveaxis(voxels, -1, 0).T if voxels.ndim > 3 else voxels.T
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(axes), isVector=voxels.ndim > 3)
    sides = np.linalg.norm(grid[:3, :3], axis=0)
    image.SetSpacing(sides.tolist())
    image.SetDirection((grid[:3, :3] / sides).ravel().tolist())
    image.SetOrigin(grid[:3, 3].tolist())
    SimpleITK.WriteImage(image, str(path), useCompression=packed)
    return None


def spoil(path: Path, old: bytes, new: bytes) -> None:
    """Replaces bytes of a file that are there once at least."""
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
