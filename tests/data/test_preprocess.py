"""Grids and intensities: where a voxel lands, what its value becomes, also by the `space` of one's own class."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
import torch
from third_party.own_classes import OWN, TRUST
from tiny_job import expanded, small
from torch import Tensor
from toy.data import Balls

from freqbench.core.errors import DataError
from freqbench.core.input_space import Preprocess
from freqbench.core.types import Case, CaseRef, NativeCase
from freqbench.data import Dataset
from freqbench.data.base import AS_GIVEN
from freqbench.data.loaders.decathlon import Decathlon
from freqbench.data.preprocess import prepare
from freqbench.data.scans import ImageFiles
from freqbench.job.fit import space_notes

from .conftest import Folder, first_case, first_native, refused
from .downloads import LPS, SHAPE, SRA, TURN, volume

GRIDS = {
    "RAS": np.array([[1.0, 0, 0, -3], [0, 2.0, 0, 5], [0, 0, 3.0, 7], [0, 0, 0, 1]]), "LPS": LPS, "SRA": SRA,
    "oblique LPS": TURN @ LPS,
}  # fmt: skip


def _first(folder: Folder, **arguments: Any) -> Case:
    dataset = folder.dataset(**arguments)
    return first_case(dataset)


@pytest.mark.parametrize(
    ("grid", "arguments"),
    [
        ("RAS", {"crop_foreground": False}),
        ("LPS", {}),
        ("SRA", {"crop_foreground": False}),
        ("oblique LPS", {}),
        ("LPS", {"pad_to": (30, 30, 30)}),
        ("SRA", {"size": (14, 12, 9)}),
    ],
)
def test_a_voxel_keeps_its_place_in_the_world(folder: Folder, grid: str, arguments: dict[str, Any]) -> None:
    """The one voxel of class 2 lies, by the case's affine, where the file's affine puts it; axes become RAS."""
    image, label = volume()
    label[label == 2] = 0
    label[7, 3, 5] = 2
    folder.write("a", image, label, GRIDS[grid])
    case = _first(folder, **arguments)
    (index,) = np.argwhere(case.label[0].numpy() == 2)
    assert case.affine @ [*index, 1] == pytest.approx(GRIDS[grid] @ [7, 3, 5, 1], abs=1e-4)
    assert nibabel.aff2axcodes(case.affine) == ("R", "A", "S")
    ((low, high),) = case.native_ranges
    assert case.image[0][tuple(index)] == pytest.approx((image[7, 3, 5] - low) / (high - low), abs=1e-5)


@pytest.mark.parametrize(
    ("grid", "spacing"),
    [
        ("RAS", (0.7, 3.0, 1.1)),
        ("LPS", (1.5, 1.5, 2.0)),
        ("SRA", None),
        ("SRA", (0.7, 3.0, 1.1)),
        ("oblique LPS", None),
    ],
)
def test_shape_is_known_from_the_header(folder: Folder, grid: str, spacing: object) -> None:
    folder.write("a", *volume(), GRIDS[grid])
    case = _first(folder, spacing=spacing, crop_foreground=False)
    assert case.image.shape == (1, *case.ref.shape)


@pytest.mark.parametrize(
    ("intensity", "expected"),
    [
        ("percentile", lambda image: np.percentile(image, [0.5, 99.5])),
        ({"percentile": [10, 90]}, lambda image: np.percentile(image, [10, 90])),
        ("minmax", lambda image: [image.min(), image.max()]),
        ("zscore", lambda image: [image.mean() - 3 * image.std(), image.mean() + 3 * image.std()]),
        ({"zscore": 2}, lambda image: [image.mean() - 2 * image.std(), image.mean() + 2 * image.std()]),
    ],
)
def test_native_range_is_the_volumes_own(
    folder: Folder, intensity: object, expected: Callable[[npt.NDArray[np.float64]], Any]
) -> None:
    image, _ = volume(ord("a"))
    case = _first(folder, intensity=intensity, crop_foreground=False)
    low, high = expected(image.astype(np.float64))
    assert case.native_ranges[0] == pytest.approx((low, high), rel=1e-5, abs=1e-4)
    assert case.image[0].numpy() == pytest.approx(np.clip((image - low) / (high - low), 0, 1), abs=1e-5)


def test_crop_keeps_the_box_of_positive_voxels(folder: Folder) -> None:
    case = _first(folder, intensity="minmax")
    assert case.image.shape == case.label.shape == (1, 8, 8, 6)
    assert (case.affine[:3, 3].tolist(), case.ref.shape) == ([2, 1, 1], SHAPE)


def test_original_spacing_is_in_the_files_axis_order(folder: Folder) -> None:
    folder.write("a", *volume(), GRIDS["SRA"])
    case = _first(folder)
    assert (case.original_spacing, case.spacing) == (pytest.approx((3, 1, 2)), pytest.approx((1, 2, 3)))


def test_nifti_2_and_scaled_integers_are_read(folder: Folder) -> None:
    """Slope and intercept of the header apply: the native range is in their unit."""
    image, label = volume()
    folder.write("a", image.astype(np.int16), label, kind=nibabel.Nifti2Image)
    scaled = nibabel.Nifti2Image(image.astype(np.int16), np.eye(4))
    scaled.header.set_slope_inter(2, -1000)
    nibabel.save(scaled, folder.root / "imagesTr/a.nii.gz")
    stored = np.asarray(nibabel.load(folder.root / "imagesTr/a.nii.gz").dataobj)
    assert _first(folder, intensity="minmax").native_ranges[0] == (stored.min(), stored.max())


def test_padding_is_black_and_on_both_sides(folder: Folder) -> None:
    """An axis that is long enough stays; the odd voxel goes behind."""
    case = _first(folder, intensity={"window": [-100, 150]}, pad_to=(15, 3, 8))
    assert case.image.shape == case.label.shape == (1, *case.ref.shape) == (1, 15, 10, 8)
    assert case.image.amax((0, 2, 3)).nonzero().flatten().tolist() == list(range(1, 13))


@pytest.mark.parametrize(("code", "length"), [(0, 1), (1, 0.001), (2, 1), (3, 1000)], ids=["none", "m", "mm", "um"])
@pytest.mark.parametrize("space", [{}, {"spacing": (1.0, 1.0, 1.0)}], ids=["as it is", "resampled"])
def test_lengths_are_millimetres(folder: Folder, code: int, length: float, space: dict[str, Any]) -> None:
    """Surface distances are computed from the spacing of the case, and volumes exported on its native grid."""
    affine = np.array([[1.4, 0, 0, 10], [0, -1, 0, 20], [0, 0, 2.3, 30], [0, 0, 0, 1]])
    expected = None
    for unit, scale in ((2, 1.0), (code, length)):
        for path, voxels in zip(("imagesTr/a.nii.gz", "labelsTr/a.nii.gz"), volume(), strict=True):
            image = nibabel.Nifti1Image(voxels, np.diag([scale, scale, scale, 1]) @ affine)
            image.header["xyzt_units"] = unit
            nibabel.save(image, folder.root / path)
        case = _first(folder, **space)
        facts = [case.spacing, case.original_spacing, case.affine, case.label.sum(dim=(1, 2, 3))]
        expected = expected or facts
        for ours, theirs in zip(facts, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize(
    "space",
    [
        {"spacing": (0.0005, 0.0005, 1), "size": (96, 96, 96)},
        {"size": (3000, 3000, 3000)},
        {"pad_to": (3000, 3000, 3000)},
    ],
    ids=["before it is cut", "size", "pad_to"],
)
def test_too_large_space_is_refused(folder: Folder, space: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The space is a dataset's, or a model's own, in a job that asks for more than is usual."""
    monkeypatch.setenv("FREQBENCH_LIMITS", "100")
    expected = r"expected a resampled volume \(its voxels are 1 x 1 x 1 mm now\) of at most 8 GiB as float32, got \("
    with pytest.raises(DataError, match=expected):
        folder.dataset(**space).refs()
    dataset = folder.dataset()
    with pytest.raises(DataError, match=f"small: a: {expected}"):
        dataset.shape_in(dataset.refs()[0], Preprocess(**space))


