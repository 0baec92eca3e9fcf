"""Saved volumes are found by their keys and turned to right, anterior, superior."""

from pathlib import Path

import numpy as np
import pytest
import torch

from freqbench.core.errors import UserError
from freqbench.engine.saved_volumes import write
from freqbench.reporting.figures.case_volumes import read
from freqbench.results.volumes import whole

SHAPE = (3, 4, 5)
# The first axis points to superior (2 mm), the second to the left (3 mm), the third to posterior (4 mm).
AFFINE = np.array([[0, -3, 0, 9], [0, 0, -4, 8], [2, 0, 0, 7], [0, 0, 0, 1]], float)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One case of one cell below `tmp_path / "volumes"`: two channels, the second changed more, at one voxel."""
    place = tmp_path / "volumes" / "pgd-u-net-00aa" / "case-1-00bb"
    clean = torch.zeros(2, *SHAPE)
    clean[1, 2, 0, 0] = 0.5  # most superior, most right, most anterior
    adversarial = clean.clone()
    adversarial[0, 0, 0, 0], adversarial[1, 0, 3, 4] = 0.1, 0.75
    label = torch.zeros(1, *SHAPE, dtype=torch.uint8)
    label[0, 2, 0, 0] = 2
    write(str(place / "clean.nii.gz"), clean, AFFINE)
    write(str(place / "adversarial.nii.gz"), adversarial, AFFINE)
    write(str(place / "label.nii.gz"), label, AFFINE)
    for name in ("prediction_clean-u-net", "prediction_adversarial-u-net", "prediction_adversarial-lonely"):
        write(str(place / f"{name}.nii.gz"), label[0], AFFINE)
    other = torch.zeros(2, 2, 2, dtype=torch.uint8)
    for name in ("prediction_clean-coarse", "prediction_adversarial-coarse"):
        write(str(place / f"{name}.nii.gz"), other, AFFINE)
    (place / "attack.json").write_text("{}")
    return place


def test_folders_are_known_by_cell_and_case_unless_torn(folder: Path) -> None:
    root = folder.parents[1]
    torn = root / "pgd-u-net-00cc" / "case-1-00bb"
    torn.mkdir(parents=True)
    (torn / "clean.nii.gz").touch()
    assert whole(str(root)) == {("00aa", "00bb"): "pgd-u-net-00aa/case-1-00bb"}
    assert whole(str(root / "nowhere")) == {}


def test_axes_are_turned_with_their_spacing(folder: Path) -> None:
    saved = read(str(folder.parents[1]), str(folder))
    assert saved.clean.shape == (4, 5, 3)
    assert saved.spacing == (3, 4, 2)
    assert saved.clean[3, 4, 2] == 0.5  # right, anterior and superior are the last indices
    assert saved.label[3, 4, 2] == 2
    assert saved.change[0, 0, 0] == 0.75  # of two channels the one that was changed more
    assert np.count_nonzero(saved.change) == 1


def test_predictions_on_another_grid_or_without_their_pair_are_left_out(folder: Path) -> None:
    assert set(read(str(folder.parents[1]), str(folder)).predictions) == {"u-net"}


def test_volumes_of_different_shapes_are_refused(folder: Path) -> None:
    write(str(folder / "label.nii.gz"), torch.zeros(1, 2, 2, 2, dtype=torch.uint8), AFFINE)
    with pytest.raises(UserError, match="expected clean, adversarial and label on one grid"):
        read(str(folder.parents[1]), str(folder))


def test_a_link_out_of_the_store_is_refused(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    link = folder.parent / "case-2-00dd"
    link.symlink_to(outside)
    with pytest.raises(UserError, match="got a link that leads out of it"):
        read(str(folder.parents[1]), str(link))
