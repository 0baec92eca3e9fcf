"""Decathlon folders: which cases a list holds and what their identities depend on."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_job import expanded, small

from freqbench.core.errors import UserError
from freqbench.core.types import CaseRef
from freqbench.data.loaders.decathlon import Decathlon
from freqbench.data.loaders.phantom import Phantom

from .conftest import Folder, made, names_of, refused
from .downloads import SHAPE, volume


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, "abc"),
        ({"split": "validation[0:2]"}, "ab"),
        ({"split": "validation[2:]"}, "c"),
        ({"split": "validation[:-1]"}, "ab"),
        ({"cases": 2}, "ab"),
        ({"cases": ["c", "a"]}, "ca"),
    ],
)
def test_split_slice_and_choice_say_which_cases(folder: Folder, arguments: dict[str, Any], expected: str) -> None:
    if "c" not in expected:  # only the chosen are looked at
        (folder.root / "imagesTr/c.nii.gz").unlink()
    assert names_of(folder.dataset(**arguments)) == list(expected)
    assert names_of(folder.dataset(split="training"), "validation[1:2]") == ["b"]


@pytest.mark.parametrize(("labels", "last"), [(4, "class 3"), (["air", "bone"], "bone")])
def test_classes_can_be_given(folder: Folder, labels: object, last: str) -> None:
    assert folder.dataset(labels=labels).class_names[-1] == last


@pytest.mark.parametrize(
    ("task", "expected"), [("Hippocampus", (1.0,) * 3), ("LIVER", (7.0,) * 3), ("mine", (5.0, 3.0, 3.0))]
)
def test_task_has_its_tolerance_lists_their_organs(folder: Folder, task: str, expected: tuple[float, ...]) -> None:
    folder.list(name=task, labels={"0": "air", "1": "Liver", "2": "left_kidney", "3": "cyst"})
    assert folder.dataset().classes.tolerances_mm == expected
    assert folder.dataset().recipe().get("tolerances_mm") == (None if task == "mine" else expected), "organs say theirs"


def test_bare_names_find_their_label(folder: Folder) -> None:
    (folder.root / "imagesTs").mkdir()
    (folder.root / "labelsTs").mkdir()
    for source, image, label in (("a", "d", "d"), ("c", "e", "e_gt")):
        shutil.copy(folder.root / f"imagesTr/{source}.nii.gz", folder.root / f"imagesTs/{image}.nii.gz")
        shutil.copy(folder.root / f"labelsTr/{source}.nii.gz", folder.root / f"labelsTs/{label}.nii.gz")
    folder.list(test=["b.nii.gz", "./imagesTs/d.nii.gz", "./imagesTs/e.nii.gz"])
    assert names_of(folder.dataset(split="test")) == ["b", "d", "e"]


def test_a_case_is_loaded_from_whichever_split(folder: Folder) -> None:
    folder.list(test=[{"image": "imagesTs/unlabelled.nii.gz"}])
    (ref,) = folder.dataset(cases=1).refs()
    case = folder.dataset(split="test", crop_foreground=False).load(ref)
    assert (case.ref, type(case.image)) == (ref, torch.Tensor)
    assert (case.image.dtype, case.label.dtype) == (torch.float32, torch.uint8)
    assert case.image.shape == case.label.shape == (1, *SHAPE)


@pytest.mark.parametrize(("variable", "root"), [("FREQBENCH_DATA", "${FREQBENCH_DATA}/"), ("HOME", "~/")])
def test_root_takes_variable_or_home(folder: Folder, monkeypatch: pytest.MonkeyPatch, variable: str, root: str) -> None:
    monkeypatch.setenv(variable, str(folder.root.parent))
    assert len(folder.dataset(root=root + folder.root.name).refs()) == 3


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


@pytest.mark.parametrize("patient", ["", None])
def test_a_case_without_a_patient_cannot_be(patient: Any) -> None:
    with pytest.raises(ValueError, match="a: expected a patient_id, got"):
        CaseRef(case_id="a", patient_id=patient, fingerprint="0" * 16, shape=SHAPE)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"intensity": {"window": [250, -175]}}, "expected the lower bound of window below the upper, got [250, -175]"),
        ({"intensity": {"percentile": [0, 101]}}, "of percentile below the upper within 0..100, got [0, 101]"),
        ({"intensity": {"zscore": 0}}, "expected a positive number of standard deviations, got 0"),
        ({"intensity": "windw"}, "{zscore: n}, got 'windw'"),
        ({"intensity": {"window": [float("nan"), 1]}}, "intensity.window[0]: expected a finite number"),
        ({"cases": "012"}, "expected a number of cases or a list of their ids, got '012': write [012]"),
        ({"labels": ["one"]}, "expected 2 to 256 different class names, background first"),
        ({"patient": "(a"}, "patient: expected a regular expression, got '(a': missing )"),
        ({"patient": "a{99999999999999999999}"}, "patient: expected a regular expression, got 'a{999"),
        ({"patient": "(" * 500 + ")" * 500}, "patient: expected a regular expression, got '((((("),
    ],
)
def test_a_bad_value_is_refused_in_one_line(arguments: dict[str, object], text: str) -> None:
    refused(text, lambda: made("decathlon", **arguments), UserError)


def test_hippocampus_loads_as_published(shared: Path) -> None:
    """Real volumes: the classes of the list, each file's grid, the whole intensity scale used."""
    dataset = Decathlon(name="hippocampus", root=str(shared / "data/hippocampus"), split="validation[30:60]", cases=2)
    assert len(dataset.classes) == 3
    for ref in dataset.refs():
        case = dataset.load(ref)
        assert (case.image.shape, case.label.unique().tolist()) == (case.label.shape, [0, 1, 2])
        assert (case.image.min(), case.image.max()) == (0, 1)
        assert case.spacing == case.original_spacing == (1, 1, 1)
        assert all(cropped <= whole for cropped, whole in zip(case.image.shape[1:], ref.shape, strict=True))


