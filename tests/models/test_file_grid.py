"""Predictions on the grid of a file: logits of the case's grid interpolated at the file's voxels, then labels."""

from itertools import product

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor, nn

from freqbench import models
from freqbench.core.errors import UserError
from freqbench.core.types import Shape
from freqbench.models import SegmentationModel
from freqbench.models.defences.smoothing import Smoothing
from freqbench.ops.file_grid import FileGrid

K = 4
GRID: Shape = (7, 9, 6)


class Pointwise(nn.Module):
    """Logits of a voxel from its channels alone, so that windows change nothing: channel k is the logit of class k."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        return 8 * images * self.place


def predicted(scores: Tensor, grid: FileGrid, **more: object) -> models.VolumePrediction:
    """The prediction in the file of logits 8 x `scores` `[K, H, W, D]`, in overlapping windows of 4 voxels."""
    model = SegmentationModel(Pointwise().eval(), roi=(4, 4, 4))
    made = models.prediction(model, scores, wanted=models.Wanted(file_grid=grid, **more)).in_file  # type: ignore[arg-type]
    assert made is not None
    return made


def smooth(shape: Shape, seed: int = 0) -> Tensor:
    return torch.rand(K, *shape, generator=torch.Generator().manual_seed(seed))


def interpolated(
    scores: Tensor, to_grid: npt.NDArray[np.float64], shape: Shape, inner: list[tuple[int, int]]
) -> Tensor:
    """The labels by SciPy: every class at every voxel of the file, the border's value beyond it, 0 half a voxel off."""
    places = np.einsum("ij,j...->i...", to_grid[:3, :3], np.indices(shape).astype(float))
    places += to_grid[:3, 3][:, None, None, None]
    low, high = (np.array([pair[end] for pair in inner])[:, None, None, None] for end in (0, 1))
    outside = ((places < low - 0.5 - 1e-6) | (places > high - 0.5 + 1e-6)).any(axis=0)
    places = places.clip(low, high - 1)
    classes = np.stack([map_coordinates(each.numpy().astype(float), places, order=1) for each in scores])
    return torch.from_numpy(np.where(outside, 0, classes.argmax(axis=0)).astype(np.uint8))


def turned(order: tuple[int, int, int], steps: tuple[float, ...], start: tuple[float, ...]) -> npt.NDArray[np.float64]:
    """The map from the file's voxels to the grid's: axis a of the grid runs along `order[a]` of the file."""
    affine = np.zeros((4, 4))
    for axis, along in enumerate(order):
        affine[axis, along] = steps[axis]
        affine[axis, 3] = start[axis]
    affine[3, 3] = 1
    return affine


@pytest.mark.parametrize(
    ("order", "steps", "start", "shape"),
    [
        ((0, 1, 2), (0.4, 0.7, 1.3), (-0.3, 0.2, -1.1), (19, 13, 8)),  # finer and coarser
        ((2, 0, 1), (-0.45, 0.6, -1.0), (6.2, -2.0, 7.0), (14, 11, 17)),  # every axis another, two reversed
        ((1, 2, 0), (2.5, -0.3, 0.35), (0.6, 8.3, 0.0), (15, 5, 30)),
    ],
)
def test_labels_are_those_of_logits_interpolated_at_files_voxels(
    order: tuple[int, int, int], steps: tuple[float, ...], start: tuple[float, ...], shape: Shape
) -> None:
    scores = smooth(GRID)
    to_grid = turned(order, steps, start)
    inner = ((0, 7), (2, 9), (1, 5))
    made = predicted(scores, FileGrid.of(shape, to_grid, inner)).labels
    wanted = interpolated(scores, to_grid, shape, list(inner))
    assert (made.shape, len(wanted.unique())) == (shape, K)
    assert float((made != wanted).float().mean()) < 1e-3  # ties to rounding