def test_a_spacing_that_leaves_one_voxel_is_refused_as_such(folder: Folder) -> None:
    """One voxel has no contrast, which is not what is to be mended."""
    with pytest.raises(DataError, match=r"expected a `spacing` that leaves more than one voxel, got 1e.09 x 1e.09"):
        folder.dataset(spacing=(1e9, 1e9, 1e9)).refs()


def test_a_native_case_is_left_as_it_is(folder: Folder) -> None:
    dataset = folder.dataset(crop_foreground=False)
    native = first_native(dataset)
    prepare(native, dataset.space)
    assert np.array_equal(native.image[0].numpy(), volume(ord("a"))[0])


# Several channels, along a file's fourth axis or in a file each
class FileAChannel(Decathlon):
    """Every case with a second channel beside its image, as nnU-Net has it."""

    def _read_entry(self, case_id: str, entry: Any) -> ImageFiles:
        files = super()._read_entry(case_id, entry)
        return replace(files, channels=(files.where, files.where.replace(".nii.gz", "_0001.nii.gz")))


def two_channels(seed: int) -> npt.NDArray[np.float32]:
    """`[H, W, D, 2]`; the second channel has another scale and lies elsewhere."""
    first, _ = volume(seed)
    return np.stack([first, 1000 - 3 * np.roll(first, 1, axis=0)], axis=-1)