# The case beside a case: what attacks take their reference from
def test_reference_is_another_case_and_stays() -> None:
    dataset = Phantom(name="p")
    for ref in dataset.refs():
        other = dataset.other(ref, 3)
        assert other.case_id != ref.case_id
        for cases in (1, ("phantom_2003", "phantom_2000")):
            assert Phantom(name="q", cases=cases).other(ref, 3) == other


def test_all_others_are_drawn_by_some_seed_or_case() -> None:
    dataset = Phantom(name="p", split="validation")
    first, *rest = dataset.refs()
    assert {dataset.other(first, seed) for seed in range(100)} == set(rest)
    assert {dataset.other(ref, 0) for ref in dataset.refs()} > {dataset.other(first, 0)}


def _join(folder: Folder) -> None:
    folder.write("d", *volume(seed=4))
    lines = folder.listed["validation"]
    folder.list(validation=[lines[0], {"image": "imagesTr/d.nii.gz", "label": "labelsTr/d.nii.gz"}, *lines[1:]])


def test_a_case_that_joins_changes_nothing_but_where_it_is_drawn(folder: Folder) -> None:
    dataset = folder.dataset()
    first = dataset.refs()[0]
    split = dataset.whole_split()
    before = [dataset.other(first, seed, split).case_id for seed in range(30)]
    _join(folder)
    split = dataset.whole_split()
    after = [dataset.other(first, seed, split).case_id for seed in range(30)]
    assert set(before) == {"b", "c"}
    assert set(after) == {"b", "c", "d"}
    assert all(new in (old, "d") for old, new in zip(before, after, strict=True))


@pytest.mark.integration
@pytest.mark.parametrize(("attack", "differs"), [({"name": "faa"}, True), ({"name": "fgsm", "eps": 0.1}, False)])
def test_joining_case_is_in_id_of_drawing_cells(folder: Folder, attack: dict[str, object], differs: bool) -> None:
    """A case's reference may be another from then on, so its row must not pass for the same; the order is nothing."""
    cell = expanded(small(attacks=[attack]))[1].cells[0]
    ids = [replace(cell, dataset=folder.dataset()).cell_id]
    folder.list(validation=folder.listed["validation"][::-1])
    ids.append(replace(cell, dataset=folder.dataset(cases=1)).cell_id)
    _join(folder)
    ids.append(replace(cell, dataset=folder.dataset()).cell_id)
    assert ids[0] == ids[1]
    assert (ids[1] != ids[2]) == differs
