"""Synapse and ACDC: the published splits, the papers' pipelines, every layout that their files come in."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from freqbench.core.errors import UserError
from freqbench.data import DATASETS
from freqbench.data.loaders.acdc import ACDC
from freqbench.data.loaders.synapse import Synapse

from . import downloads
from .conftest import first_case, made, names_of, prepared_by_monai, refused
from .downloads import ACDC_PLACES, PLACES, TURN, put

ROOT = Path(__file__).parents[2]
ACDC_FILES = ("training/patient089/patient089_frame01", "training/patient089/patient089_frame01_gt")
FRAMES = [("patient089_frame01", "Tr"), ("patient089_frame10", "Tr"), ("patient002_frame01", "Ts")]


def cases_of(name: str, split: str) -> list[str]:
    lines = json.loads((ROOT / "freqbench/data/splits" / name).read_text())[split]
    images = [line["image"] if isinstance(line, dict) else line for line in lines]
    return [Path(image).name.removesuffix(".nii.gz") for image in images]


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("synapse_18_12.json", {"training": (18, 18), "validation": (12, 12)}),
        ("acdc_140_20.json", {"training": (140, 70), "validation": (20, 10), "test": (40, 20)}),
    ],
)
def test_splits_have_the_published_counts_and_share_no_patient(name: str, counts: dict[str, tuple[int, int]]) -> None:
    everyone = set[str]()
    for split, (cases, patients) in counts.items():
        of_split = {case.partition("_")[0] for case in cases_of(name, split)}
        assert (len(set(cases_of(name, split))), len(of_split)) == (cases, patients)
        assert not everyone & of_split
        everyone |= of_split


def test_the_splits_are_in_the_installed_package(monkeypatch: pytest.MonkeyPatch) -> None:
    from setuptools import Distribution
    from setuptools.config.pyprojecttoml import apply_configuration

    monkeypatch.chdir(ROOT)
    command = apply_configuration(Distribution(), "pyproject.toml").get_command_obj("build_py")
    command.ensure_finalized()
    command.manifest_files = {}
    installed = command.find_data_files("freqbench", "freqbench")
    assert {f"freqbench/data/splits/{name}" for name in ("synapse_18_12.json", "acdc_140_20.json")} <= set(installed)


@pytest.mark.parametrize("place", PLACES)
def test_synapse_is_the_same_in_every_layout(tmp_path: Path, place: str) -> None:
    keys = []
    for name in (place, "decathlon"):
        downloads.synapse(tmp_path / name, name, ["img0001", "img0038"])
        dataset = Synapse(name="synapse", root=str(tmp_path / name), cases=("img0001", "img0038"))
        keys.append([dataset.case_key(ref) for ref in dataset.refs()])
        assert dataset.load(dataset.refs()[1]).label.max() == 2
    assert keys[0] == keys[1]


@pytest.mark.parametrize("place", ACDC_PLACES)
def test_acdc_is_the_same_in_every_layout(tmp_path: Path, place: str) -> None:
    downloads.acdc(tmp_path, place, [("patient001_frame01", "Tr"), *FRAMES])
    dataset = ACDC(name="acdc", root=str(tmp_path), cases=("patient089_frame10",))
    (ref,) = dataset.refs()
    assert dataset.load(ref).label.max() == 2
    (tested,) = dataset.model_copy(update={"cases": ("patient002_frame01",)}).refs("test")
    assert ([ref.patient_id, tested.patient_id], dataset.load(tested).ref) == (["patient089", "patient002"], tested)


def test_a_list_of_ones_own_takes_the_place_of_the_published(tmp_path: Path) -> None:
    downloads.decathlon(tmp_path, {"training": ["a"], "validation": ["b"]})
    dataset = Synapse(name="synapse", root=str(tmp_path), list="dataset.json")
    assert names_of(dataset) == ["b"]
    assert len(dataset.classes) == 14


def _native(seed: int, low: float, high: float) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    image = np.full((20, 18, 9), low, np.float32)
    image[3:17, 2:15, 1:8] = rng.uniform(low, high, (14, 13, 7))
    label = np.zeros(image.shape, np.uint8)
    label[5:9, 5:9, 3:6] = 1
    label[10:12, 5:9, 3:6] = 3
    return image, label


@pytest.mark.parametrize(
    ("loader", "keys", "files", "size"),
    [
        ("synapse", {}, ("img/img0001", "label/label0001"), None),
        ("acdc", {"intensity": "released"}, ACDC_FILES, (96, 96, 96)),
    ],
)
def test_a_case_equals_the_papers_pipeline(
    tmp_path: Path, loader: str, keys: dict[str, Any], files: tuple[str, str], size: Any
) -> None:
    """MONAI reading the same files by itself, on a grid that is turned, with the transforms that the papers name."""
    paths = [tmp_path / f"{name}.nii.gz" for name in files]
    for path, voxels in zip(paths, _native(1, -1000, 400), strict=True):
        put(path, voxels, TURN @ np.diag([-0.8, -0.8, 3, 1]))
    dataset = DATASETS[loader].model_validate({"name": "x", "root": str(tmp_path), "cases": 1, **keys})
    case = first_case(dataset)
    expected = prepared_by_monai(paths[0], paths[1], (-175, 250), size=size)
    assert np.array_equal(case.image.numpy(), expected["image"].numpy())
    assert np.array_equal(case.label.numpy(), expected["label"].numpy())
    assert case.affine == pytest.approx(expected["image"].affine.numpy())


def test_acdc_scales_by_percentiles_unless_asked(tmp_path: Path) -> None:
    """The released window would let the upper half of this volume saturate."""
    for name, voxels in zip(ACDC_FILES, _native(2, 0, 900), strict=True):
        put(tmp_path / f"{name}.nii.gz", voxels, np.diag([1.4, 1.4, 10, 1]))
    dataset = ACDC(name="acdc", root=str(tmp_path), cases=1)
    ((low, high),) = first_case(dataset).native_ranges
    assert low == 0
    assert high > 700


def test_released_is_a_name_of_its_window() -> None:
    window = ACDC(name="acdc", root=".", intensity={"window": [-175, 250]})
    assert ACDC(name="acdc", root=".", intensity="released").recipe() == window.recipe()
    assert ACDC(name="acdc", root=".").recipe() != window.recipe()


def test_published_datasets_may_not_be_passed_on() -> None:
    assert {name for name, loader in DATASETS.items() if not loader.redistributable} == {"synapse", "acdc"}


@pytest.mark.parametrize(
    ("loader", "arguments", "text"),
    [
        ("synapse", {}, ": expected one of imagesTr, RawData/Training/img, Training/img, img in it, found none: check"),
        ("synapse", {}, "download it from https://www.synapse.org/Synapse:syn3193805"),
        ("acdc", {}, "expected one of imagesTr, database/training, training, patient001 in it"),
        ("synapse", {"split": "test"}, "synapse_18_12.json: unknown split 'test'. Known: training, validation"),
        ("acdc", {"intensity": "release"}, "got 'release'"),
        ("synapse", {"list": "mine.json"}, "mine.json: expected the JSON list of cases, found no file: check `root`"),
    ],
)
def test_wrong_folder_is_refused_in_one_line(tmp_path: Path, loader: str, arguments: dict[str, Any], text: str) -> None:
    refused(text, lambda: made(loader, **{"root": str(tmp_path), **arguments}).refs(), UserError)