@pytest.fixture
def fourth(folder: Folder) -> Decathlon:
    for name in "abc":
        folder.put(f"imagesTr/{name}.nii.gz", two_channels(ord(name)))
    return folder.dataset(crop_foreground=False)


@pytest.fixture
def files(folder: Folder) -> FileAChannel:
    for name in "abc":
        folder.put(f"imagesTr/{name}_0001.nii.gz", two_channels(ord(name))[..., 1])
    return FileAChannel(name="files", root=str(folder.root), split="validation", crop_foreground=False)


@pytest.mark.parametrize("layout", ["fourth", "files"])
def test_each_channel_has_a_range_known_without_voxels(layout: str, request: pytest.FixtureRequest) -> None:
    dataset: Decathlon = request.getfixturevalue(layout)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nibabel.Nifti1Image, "get_fdata", lambda *a, **k: pytest.fail("voxels were read"))
        assert dataset.num_channels == 2
    case = first_case(dataset)
    voxels = two_channels(ord("a")).astype(np.float64)
    ranges = np.percentile(voxels, [0.5, 99.5], axis=(0, 1, 2)).T
    assert np.array(case.native_ranges) == pytest.approx(ranges, rel=1e-5, abs=1e-4)
    expected = np.clip((voxels - ranges[:, 0]) / (ranges[:, 1] - ranges[:, 0]), 0, 1)
    assert case.image.numpy() == pytest.approx(np.moveaxis(expected, -1, 0), abs=1e-5)
    assert case.label.shape == (1, *SHAPE)


def test_channels_are_resampled_and_cropped_together(fourth: Decathlon) -> None:
    from monai import transforms

    changes = {"spacing": (1.5, 1.5, 2.0), "intensity": {"window": [60, 900]}, "crop_foreground": True}
    dataset = fourth.model_copy(update=changes)
    steps = [
        transforms.LoadImage(),
        transforms.EnsureChannelFirst(),
        transforms.Orientation("RAS", labels=None),
        transforms.Spacing(dataset.spacing, mode="bilinear"),
        transforms.ScaleIntensityRange(60, 900, 0, 1, clip=True),
        transforms.CropForeground(),
    ]
    expected = transforms.Compose(steps)(f"{dataset.root}/imagesTr/a.nii.gz")
    assert np.array_equal(first_case(dataset).image.numpy(), expected.numpy())


def test_a_changed_channel_changes_the_fingerprint(files: FileAChannel, folder: Folder) -> None:
    before = [ref.fingerprint for ref in files.refs()]
    folder.put("imagesTr/b_0001.nii.gz", two_channels(9)[..., 1])
    assert [ref.fingerprint == old for ref, old in zip(files.refs(), before, strict=True)] == [True, False, True]


