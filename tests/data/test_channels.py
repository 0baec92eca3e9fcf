"""Images of several channels, along a file's fourth axis or in a file each."""

from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pytest

from freqbench.data.loaders.decathlon import Decathlon
from freqbench.data.loaders.folder import CaseFiles

from .conftest import Folder, refused
from .downloads import SHAPE, volume


class FileAChannel(Decathlon):
    """Every case with a second channel beside its image, as nnU-Net has it."""

    def _parsed(self, line: Any) -> CaseFiles:
        entry = super()._parsed(line)
        second = entry.image.replace(".nii.gz", "_0001.nii.gz")
        return CaseFiles(entry.case_id, entry.patient_id, entry.image, entry.label, further=(second,))


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
def test_each_channel_has_its_own_range_and_their_number_is_known_without_voxels(
    layout: str, request: pytest.FixtureRequest
) -> None:
    dataset: Decathlon = request.getfixturevalue(layout)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nibabel.Nifti1Image, "get_fdata", lambda *a, **k: pytest.fail("voxels were read"))
        assert dataset.num_channels == 2
    case = dataset.load(dataset.refs()[0])
    voxels = two_channels(ord("a")).astype(np.float64)
    ranges = np.percentile(voxels, [0.5, 99.5], axis=(0, 1, 2)).T
    assert np.array(case.native_ranges) == pytest.approx(ranges, rel=1e-5, abs=1e-4)
    expected = np.clip((voxels - ranges[:, 0]) / (ranges[:, 1] - ranges[:, 0]), 0, 1)
    assert case.image.numpy() == pytest.approx(np.moveaxis(expected, -1, 0), abs=1e-5)
    assert case.label.shape == (1, *SHAPE)


def test_channels_are_resampled_and_cropped_together(fourth: Decathlon) -> None:
    """MONAI from the same file; the box is that of voxels above 0 in either channel."""
    from monai import transforms

    dataset = fourth.model_copy(
        update={"spacing": (1.5, 1.5, 2.0), "intensity": {"window": [60, 900]}, "crop_foreground": True}
    )
    steps = [
        transforms.LoadImage(),
        transforms.EnsureChannelFirst(),
        transforms.Orientation("RAS", labels=None),
        transforms.Spacing(dataset.spacing, mode="bilinear"),
        transforms.ScaleIntensityRange(60, 900, 0, 1, clip=True),
        transforms.CropForeground(),
    ]
    expected = transforms.Compose(steps)(f"{dataset.root}/imagesTr/a.nii.gz")
    assert np.array_equal(dataset.load(dataset.refs()[0]).image.numpy(), expected.numpy())


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
def test_a_channels_file_that_does_not_fit_is_refused(
    files: FileAChannel, folder: Folder, voxels: Any, shift: float, text: str
) -> None:
    (folder.root / "imagesTr/b_0001.nii.gz").unlink()
    if voxels is not None:
        folder.put("imagesTr/b_0001.nii.gz", voxels, np.eye(4) + np.pad([[shift]], ((0, 3), (3, 0))))
    refused(f"/imagesTr/b_0001.nii.gz: {text}", files.refs)


def test_a_constant_channel_is_refused(fourth: Decathlon, folder: Folder) -> None:
    spoilt = two_channels(0)
    spoilt[..., 1] = 7
    folder.put("imagesTr/a.nii.gz", spoilt)
    text = "/a.nii.gz: expected an image, got the same intensity 7 everywhere in channel 1: "
    refused(text, lambda: fourth.load(fourth.refs()[0]))
