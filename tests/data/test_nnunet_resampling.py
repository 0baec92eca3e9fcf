"""nnU-Net's resampling: against skimage and scipy as its code calls them, and closed forms."""

from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.ndimage import map_coordinates
from skimage.transform import resize

from freqbench.data import nnunet_resampling as nnunet

from .conftest import Folder, first_case
from .downloads import CLASSES, VOXELS, volume


def _resized(array: npt.NDArray[Any], shape: tuple[int, ...], order: int) -> npt.NDArray[np.float64]:
    resized: npt.NDArray[np.float64] = resize(
        array.astype(np.float64), shape, order=order, mode="edge", anti_aliasing=False, clip=False
    )
    return resized


def _plane_by_plane(image: npt.NDArray[np.float32], shape: tuple[int, int, int]) -> npt.NDArray[np.float64]:
    """nnU-Net's separate treatment of the last axis: slices cubic in their plane, then scipy's nearest along it."""
    planes = np.stack([_resized(image[..., z], shape[:2], order=3) for z in range(image.shape[2])], axis=-1)
    grid = np.mgrid[: shape[0], : shape[1], : shape[2]].astype(np.float64)
    grid[2] = image.shape[2] / shape[2] * (grid[2] + 0.5) - 0.5
    return np.clip(map_coordinates(planes, grid, order=0, mode="nearest"), 0, 1)


def test_isotropic_images_are_cubic() -> None:
    image = np.random.default_rng(0).random((2, 8, 12, 7), np.float32)
    shape = (9, 9, 5)
    expected = [_resized(channel, shape, order=3) for channel in image]
    resampled = nnunet.resample_image(torch.from_numpy(image), shape, None).numpy()
    assert resampled == pytest.approx(np.clip(expected, 0, 1), abs=1e-6)


@pytest.mark.parametrize("coarse", [None, 2])
def test_labels_are_the_largest_of_all_classes_shares(coarse: int | None) -> None:
    label = np.random.default_rng(1).integers(0, 5, (6, 7, 5)).astype(np.uint8)
    shape = (9, 8, 5)
    shares = []
    for index in range(5):
        own = label == index
        planes = [_resized(own[..., z], shape[:2], order=1) for z in range(5)]
        shares.append(_resized(own, shape, order=1) if coarse is None else np.stack(planes, axis=-1))
    ranked = np.sort(shares, axis=0)
    clear = ranked[-1] - ranked[-2] > 1e-5
    resampled = nnunet.resample_label(torch.from_numpy(label)[None], shape, coarse)[0].numpy()
    assert clear.mean() > 0.8
    assert np.array_equal(resampled[clear], np.argmax(shares, axis=0)[clear])
    assert resampled.dtype == np.uint8


@pytest.mark.parametrize(
    ("spacing", "wanted", "axis"),
    [
        ((1, 1, 3), (1, 1, 1), None),
        ((1, 1, 3.1), (1, 1, 1), 2),
        ((5, 1, 1.2), (1, 1, 1), 0),
        ((1, 1, 1), (1, 4, 1), 1),
        ((6, 1, 1), (1, 4, 1), 0),
        ((1, 4, 4), (1, 1, 1), None),
        ((1, 4, 4), (1, 1, 4), None),
    ],
)
def test_the_coarse_axis(spacing: tuple[float, ...], wanted: tuple[float, ...], axis: int | None) -> None:
    assert nnunet.coarse_axis(spacing, wanted) == axis


def test_the_shape_is_rounded_and_never_empty() -> None:
    assert nnunet.resampled_shape((10, 11, 1), (1.0, 1.5, 0.2), (1.5, 1.0, 2.0)) == (7, 16, 1)


def test_the_affine_says_where_the_voxels_are() -> None:
    """A ramp of world coordinates, resampled linearly inside, holds what the new affine says."""
    shape = (14, 5, 33)
    old = (10, 12, 20)
    affine = np.array([[-1.2, 0.3, 0, 5], [0.2, 2, 0.1, -3], [0, 0.1, 0.8, 7], [0, 0, 0, 1]])
    indices = np.stack([*np.mgrid[: old[0], : old[1], : old[2]], np.ones(old)])
    new = np.stack([*np.mgrid[: shape[0], : shape[1], : shape[2]], np.ones(shape)])
    inside = tuple(slice(4, -4) if size > 12 else slice(2, -2) for size in shape)
    for world, ramp in zip(
        np.tensordot(nnunet.resampled_affine(affine, old, shape), new, 1)[:3],
        np.tensordot(affine, indices, 1)[:3],
        strict=True,
    ):
        assert world[inside] == pytest.approx(_resized(ramp, shape, order=1)[inside], abs=1e-9)


ANISOTROPIC = np.array([[0, 1.0, 0, 4], [0, 0, -1.5, 5], [5.0, 0, 0, 6], [0, 0, 0, 1]])


def _dataset(folder: Folder, image: npt.NDArray[np.float32], **arguments: object):  # type: ignore[no-untyped-def]
    folder.write("a", image, CLASSES, ANISOTROPIC)
    return folder.dataset(resampling="nnunet", cases=("a",), **arguments)


def test_preparation_matches_nnunets_steps(folder: Folder) -> None:
    """Box of voxels that are not 0, bounds of that box, [0, 1], then the grid; by hand from the file."""
    image, _ = volume()
    image[2:4] *= -1
    dataset = _dataset(folder, image, spacing=(0.8, 1.1, 5 / 3), intensity={"percentile": [5, 95]})
    case = first_case(dataset)
    box = np.transpose(image[2:10, 1:9, 1:7], (1, 2, 0))[:, ::-1]
    low, high = np.percentile(box, [5, 95])
    shape = (round(8 / 0.8), round(6 * 1.5 / 1.1), 8 * 3)
    expected = _plane_by_plane(np.clip((box - low) / (high - low), 0, 1).astype(np.float32), shape)
    assert case.image[0].numpy() == pytest.approx(expected, abs=2e-6)
    assert (case.native_ranges[0], case.label.shape) == (pytest.approx((low, high), rel=1e-6), case.image.shape)
    assert nibabel.aff2axcodes(case.affine) == ("R", "A", "S")
    assert case.spacing == pytest.approx((8 / 10, 6 * 1.5 / 8, 5 / 3))
    organ = np.argwhere(case.label[0].numpy() == 1).mean(0)
    assert case.affine @ [*organ, 1] == pytest.approx(ANISOTROPIC @ [3.5, 4, 3, 1], abs=0.4)
    assert all(size <= bound for size, bound in zip(case.image.shape[1:], dataset.refs()[0].shape, strict=True))


def test_box_is_cut_without_spacing_and_size_and_pad_come_last(folder: Folder) -> None:
    dataset = _dataset(folder, VOXELS, intensity={"window": [100, 150]}, crop_foreground=False)
    assert first_case(dataset).image.shape == (1, 8, 6, 8)
    dataset = _dataset(folder, VOXELS, size=(4, 12, 8), pad_to=(4, 12, 20))
    case = first_case(dataset)
    assert case.image.shape == (1, *dataset.refs()[0].shape) == (1, 4, 12, 20)
    assert case.image[:, :, :3].abs().max() == 0
