"""Decathlon folders: which cases a list holds and what their identities hang on."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from freqbench.core.config import validate
from freqbench.core.errors import UserError
from freqbench.core.types import CaseRef
from freqbench.data.loaders.decathlon import Decathlon

from .conftest import SHAPE, Folder, volume


def test_cases_are_called_by_their_image(folder: Folder) -> None:
    assert [ref.case_id for ref in folder.dataset().refs()] == ["a", "b", "c"]


@pytest.mark.parametrize(("labels", "last"), [(4, "class 3"), (["air", "bone"], "bone")])
def test_classes_can_be_given(folder: Folder, labels: object, last: str) -> None:
    assert folder.dataset(labels=labels).class_names[-1] == last


@pytest.mark.parametrize(
    ("split", "expected"),
    [("validation[0:2]", ["a", "b"]), ("validation[2:]", ["c"]), ("validation[:-1]", ["a", "b"])],
)
def test_split_can_be_a_slice(folder: Folder, split: str, expected: list[str]) -> None:
    assert [ref.case_id for ref in folder.dataset(split=split).refs()] == expected


def test_split_of_refs_goes_before_the_datasets(folder: Folder) -> None:
    assert [ref.case_id for ref in folder.dataset(split="training").refs("validation[1:2]")] == ["b"]


@pytest.mark.parametrize(("cases", "expected"), [(2, ["a", "b"]), (["c", "a"], ["c", "a"])])
def test_cases_are_chosen(folder: Folder, cases: object, expected: list[str]) -> None:
    assert [ref.case_id for ref in folder.dataset(cases=cases).refs()] == expected


def test_only_the_chosen_cases_are_checked(folder: Folder) -> None:
    (folder.root / "imagesTr/c.nii.gz").unlink()
    assert len(folder.dataset(cases=2).refs()) == 2


def test_bare_names_find_their_label(folder: Folder) -> None:
    (folder.root / "imagesTs").mkdir()
    (folder.root / "labelsTs").mkdir()
    for source, image, label in (("a", "d", "d"), ("c", "e", "e_gt")):
        shutil.copy(folder.root / f"imagesTr/{source}.nii.gz", folder.root / f"imagesTs/{image}.nii.gz")
        shutil.copy(folder.root / f"labelsTr/{source}.nii.gz", folder.root / f"labelsTs/{label}.nii.gz")
    folder.listed["test"] = ["b.nii.gz", "./imagesTs/d.nii.gz", "./imagesTs/e.nii.gz"]
    folder.save()
    assert [ref.case_id for ref in folder.dataset(split="test").refs()] == ["b", "d", "e"]


def test_frames_share_a_patient(folder: Folder) -> None:
    folder.write("patient001_frame01", *volume())
    folder.write("x", *volume(1))
    folder.listed["validation"] = [
        {"image": f"imagesTr/{name}.nii.gz", "label": f"labelsTr/{name}.nii.gz"} for name in ("patient001_frame01", "a")
    ] + [{"image": "imagesTr/x.nii.gz", "label": "labelsTr/x.nii.gz", "patient": "anna"}]
    folder.save()
    assert [ref.patient_id for ref in folder.dataset().refs()] == ["patient001", "a", "anna"]


def test_case_is_loaded_from_whichever_split(folder: Folder) -> None:
    folder.listed["test"] = [{"image": "imagesTs/unlabelled.nii.gz"}]
    folder.save()
    (ref,) = folder.dataset(cases=1).refs()
    assert folder.dataset(split="test").load(ref).ref == ref


def test_root_may_hold_an_environment_variable(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREQBENCH_DATA", str(folder.root.parent))
    assert len(folder.dataset(root="${FREQBENCH_DATA}/" + folder.root.name).refs()) == 3


def test_root_may_begin_with_the_home_folder(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.root.parent))
    assert len(folder.dataset(root=f"~/{folder.root.name}").refs()) == 3


def test_case_key_hangs_on_content_and_not_on_place(folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> None:
    moved = tmp_path_factory.mktemp("moved") / "copy"
    shutil.copytree(folder.root, moved)
    here, there = folder.dataset(), folder.dataset(name="other", root=str(moved), split="validation[1:]")
    assert [here.case_key(ref) for ref in here.refs()][1:] == [there.case_key(ref) for ref in there.refs()]


def test_a_changed_label_changes_its_case_key_alone(folder: Folder) -> None:
    dataset = folder.dataset()
    before = [dataset.case_key(ref) for ref in dataset.refs()]
    folder.put("labelsTr/b.nii.gz", volume(3)[1][::-1])
    after = [dataset.case_key(ref) for ref in dataset.refs()]
    assert [x == y for x, y in zip(before, after, strict=True)] == [True, False, True]


def test_a_spelled_out_default_is_the_same_recipe(folder: Folder) -> None:
    assert folder.dataset(intensity={"percentile": [0.5, 99.5]}).recipe() == folder.dataset().recipe()


def test_a_dumped_dataset_validates_again(folder: Folder) -> None:
    dataset = folder.dataset(list="dataset.json", intensity={"window": [-175, 250]}, labels=3)
    assert Decathlon.model_validate(dataset.model_dump(mode="json")) == dataset


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"intensity": {"window": [250, -175]}}, "expected the lower bound of window below the upper, got [250, -175]"),
        (
            {"intensity": {"percentile": [0, 101]}},
            "expected the lower bound of percentile below the upper within 0..100, got [0, 101]",
        ),
        ({"intensity": {"zscore": 0}}, "expected a positive number of standard deviations, got 0"),
        ({"intensity": "windw"}, "{zscore: n}, got 'windw'"),
        ({"intensity": {"window": [float("nan"), 1]}}, "got {'window': [nan, 1]}"),
        ({"labels": ["one"]}, "expected 2 to 256 different class names, background first"),
        ({"spacing": [1, 1, 0]}, "greater than 0, got 0"),
        ({"intensty": "minmax"}, "unknown key 'intensty'. Did you mean 'intensity'?"),
    ],
)
def test_a_bad_value_is_refused_in_one_line(arguments: dict[str, object], text: str) -> None:
    with pytest.raises(UserError) as error:
        validate({"name": "small", "root": ".", **arguments}, Decathlon, where="job.yaml")
    assert text in str(error.value)
    assert "\n" not in str(error.value)


def test_hippocampus(shared: Path) -> None:
    """Real volumes: the classes of the list, each file's grid, the whole intensity scale used."""
    dataset = Decathlon(name="hippocampus", root=str(shared / "data/hippocampus"), split="validation[30:60]", cases=3)
    assert dataset.num_classes == 3
    for ref in dataset.refs():
        case = dataset.load(ref)
        assert case.image.shape == case.label.shape
        assert case.label.unique().tolist() == [0, 1, 2]
        assert (case.image.min(), case.image.max()) == (0, 1)
        assert case.spacing == case.original_spacing == (1, 1, 1)
        assert all(cropped <= whole for cropped, whole in zip(case.image.shape[1:], ref.shape, strict=True))