@pytest.mark.parametrize(
    ("voxels", "shift", "text"),
    [
        (np.zeros((12, 10, 7)), 0, "expected the shape (12, 10, 8) of b.nii.gz, got (12, 10, 7): give the "),
        (volume()[0], 2, "expected the orientation and origin of b.nii.gz, got a grid up to 2 mm"),
        (two_channels(0), 0, "expected a 3D volume, got shape (12, 10, 8, 2): split it into one file a volume"),
        (None, 0, "expected the image of case b, found no file"),
    ],
)
def test_misfit_channel_is_refused(files: FileAChannel, folder: Folder, voxels: Any, shift: float, text: str) -> None:
    (folder.root / "imagesTr/b_0001.nii.gz").unlink()
    if voxels is not None:
        folder.put("imagesTr/b_0001.nii.gz", voxels, np.eye(4) + np.pad([[shift]], ((0, 3), (3, 0))))
    refused(f"/imagesTr/b_0001.nii.gz: {text}", files.refs)


def test_a_constant_channel_is_refused(fourth: Decathlon, folder: Folder) -> None:
    spoilt = two_channels(0)
    spoilt[..., 1] = 7
    folder.put("imagesTr/a.nii.gz", spoilt)
    text = "/a.nii.gz: expected an image, got the same intensity 7 everywhere in channel 1: "
    refused(text, lambda: first_case(fourth))


class Given(Balls):
    """Volumes between two intensities, in air, without a `space`."""

    space = Dataset.space
    ends: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def native(self, ref: CaseRef) -> NativeCase:
        case = super().native(ref)
        (low, high) = self.ends
        image = torch.full_like(case.image, low)
        image[:, 5:15, 4:16, 6:12] = low + (high - low) * case.image[:, 5:15, 4:16, 6:12] / 1.3
        return NativeCase(**{**vars(case), "image": image})


class Hounsfield(Given):
    """The same as of a CT."""

    ends = (-1000.0, 800.0)


class Windowed(Hounsfield):
    """The same with the window of its training."""

    @property
    def space(self) -> Preprocess:
        return Preprocess(intensity={"window": [-175, 250]}, crop_foreground=False)


def pair(cls: type[Balls], **settings: Any) -> tuple[Tensor, Tensor]:
    """The first volume as the class gives it, and as it is attacked."""
    dataset = cls(name="own", **settings)
    return first_native(dataset).image, first_case(dataset).image


def test_a_class_without_a_space_keeps_intensities_and_extent() -> None:
    given, attacked = pair(Given)
    assert attacked.shape == given.shape
    assert torch.equal(attacked, given)


def test_intensities_beyond_0_to_1_are_refused_without_a_space() -> None:
    expected = r"own: ball_0: expected intensities from 0 to 1 of a class that states no `space`, got -1000 to "
    with pytest.raises(DataError, match=expected):
        pair(Hounsfield)


def test_a_class_with_a_space_is_scaled_by_it_alone() -> None:
    given, attacked = pair(Windowed)
    np.testing.assert_allclose(attacked, (given.clamp(-175, 250) + 175) / 425, atol=1e-6)


def test_a_model_s_own_space_takes_the_place_of_a_missing_one() -> None:
    dataset = Hounsfield(name="own")
    own = Preprocess(intensity={"window": [-1000, 1000]}, crop_foreground=False)
    assert dataset.load(dataset.refs()[0], own).image.max() <= 0.9


def test_way_of_keeping_volumes_is_in_the_key() -> None:
    given, windowed = (cls(name="own").whole_recipe() for cls in (Given, Windowed))
    assert given["space"] == AS_GIVEN.identity()
    assert "space" not in windowed


@pytest.mark.parametrize(
    ("cls", "told"),
    [
        (Given, "states no `space`: its volumes, from 0 to 1, are neither scaled nor cropped"),
        (
            Windowed,
            "states what is done to its volumes, as `space`: intensity: {window: [-175.0, 250.0]}, "
            "crop_foreground: false, resampling: linear",
        ),
    ],
)
def test_the_note_says_what_is_done(cls: type[Balls], told: str) -> None:
    (note,) = space_notes(cls(name="own"))
    assert note == f"own: {cls.__module__}:{cls.__qualname__} {told}"


def test_plan_has_the_note() -> None:
    _, grid = expanded(small(**OWN, **TRUST))
    assert any("balls: toy.data:Balls states what is done to its volumes" in note for note in grid.notes)
