"""The way back from a space to the file's grid and unit."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from freqbench.core.input_space import Preprocess
from freqbench.core.types import Case, NativeCase
from freqbench.data import attacked_native, resampling_error
from freqbench.data.preprocess import prepare

from .downloads import LPS, SRA, TURN, native_case

SHAPE = (20, 18, 14)
KEPT = Preprocess(intensity={"window": (-100.0, 300.0)})
SHEAR = np.eye(4)
SHEAR[1, 2] = 0.2

GRIDS = {"RAS": np.eye(4), "LPS": LPS, "SRA": SRA, "oblique": TURN @ LPS, "sheared": SHEAR @ SRA}


def _native(affine: npt.NDArray[np.float64], channels: int = 1, seed: int = 0) -> NativeCase:
    """Intensities -200 to 500, beyond both ends of the window, in a box of -1000."""
    rng = np.random.default_rng(seed)
    image = np.full((channels, *SHAPE), -1000, np.float32)
    image[:, 2:18, 3:17, 1:13] = rng.uniform(-200, 500, (channels, 16, 14, 12))
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    return native_case(image, np.zeros(SHAPE), affine=affine, spacing=tuple(steps.tolist()))


def _noisy(case: Case, eps: float = 8 / 255) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (case.image + eps * torch.randn(case.image.shape, generator=generator).sign()).clamp(0, 1)


PADDED = KEPT.model_copy(update={"resampling": "nnunet", "pad_to": (20, 16, 16)})


@pytest.mark.parametrize(
    ("grid", "space"), [*zip(GRIDS, [KEPT, PADDED, Preprocess(), KEPT, PADDED], strict=True), ("SRA", KEPT)]
)
def test_an_attacked_volume_comes_back_if_the_grid_is_kept(grid: str, space: Preprocess) -> None:
    """Beyond the window's ends too, as the perturbation goes on from the bound."""
    native = _native(GRIDS[grid], channels=2)
    case = prepare(native, space)
    adversarial = _noisy(case)
    if space.pad_to:  # what is added to voxels that the file has not is lost
        inside = prepare(replace(native, image=torch.ones_like(native.image)), space, clean=native).image != 0
        adversarial = torch.where(inside, adversarial, case.image)
    attacked = attacked_native(native, case, adversarial, space)
    again = prepare(attacked, space, clean=native)
    assert again.image.shape == case.image.shape
    assert (again.image - adversarial).abs().max() < 2e-6
    assert resampling_error(native, attacked, adversarial, space) < 1e-6


@pytest.mark.parametrize(("grid", "spacing"), [("LPS", None), ("sheared", None), ("oblique", (1.5, 1.5, 2.0))])
def test_empty_perturbation_keeps_every_bit_and_any_keeps_label(grid: str, spacing: object) -> None:
    native = _native(GRIDS[grid])
    space = KEPT.model_copy(update={"spacing": spacing})
    case = prepare(native, space)
    before = native.image.clone()
    assert torch.equal(attacked_native(native, case, case.image.clone(), space).image, native.image)
    attacked = attacked_native(native, case, _noisy(case), space)
    assert replace(attacked, image=native.image) == native
    assert torch.equal(native.image, before)
    assert not torch.equal(attacked.image, before)


@pytest.mark.parametrize("grid", GRIDS)
def test_air_outside_the_grid_stays(grid: str) -> None:
    """Affines are in float32, as in files: the border must not leak into the box of -1000 around it."""
    native = _native(GRIDS[grid].astype(np.float32).astype(np.float64))
    case = prepare(native, KEPT)
    for shift in (-1e-6, 1e-6):
        moved = case.affine + np.pad(np.full((3, 1), shift), ((0, 1), (3, 0)))
        attacked = attacked_native(native, replace(case, affine=moved), (case.image + 0.5).clamp(0, 1), KEPT)
        air = native.image == -1000
        assert torch.equal(attacked.image[air], native.image[air])


@pytest.mark.parametrize(
    ("clean", "delta", "expected"),
    [
        (0.0, 0.1, 40.0),
        (0.0, -0.1, -40.0),
        (500.0, -0.1, 260.0),
        (500.0, 0.1, 500.0),
        (-700.0, 0.1, -60.0),
        (-700.0, -0.1, -700.0),
        (300.0, -0.1, 260.0),
    ],
)
def test_a_clipped_voxel_goes_on_from_the_bound_and_only_inward(clean: float, delta: float, expected: float) -> None:
    """Window -100 to 300: a tenth is 40."""
    native = _native(GRIDS["RAS"])
    native.image[0, 9, 9, 9] = clean
    case = prepare(native, KEPT)
    adversarial = case.image.clone()
    adversarial[0][tuple(torch.tensor([9, 9, 9]) - torch.from_numpy(case.affine[:3, 3]).round().int())] += delta
    attacked = attacked_native(native, case, adversarial, KEPT).image
    assert float(attacked[0, 9, 9, 9]) == pytest.approx(expected, abs=1e-3)
    attacked[0, 9, 9, 9] = clean
    assert torch.equal(attacked, native.image)


@pytest.mark.parametrize("grid", ["SRA", "oblique"])
def test_the_perturbation_is_carried_as_monai_carries_it(grid: str) -> None:
    """MONAI's resampling by affines, on voxels away from the faces, where it clamps and this fades to 0."""
    from monai.data import MetaTensor
    from monai.transforms import SpatialResample

    native = _native(GRIDS[grid])
    native = replace(native, image=native.image.clamp(-50, 250))
    case = prepare(native, KEPT.model_copy(update={"spacing": (1.4, 1.2, 2.0)}))
    adversarial = case.image + torch.randn(case.image.shape) * 0.01
    delta = MetaTensor((adversarial - case.image) * 400, affine=torch.from_numpy(case.affine))
    resample = SpatialResample(mode="bilinear", padding_mode="zeros", dtype=torch.float64)
    expected = resample(delta, dst_affine=torch.from_numpy(native.affine), spatial_size=SHAPE).as_tensor()
    inner = (slice(None), *(slice(2, size - 2) for size in SHAPE))
    carried = attacked_native(native, case, adversarial, KEPT).image - native.image
    assert carried[inner].numpy() == pytest.approx(expected[inner].numpy(), abs=1e-4)


@pytest.mark.parametrize("crop_foreground", [False, True])
def test_bounds_and_crop_are_the_cleans(crop_foreground: bool) -> None:
    """All is darker: bounds found on the attacked volume would make up for it."""
    native = _native(GRIDS["LPS"])
    space = Preprocess(intensity="minmax", crop_foreground=crop_foreground)
    case = prepare(native, space)
    adversarial = case.image * 0.8
    assert resampling_error(native, attacked_native(native, case, adversarial, space), adversarial, space) < 1e-6


def test_a_volume_of_another_shape_is_refused() -> None:
    native = _native(GRIDS["RAS"])
    case = prepare(native, KEPT)
    with pytest.raises(ValueError, match=r"^expected the case's shape \(1, 16, 14, 12\), got \(1, 3, 3, 3\)$"):
        attacked_native(native, case, torch.zeros(1, 3, 3, 3), KEPT)