def test_dtypes_of_a_case(folder: Folder) -> None:
    dataset = folder.dataset(crop_foreground=False)
    case = dataset.load(dataset.refs()[0])
    assert (case.image.dtype, case.label.dtype) == (torch.float32, torch.uint8)
    assert type(case.image) is torch.Tensor
    assert case.image.shape == case.label.shape == (1, *SHAPE)


def test_case_key_of_today_stays() -> None:
    """Results of earlier runs are found by it: a change here recomputes all of them."""
    dataset = Decathlon(
        name="any",
        root="nowhere",
        labels=("background", "left", "right"),
        spacing=(1.5, 1.5, 2.0),
        intensity={"window": (-175.0, 250.0)},
    )
    ref = CaseRef(case_id="a", patient_id="a", fingerprint="0123456789abcdef", shape=(1, 1, 1))
    assert dataset.case_key(ref) == "dae9ed907ea1a430"


@pytest.mark.parametrize("changes", [{"labels": 4}, {"pad_to": (9, 9, 9)}, {"resampling": "nnunet"}])
def test_case_key_hangs_on_all_that_changes_a_case(folder: Folder, changes: dict[str, Any]) -> None:
    ref = folder.dataset().refs()[0]
    assert folder.dataset(**changes).case_key(ref) != folder.dataset().case_key(ref)
