"""Locates the voxels of a NIfTI file from its header, and refuses headers that contradict themselves."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from freqbench.core.errors import DataError, one_line

# Units of the codes of `xyzt_units`, and their millimetres; lengths without a unit count as millimetres.
UNITS = {0: ("no unit", 1.0), 1: ("metres", 1e3), 2: ("millimetres", 1.0), 3: ("micrometres", 1e-3)}

# Sides of a voxel, from microscopes to body scanners: any other side has a wrong unit.
SMALLEST_MM, LARGEST_MM = 1e-4, 100.0


def affine_of(path: Path, image: Any) -> npt.NDArray[np.float64]:
    """Returns voxel to world millimetres, by sform, else qform, else pixdim; refuses contradictions."""
    header = image.header
    with image.file_map["image"].get_prepare_fileobj(
        "rb"
    ) as stream:  # as written: nibabel replaces sides that are not positive
        pixdim = type(header).from_fileobj(stream, check=False)["pixdim"][1:4]
    try:
        sform, qform = header.get_sform(coded=True)[0], header.get_qform(coded=True)[0]
    except damaged() as error:
        raise DataError(
            f"{path}: expected a rotation as qform, got none: {reason_of(error)}: mend the header"
        ) from None
    if sform is None and not (pixdim > 0).all():
        raise DataError(
            f"{path}: expected sides of voxels above 0, got {_sides(pixdim)} in pixdim, and no sform: mend the header"
        )
    affine = np.asarray(image.affine, np.float64).copy()
    steps = affine[:3, :3]
    sides = np.linalg.norm(steps, axis=0)
    volume = abs(float(np.linalg.det(steps))) if np.isfinite(affine).all() else 0.0
    if not volume > 1e-6 * float(sides.prod()):
        raise DataError(f"{path}: expected an invertible affine, got {affine[:3].tolist()}: mend the header")
    code = int(header["xyzt_units"]) % 8
    if code not in UNITS:
        raise DataError(f"{path}: expected a unit of length in xyzt_units (0 to 3), got {code}: mend the header")
    unit, length = UNITS[code]
    if sform is not None and qform is not None:
        others = np.linalg.norm(qform[:3, :3], axis=0)
        along = (steps * qform[:3, :3]).sum(axis=0) / (sides * others)  # the cosine between the two, an axis
        if not (np.isclose(sides, others, rtol=0.01, atol=0) & (along > 0.5)).all():
            raise DataError(
                f"{path}: expected the same grid of sform and qform, got {_oriented(affine)} and {_oriented(qform)} "
                f"({unit}): set the code of the wrong one to 0"
            )
    if not (sides.min() * length >= SMALLEST_MM and sides.max() * length <= LARGEST_MM):
        raise DataError(
            f"{path}: expected voxels of {SMALLEST_MM:g} to {LARGEST_MM:g} mm a side, got {_sides(sides * length)} mm, "
            f"as the header gives {_sides(sides)} and {unit}: mend its unit (xyzt_units) or sides"
        )
    affine[:3] *= length
    return affine


def _sides(sides: npt.NDArray[Any]) -> str:
    return " x ".join(f"{side:g}" for side in sides.tolist())


def _oriented(affine: npt.NDArray[np.float64]) -> str:
    """Returns the sides of the voxels, and the directions of the axes."""
    from nibabel.orientations import aff2axcodes

    return f"{_sides(np.linalg.norm(affine[:3, :3], axis=0))} {''.join(map(str, aff2axcodes(affine)))}"


def damaged() -> tuple[type[Exception], ...]:
    """Returns the errors that nibabel raises for a file that is no volume, or is damaged."""
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    of_nibabel = (ImageFileError, HeaderDataError, WrapStructError)
    return *of_nibabel, OSError, EOFError, ValueError, OverflowError, struct.error, zlib.error


def reason_of(error: Exception) -> str:
    """Returns an error's text in one line, without its final punctuation."""
    return one_line(error).rstrip(".:")
