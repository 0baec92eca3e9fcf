"""Datasets of regions that overlap: codes of the labels, their names, notes, identity and what a resampling loses."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from freqbench.data.loaders.anatomy import REGIONS
from freqbench.data.loaders.nnunet_raw import NnunetRaw
from freqbench.data.loaders.phantom import Phantom
from freqbench.ops.regions import codes_of_labels, members

from . import downloads
from .conftest import Folder, first_case, first_key, first_label, made, refused
from .downloads import volume

BRATS = {"whole": (1, 2), "core": (2,)}
LISTED = {"background": 0, "whole": [1, 2], "core": 2}


def of_nnunet(root: Path, **changes: Any) -> NnunetRaw:
    return NnunetRaw(**{"name": "raw", "root": str(root), "split": "training", "crop_foreground": False, **changes})


def test_labels_become_codes_of_the_regions_that_they_are_in(folder: Folder) -> None:
    dataset = folder.dataset(regions=BRATS, crop_foreground=False)
    assert dataset.class_names == ("background", "whole", "core")
    assert dataset.classes.overlap
    label = volume(ord("a"))[1]
    codes = first_case(dataset).label[0].numpy()
    assert np.array_equal(codes, np.array([0, 1, 3])[label])
    regions = "1 (left) in whole, 2 (right) in whole and core"
    assert dataset.notes == (f"small: labels of the files make up regions that may overlap: {regions}",)


def test_a_label_map_comes_before_the_regions(folder: Folder) -> None:
    assert dict(folder.dataset(label_map={1: 2, 2: 1}, regions=BRATS).reading.of_value) == {0: 0, 1: 3, 2: 1}


def test_regions_are_part_of_a_cases_identity(folder: Folder) -> None:
    """One region has the codes of two exclusive classes, and another meaning."""
    alone = folder.dataset(label_map={1: 1, 2: 1}, labels=["background", "any"])
    region = folder.dataset(labels=["background", "any"], label_map={1: 1, 2: 1}, regions={"any": (1,)})
    assert alone.class_names == region.class_names
    assert first_key(alone) != first_key(region)


def test_nnunets_regions_are_read_in_the_order_of_their_list(tmp_path: Path) -> None:
    raw = tmp_path
    downloads.nnunet(raw, ["a"], labels={**LISTED, "ignore": 3}, regions_class_order=[1, 2])
    dataset = of_nnunet(raw, cases=("a",))
    classes = dataset.classes
    assert (classes.names, classes.overlap, classes.ignored) == (("background", "whole", "core"), True, (3,))
    assert np.array_equal(first_label(dataset), np.array([0, 1, 3])[volume(ord("a"))[1]])
    assert not of_nnunet(raw, labels=["air", "rim", "core"]).classes.overlap


def test_labels_of_nnunets_regions_may_have_gaps(tmp_path: Path) -> None:
    """Labels of the regions are those of the files: 4 in BraTS until 2020."""
    downloads.nnunet(tmp_path, ["a"], labels={"background": 0, "whole": [1, 2, 4], "core": [2, 4]})
    assert of_nnunet(tmp_path, cases=("a",)).reading.of_value == {0: 0, 1: 1, 2: 3, 4: 3}


@pytest.mark.parametrize(
    ("labels", "more", "text"),
    [
        (LISTED, {"regions_class_order": [1]}, "regions_class_order with a label for each of 2 regions, got 1"),
        (LISTED | {"ignore": 2}, {}, "expected regions of labels that count, got 2 in whole, which is ignored"),
        (LISTED | {"c\nd": 3}, {}, r"raw: expected class names of Unicode text, got 'c\nd': fix their list"),
        ({f"r{k}": [k, k + 1] for k in range(1, 9)}, {}, "raw: expected at most 7 regions, got 8: state fewer"),
    ],
)
def test_wrong_nnunet_regions_refused(tmp_path: Path, labels: dict[str, Any], more: dict[str, Any], text: str) -> None:
    downloads.nnunet(tmp_path, ["a"], labels={"background": 0, **labels}, **more)
    refused(text, lambda: of_nnunet(tmp_path, cases=("a",)).class_names)


@pytest.mark.parametrize(
    ("regions", "text"),
    [
        ({"Background": (1,)}, "regions: expected other names than background's, got it: rename the region"),
        ({"whole": (1, 9)}, "regions: whole: expected labels above 0 of 0, 1, 2, got 9: name it in `labels`"),
        ({f"r{k}": (1,) for k in range(8)}, "expected at most 7 regions, got 8: state fewer"),
        ({"whole": (1, 2), "core": (2, 1)}, "regions: core: expected other labels than whole's, got them: leave"),
        ({"whole": (1, 2), "core": ()}, "regions: core: expected labels that make it up, got none: name some"),
    ],
)
def test_wrong_regions_are_refused(folder: Folder, regions: dict[str, Any], text: str) -> None:
    refused(text, lambda: folder.dataset(regions=regions).class_names)


def test_region_that_a_crop_loses_is_named(folder: Folder) -> None:
    image, label = volume(ord("a"))
    image[label == 2] = 0
    image[...] = np.where(np.indices(image.shape)[0] < image.shape[0] // 2, image, 0)
    folder.write("a", image, np.where(np.indices(image.shape)[0] == image.shape[0] - 1, 2, label * (label < 2)))
    dataset = folder.dataset(regions=BRATS, cases=("a",))
    assert [line.partition("`")[2].partition("`")[0] for line in first_case(dataset).lost][-1] == "core"


def test_the_phantoms_lesions_lie_inside_each_other() -> None:
    dataset = Phantom(name="lesions", regions=True, shape=(40, 32, 16))
    case = first_case(dataset)
    assert (dataset.num_channels, dataset.class_names) == (4, ("background", *REGIONS))
    assert case.image.shape == (4, 40, 32, 16)
    inside = [members(case.label, k) for k in (1, 2, 3)]
    sizes = [int(each.sum()) for each in inside]
    assert sizes[0] > sizes[1] > sizes[2] > 0
    assert all((inner & ~outer).sum() == 0 for outer, inner in pairwise(inside))


def test_organs_of_the_phantom_stay_as_they_were() -> None:
    assert "regions" not in Phantom(name="p").recipe()


def test_shown_maps_have_the_innermost_regions_number(folder: Folder) -> None:
    dataset = folder.dataset(regions={"core": (2,), "whole": (1, 2)})
    codes = torch.tensor([0, 2, 3, 1, 254], dtype=torch.uint8)  # none, whole, both, core alone, not counted
    assert dataset.classes.order == (2, 1)
    assert dataset.classes.shown(codes).tolist() == [0, 2, 1, 3, 254]
    assert dataset.classes.of_labels == [[], [2, 1], [2], [1]]
    assert dataset.classes.unshown(dataset.classes.shown(codes)).tolist() == codes.tolist()


@pytest.mark.parametrize(
    ("stated", "codes"),
    [
        ([0, 1, 3, 2], [0, 1, 2, 3]),  # two regions that cross
        ([0, 3, 1], [0, 1, 3, 2]),  # the second in the first
        ([0, 3], [0, 3, 1, 2]),  # two names of one
        ([], [0, 1, 2, 3]),  # unknown
    ],
)
def test_a_regions_label_is_of_all_regions_that_contain_it(stated: list[int], codes: list[int]) -> None:
    assert codes_of_labels(2, stated) == codes


def test_a_loader_without_regions_shows_its_labels_as_they_are(folder: Folder) -> None:
    label = torch.tensor([0, 1, 2], dtype=torch.uint8)
    assert folder.dataset().classes.shown(label) is label


@pytest.mark.parametrize(
    ("loader", "keys"),
    [
        ("pairs", {"image": "{case}.nii.gz", "label": "{case}_seg.nii.gz"}),
        ("images", {"reference": "prediction"}),
        ("decathlon", {"reference": "prediction"}),
    ],
)
def test_regions_number_the_labels_that_nothing_names(loader: str, keys: dict[str, str]) -> None:
    assert made(loader, regions=BRATS, **keys).class_names == ("background", "whole", "core")