@pytest.mark.parametrize("flips", list(product((1, -1), repeat=3)))
def test_a_crop_and_mirrored_axes_are_undone_exactly(flips: tuple[int, ...]) -> None:
    """The label map is mirrored and cropped with NumPy alone, and its one-hot logits are predicted."""
    label = np.random.default_rng(1).integers(0, K, (11, 12, 10))
    kept = np.zeros(label.shape, bool)
    kept[3:10, 1:10, 2:8] = True
    seen = label[:: flips[0], :: flips[1], :: flips[2]]
    at = [
        first if flip > 0 else size - stop
        for flip, size, first, stop in zip(flips, label.shape, (3, 1, 2), (10, 10, 8), strict=True)
    ]
    h, w, d = (slice(first, first + size) for first, size in zip(at, GRID, strict=True))
    scores = torch.from_numpy(np.eye(K, dtype=np.float32)[seen[h, w, d]]).movedim(-1, 0)
    start = [-first if flip > 0 else size - 1 - first for flip, size, first in zip(flips, label.shape, at, strict=True)]
    to_grid = turned((0, 1, 2), tuple(map(float, flips)), tuple(map(float, start)))
    made = predicted(scores, FileGrid.of((11, 12, 10), to_grid, ((0, 7), (0, 9), (0, 6)))).labels
    assert np.array_equal(made.numpy(), np.where(kept, label, 0))


def test_voxels_of_a_coarse_grid_take_both_neighbours_mean() -> None:
    """Between the logits 3 and -1 of a class and 0 of the background lies 1: the class, which its labels would tie."""
    scores = torch.zeros(2, 2, 1, 1)
    scores[1, :, 0, 0] = torch.tensor([3.0, -1.0])
    grid = FileGrid.of((3, 1, 1), np.diag([0.5, 1, 1, 1]), ((0, 2), (0, 1), (0, 1)))
    assert predicted(scores, grid).labels.flatten().tolist() == [1, 1, 0]


def test_logits_of_padding_do_not_reach_the_file() -> None:
    scores = torch.zeros(2, 4, 1, 1)
    scores[1, :, 0, 0] = torch.tensor([9.0, -1.0, -1.0, 9.0])
    grid = FileGrid.of((4, 1, 1), np.array([[0.5, 0, 0, 0.75], *np.eye(4)[1:]]), ((1, 3), (0, 1), (0, 1)))
    assert predicted(scores, grid).labels.flatten().tolist() == [0, 0, 0, 0]


def test_the_confidence_is_that_of_the_interpolated_logits() -> None:
    """Softmax of (0, 8 x 1/2) between voxels of 0 and 8; outside, where nothing is asked, background is certain."""
    scores = torch.zeros(2, 2, 1, 1)
    scores[1, 1] = 1
    grid = FileGrid.of((5, 1, 1), np.diag([0.5, 1, 1, 1]), ((0, 2), (0, 1), (0, 1)))
    made = predicted(scores, grid, with_confidence=True).confidence
    assert made is not None
    wanted = [0.5, 1 / (1 + np.exp(-4)), 1 / (1 + np.exp(-8)), 1 / (1 + np.exp(-8)), 1.0]
    assert np.allclose(made.flatten(), wanted, atol=1e-6)


def test_a_sheared_file_is_refused() -> None:
    to_grid = np.eye(4)
    to_grid[0, 1] = 0.2
    with pytest.raises(ValueError, match="sheared or rotated"):
        FileGrid.of((4, 4, 4), to_grid, ((0, 4), (0, 4), (0, 4)))


def test_a_defence_that_votes_is_refused() -> None:
    model = SegmentationModel(Pointwise().eval(), roi=(4, 4, 4), defence=Smoothing(kind="voxels", sigma=0.1, samples=2))
    grid = FileGrid.of(GRID, np.eye(4), ((0, 7), (0, 9), (0, 6)))
    with pytest.raises(UserError, match="expected score_on: grid for a defence that votes"):
        models.prediction(model, smooth(GRID), wanted=models.Wanted(file_grid=grid))
