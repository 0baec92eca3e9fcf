"""One volume is one case in every format, whatever its header: oblique, anisotropic, its axes in any order and way."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from freqbench.core.types import Case
from freqbench.data import image_files

from .conftest import first_case, made
from .dicom_files import put_series
from .downloads import Array
from .itk_files import put_itk

FORMATS = (".nii", ".nii.gz", ".hdr", ".mha", ".mhd", ".nrrd", ".nhdr", ".mgz")
SHAPE = (21, 18, 12)
SETTINGS = {"intensity": "minmax", "spacing": (1.7, 1.9, 2.3), "crop_foreground": False}


def drawn(seed: int) -> tuple[Array, Array, Array]:
    random = np.random.default_rng(seed)
    axes = np.eye(3)[random.permutation(3)] * random.choice([-1, 1], 3)
    affine = np.eye(4)
    turn = Rotation.from_euler("xyz", random.uniform(-25, 25, 3), degrees=True).as_matrix()
    affine[:3, :3] = turn @ axes * random.uniform(0.6, 3, 3)
    affine[:3, 3] = random.uniform(-60, 60, 3)
    voxels = (900 * random.random(SHAPE)).astype(np.int16)
    label = np.zeros(SHAPE, np.uint8)
    label[5:12, 4:11, 3:8] = 1
    label[12:16, 4:11, 3:8] = 2
    return voxels, label, affine


def put_file(path: Path, voxels: Array, affine: Array, packed: bool) -> None:
    if path.suffix == ".mgz":
        nibabel.save(nibabel.MGHImage(voxels, affine), path)
    else:
        put_itk(path, voxels, affine, packed)


def case_of(folder: Path, suffix: str) -> Case:
    files = {"image": f"{{case}}{suffix}", "label": f"{{case}}_seg{suffix}", "labels": 3}
    dataset = made("pairs", root=folder, **files, **SETTINGS)
    (ref,) = dataset.refs()
    case: Case = dataset.load(ref)
    return case


@pytest.mark.parametrize("seed", range(8))
def test_a_volume_is_one_case_in_eight_formats_and_as_a_series(tmp_path: Path, seed: int) -> None:
    """NIfTI and MGH keep a grid in 32 bits, the others in 64; sides of some 4 cm hold it to a ten-thousandth."""
    voxels, label, affine = drawn(seed)
    for suffix in FORMATS:
        folder = tmp_path / suffix
        folder.mkdir()
        put_file(folder / f"a{suffix}", voxels, affine, packed=seed > 3)
        put_file(folder / f"a_seg{suffix}", label, affine, packed=seed > 3)
        header = image_files.read_header(folder / f"a{suffix}")
        np.testing.assert_allclose(header.affine, affine, atol=1e-4)
        np.testing.assert_allclose(header.spacing, np.linalg.norm(affine[:3, :3], axis=0), rtol=1e-6)
        np.testing.assert_allclose(header.stated, header.spacing, rtol=1e-6)
    first, *others = (case_of(tmp_path / suffix, suffix) for suffix in FORMATS)
    for case in others:
        np.testing.assert_allclose(case.affine, first.affine, atol=1e-3)
        np.testing.assert_allclose(case.image, first.image, atol=1e-3)
        np.testing.assert_array_equal(case.label, first.label)
    put_series(tmp_path / "dicom/images/a", voxels, affine)
    series = made("dicom", root=tmp_path / "dicom", reference="prediction", labels=3, **SETTINGS)
    case = first_case(series)
    np.testing.assert_allclose(case.affine, first.affine, atol=1e-3)
    np.testing.assert_allclose(case.image, first.image, atol=1e-3)
