"""The record of a checkpoint's training, held against the dataset that it is scored on."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_job
from models.conftest import unresolved

from freqbench import models
from freqbench.core.errors import UserError
from freqbench.core.types import CaseRef
from freqbench.job.grid import Grid
from freqbench.job.schema import build_dataset
from freqbench.models import Facts, InputAdapter
from freqbench.models.resolving import axes_notes

CLASSES = ["background", "liver", "spleen", "kidneys", "aorta", "gallbladder"]
CT = {"intensity": {"window": [-175, 250]}, "crop_foreground": False}  # the phantom's own space
OTHER = {"spacing": [20, 20, 20], "intensity": {"window": [0, 100]}}

Expand = Callable[..., Grid]


@pytest.fixture
def grid(tmp_path: Path) -> Expand:
    """The grid of a job whose one model says this of itself; `entry` is added to the job's model."""

    def make(entry: dict[str, Any] | None = None, **metadata: Any) -> Grid:
        path = tmp_path / "net.safetensors"
        net = models.build("unet", 6, (16, 16, 16), tiny_job.ARGS)
        known = {"arch": "unet", "args": tiny_job.ARGS, "roi": tiny_job.ROI, "num_classes": 6}
        models.save_checkpoint(path, net.state_dict(), {**known, **metadata}, half=False)
        return tiny_job.expanded(tiny_job.small(models=[{"name": "m", "checkpoint": str(path), **(entry or {})}]))[1]

    return make


def test_the_zoo_keeps_its_identities() -> None:
    """The networks were trained on revision 2 of the phantom: a change here recomputes earlier results."""
    _, expanded = tiny_job.expanded(tiny_job.small(models=[{"name": "z", "checkpoint": "zoo://phantom/unet"}]))
    (cell,) = expanded.cells
    assert (cell.cell_id, cell.source.model_id) == ("2a2a3e9d3537792d", "05944c5e1072c0e9")
    assert expanded.warnings == ()


def test_a_network_of_another_space_is_attacked_there(grid: Expand) -> None:
    (cell,) = grid(preprocess=OTHER).cells
    assert cell.source.space is not None
    assert (cell.source.space.spacing, cell.source.space.crop_foreground) == ((20, 20, 20), True)
    (stated,) = grid(entry={"preprocess": OTHER}).cells
    first, second = (replace(each.source, checkpoint_sha256="") for each in (stated, cell))  # files of two records
    assert (first, first.model_id) == (second, second.model_id)
    own = grid(preprocess=CT, class_names=CLASSES)
    assert (own.cells[0].source.space, own.warnings) == (None, ())


def test_other_intensities_than_the_trainings_are_reported(grid: Expand) -> None:
    assert grid(preprocess={**CT, "intensity": "percentile"}).warnings == (
        "m: expected the intensity percentile that it was trained on, got {'window': (-175.0, 250.0)} of phantom: it "
        "is attacked and scored in the space of its training; give phantom the same, or state preprocess and input of "
        "the model",
    )
    stated = {"preprocess": CT, "input": {"scale": [-175, 250], "std": 650}}
    assert grid(entry=stated, preprocess={**CT, "intensity": "percentile"}).warnings == ()
    assert grid(preprocess={**CT, "spacing": [20, 20, 20]}).warnings == ()


def test_jobs_own_space_goes_first(grid: Expand) -> None:
    mine = {"spacing": [30, 30, 30], "intensity": {"window": [0, 50]}}
    with pytest.raises(UserError, match=r"m: expected input beside preprocess, as that of .*net.safetensors is for"):
        grid(entry={"preprocess": mine}, preprocess=OTHER)
    (cell,) = grid(entry={"preprocess": mine, "input": {"scale": [0, 0.5]}}, preprocess=OTHER).cells
    assert cell.source.space is not None
    assert cell.source.space.spacing == (30, 30, 30)


def test_the_same_classes_in_another_order_are_paired_by_name(grid: Expand) -> None:
    (cell,) = grid(class_names=[*CLASSES[:1], *reversed(CLASSES[1:])]).cells
    assert cell.source.class_map == ((0,), (5,), (4,), (3,), (2,), (1,))


def test_other_names_are_told_and_other_spellings_are_not(grid: Expand) -> None:
    assert grid(class_names=[name.upper() for name in CLASSES]).warnings == ()
    assert grid(class_names=[*CLASSES[:4], "vena cava", "stomach"]).warnings == (
        "m: 2 of its 6 classes are called otherwise in phantom (first: 'vena cava' there is 'aorta' here): check that "
        "they are the same",
    )


@pytest.mark.parametrize("names", [CLASSES[:4], [*CLASSES, "stomach wall"]], ids=["fewer", "more"])
def test_names_of_another_number_are_told(grid: Expand, names: list[str]) -> None:
    shorter = min(len(names), len(CLASSES))
    assert grid(class_names=names).warnings == (
        f"m: its files name {len(names)} classes, phantom has 6: only the first {shorter} are compared by name: check "
        "the others",
    )


@pytest.mark.parametrize(
    ("metadata", "complaint"),
    [
        ({"preprocess": {"spacin": [1, 1, 1]}}, "metadata: preprocess: unknown key 'spacin'. Did you mean 'spacing'?"),
        ({"preprocess": {"intensity": {"window": [3, 1]}}}, "metadata: preprocess.intensity: expected the lower bound"),
        ({"class_names": "liver"}, "metadata: class_names: "),
        ({"training": {"fingerprints": {"train": 3}}}, "metadata: training.fingerprints.train: "),
    ],
)
def test_a_record_that_is_something_else_is_one_line(grid: Expand, metadata: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=re.escape(complaint)):
        grid(**metadata)


def test_teaching_and_choosing_cases_are_counted_apart(grid: Expand) -> None:
    dataset = build_dataset({"name": "phantom", "split": "test", "shape": [64, 48, 40]}, "x")
    prints = [ref.fingerprint for ref in dataset.refs()]
    assert grid(training={"fingerprints": {"train": [prints[0], "0" * 16], "select": prints[:2]}}).warnings == (
        "m: 1 of 1 cases of phantom taught it (train) and 1 of 1 cases of phantom chose its weights (select): scores "
        "on them are flattered",
    )
    assert grid(training={"fingerprints": {"train": prints[1:]}}).warnings == ()


@pytest.mark.parametrize(
    ("arch", "axes", "files", "line"),
    [
        (
            "nnunet",
            "KJI",
            ["LPS", "RAS", "LPS"],
            r"as it lies, .* order KJI: files of d lie towards LPS \(2\), RAS \(1\)",
        ),
        ("nnunet", "-HD-W", ["LPS"], r"assumed to take axes towards LSP; each file is turned to them: .* LPS \(1\)"),
        ("unet", "HWD", ["LAS"], r"towards RAS; each file is turned to them: .* LAS \(1\): set input: {axes: IJK}"),
        ("unet", "HWD", ["RAS"], None),
    ],
)
def test_assumed_axes_stand_beside_the_files(arch: str, axes: str, files: list[str], line: str | None) -> None:
    spec = unresolved(arch, "m.pt", input=InputAdapter(axes=axes))
    refs = [
        CaseRef(case_id=f"c{i}", patient_id=f"c{i}", fingerprint=f"{i:016x}", shape=(8, 8, 8), axes=codes)
        for i, codes in enumerate(files)
    ]
    notes = list(axes_notes(spec, Facts(arch=arch, checkpoint_sha256="0"), "d", refs))
    assert len(notes) == (line is not None)
    assert all(re.search(str(line), note) for note in notes)
