"""Attacks that learn: once a cell, on cases that are not scored, kept in the store, taken to other networks."""

from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from engine.cases import case_of, grid_of, network_of, stored, units_of, volume
from tiny_job import SHAPE, class_rows, execute, expanded, job, noted, rows, small

import freqbench as fb
from freqbench.attacks import make
from freqbench.attacks.universal import Universal
from freqbench.core.errors import UserError
from freqbench.core.types import CaseRef
from freqbench.data.loaders.phantom import Phantom
from freqbench.engine import learning
from freqbench.job import plan
from freqbench.job.grid import learning_cases
from freqbench.job.rehearsal import shrink_job
from freqbench.models import SegmentationModel, SlidingWindowModel
from freqbench.models.entry import Inference
from freqbench.testing import SmallNet

UNIVERSAL = {"name": "universal", "eps": "8/255", "learn_cases": 2, "steps": 2}
PHANTOM = {"name": "phantom", "shape": SHAPE, "cases": 2}
ONE = {"attacks": [UNIVERSAL], "datasets": [PHANTOM]}


@pytest.fixture
def learned(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    return noted(monkeypatch, Universal, "learn", lambda attack, *_: attack.eps)


@pytest.mark.integration
def test_cell_learns_once_and_on_resume_takes_what_is_in_store(tmp_path: Path, learned: list[float]) -> None:
    """First one case, then another run of all: the rows are those of one run."""
    content = small(**{**ONE, "attacks": [{**UNIVERSAL, "eps": ["4/255", "8/255"]}]})
    execute({**content, "datasets": [{**PHANTOM, "cases": 1}]}, tmp_path / "out")
    assert sorted(learned) == [4 / 255, 8 / 255]
    kept = {path: path.read_bytes() for path in tmp_path.glob("out/learned/*")}
    expected = {cell.cell_id for cell in grid_of(content).cells}
    assert {path.stem for path in kept} == expected
    execute(content, tmp_path / "out")
    assert len(learned) == 2
    assert {path: path.read_bytes() for path in tmp_path.glob("out/learned/*")} == kept
    execute(content, tmp_path / "anew")
    assert (len(learned), rows(tmp_path / "out")) == (4, rows(tmp_path / "anew"))
    assert class_rows(tmp_path / "out") == class_rows(tmp_path / "anew")
    assert {row["status"] for row in stored(tmp_path / "out")} == {"ok"}


@pytest.mark.parametrize("control", ["none", "random"])
def test_all_cases_are_changed_by_one_tile_within_eps(tmp_path: Path, control: str) -> None:
    """Saved volumes tell, as nothing was clamped; the null row's has the same size everywhere."""
    execute(small(**{**ONE, "attacks": [{**UNIVERSAL, "control": control}]}, save_adversarial="nifti"), tmp_path)
    changes = []
    free = []
    for folder in sorted(path.parent for path in tmp_path.glob("volumes/*/*/attack.json")):
        clean, made = (nibabel.load(folder / f"{name}.nii.gz").get_fdata() for name in ("clean", "adversarial"))
        changes.append(made - clean)
        free.append((made > 0) & (made < 1))
    both = free[0] & free[1]
    assert both.sum() > 500
    assert np.allclose(changes[0][both], changes[1][both], atol=1e-7)
    assert max(np.abs(change).max() for change in changes) <= 8 / 255 + 1e-7
    if control == "random":
        assert np.allclose(np.abs(changes[0][both]), 8 / 255, atol=1e-7)
    window = 16  # the tile is the model's, and begins anew behind it
    again = both[window:] & both[: SHAPE[0] - window]
    assert np.allclose(changes[0][window:][again], changes[0][: SHAPE[0] - window][again], atol=1e-7)


def test_a_tensor_learned_on_one_network_is_scored_on_others(tmp_path: Path) -> None:
    execute(job(**ONE, metrics=["dsc"]), tmp_path)
    rows = stored(tmp_path)
    pairs = {(row["source_model"], row["target_model"]) for row in rows if row["status"] == "ok"}
    assert pairs == {("a", "a"), ("a", "b"), ("b", "a"), ("b", "b")}
    assert len(list(tmp_path.glob("learned/*"))) == 2
    assert {(row["num_forwards"], row["num_backwards"]) for row in rows} == {(0, 0)}


@pytest.mark.parametrize("content", [b"", b"nonsense", "empty", "wide"])
def test_a_file_that_is_not_what_was_learned_fails_in_one_line(tmp_path: Path, content: Any) -> None:
    from safetensors.torch import save

    (cell,) = grid_of(small(**ONE)).cells
    path = tmp_path / "learned" / f"{cell.cell_id}.safetensors"
    path.parent.mkdir()
    tensors = {"empty": {"other": torch.zeros(1)}, "wide": {"learned": torch.full((1, 16, 16, 16), 0.1)}}
    path.write_bytes(content if isinstance(content, bytes) else save(tensors[content]))
    execute(small(**ONE), tmp_path)
    (error,) = {row["error"] for row in stored(tmp_path)}
    assert f"{path}: expected a tensor that universal learned, got another file (" in error
    assert error.endswith("): remove it")


def test_a_link_out_of_the_store_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "learned").symlink_to(tmp_path / "elsewhere")
    execute(small(**ONE), tmp_path / "out")
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert {row["status"] for row in stored(tmp_path / "out")} == {"failed"}


def test_volume_of_windows_teaches_its_predictions_loss() -> None:
    """Through the sliding window, whose overlapping windows show a tile at several places."""
    model = SegmentationModel(SmallNet(), (8, 6, 4)).eval()
    image = volume((12, 9, 4))
    case = case_of(image, (image > 0.5).long())
    attack = make("universal", eps=0.1, steps=2, learn_cases=1)
    learned = learning.learn(attack, model, [lambda: case], None, windows=2)
    assert torch.equal(learned, attack.learn(SlidingWindowModel(model, 2), [(case.image, case.label)], model.roi))
    alone = case_of(image[:, :8, :6], (image[:, :8, :6] > 0.5).long())
    asked = list[bool]()
    model.register_forward_hook(lambda _, inputs, logits: asked.append(logits.requires_grad))
    within = learning.learn(attack, model, [lambda: alone], None, windows=2)
    assert asked == [True, True], "a volume of one window takes no forward pass twice"
    assert torch.equal(within, attack.learn(model, [(alone.image, alone.label)], model.roi))


def test_tile_for_windows_of_whole_volumes_is_as_large_as_first() -> None:
    """Along the axes of `inference.whole`; on others it has the sides of the window."""
    model = SegmentationModel(SmallNet(), (8, 6, 4), inference=Inference(whole="HD")).eval()
    cases = [case_of(image := volume(shape), (image > 0.5).long()) for shape in ((12, 9, 7), (10, 8, 6))]
    attack = make("universal", eps=0.1, steps=1, learn_cases=2)
    learned = learning.learn(attack, model, [partial(cases.__getitem__, i) for i in range(2)], None, windows=2)
    assert learned.shape == (1, 12, 6, 7)


def cell_id(**changes: Any) -> str:
    attack = {**UNIVERSAL, **{key: value for key, value in changes.items() if key != "cases"}}
    (cell,) = grid_of(small(attacks=[attack], datasets=[{**PHANTOM, "cases": changes.get("cases", 2)}])).cells
    return cell.cell_id


def test_learning_cases_are_in_the_id_scored_ones_not() -> None:
    assert cell_id() == cell_id(cases=3)
    assert len({cell_id(), cell_id(learn_cases=3), cell_id(learn_split="validation")}) == 3
    (cell,) = grid_of(small(**ONE)).cells
    other = replace(cell.learns_from[0], fingerprint="f" * 16)
    assert replace(cell, learns_from=(other, *cell.learns_from[1:])).cell_id != cell.cell_id
    plain = replace(cell, attack=make("fgsm", eps=0.1))  # as an audit makes cells of others
    assert plain.cell_id == replace(plain, learns_from=()).cell_id


@pytest.mark.parametrize(
    ("entry", "dataset", "expected"),
    [
        (
            {},
            {"split": "train"},
            "universal: expected to learn from no case or patient that is scored, got 2 of the "
            "split 'train' (first: phantom_0000): set another learn_split, or other cases to score",
        ),
        ({"learn_split": "trian"}, {}, "unknown split 'trian'. Did you mean 'train'?"),
        ({"learn_cases": 65}, {}, "expected at most 64 `cases`, got 65: take fewer"),
    ],
)
def test_unlearnable_lists_are_refused_before_the_run(entry: Any, dataset: Any, expected: str) -> None:
    content = small(attacks=[{**UNIVERSAL, **entry}], datasets=[{**PHANTOM, **dataset}])
    with pytest.raises(UserError) as caught:
        expanded(content)
    assert str(caught.value).startswith("job.yaml: datasets[0]: ")
    assert expected in str(caught.value)


def test_other_cases_of_a_split_may_be_learned_from() -> None:
    cases = ["phantom_0005", "phantom_0006"]
    (cell,) = grid_of(small(attacks=[UNIVERSAL], datasets=[{**PHANTOM, "split": "train", "cases": cases}])).cells
    assert [ref.case_id for ref in cell.learns_from] == ["phantom_0000", "phantom_0001"]


@pytest.mark.parametrize(("patient", "content"), [("p", "b"), ("q", "a")])
def test_scored_patients_scans_and_copies_refused(monkeypatch: pytest.MonkeyPatch, patient: str, content: str) -> None:
    scan = CaseRef(case_id="p_later", patient_id=patient, fingerprint=content * 16, shape=(8, 8, 8))
    scored = CaseRef(case_id="p_early", patient_id="p", fingerprint="a" * 16, shape=(8, 8, 8))
    monkeypatch.setattr(Phantom, "refs", lambda self, split=None: (scan,))
    attack = make("universal", eps=0.1)
    assert isinstance(attack, Universal)
    with pytest.raises(UserError, match=r"no case or patient that is scored, got 1 .*first: p_later"):
        learning_cases(Phantom(name="p"), attack, [scored])


def test_a_plan_counts_what_it_takes_to_learn_once_a_cell() -> None:
    """Each case of two windows, 24x20x16 in windows of 16, in each step forward and back; then nothing a case."""
    grid = grid_of(small(**{**ONE, "attacks": [{**UNIVERSAL, "control": ["none", "random"]}]}))
    windows = 2 * 2  # with half a window's overlap, on 24 and 20 voxels
    assert [cell.learning_passes for cell in grid.cells] == [2 * 2 * windows * 2, 0]
    ((row,),) = [list(plan._count_rows(grid))]
    assert row["window_passes"] == 2 * 2 * windows * 2
    assert {unit.passes for unit in grid.units()} == {0}


def test_rehearsal_learns_from_other_stand_ins(tmp_path: Path) -> None:
    real = {"name": "heart", "loader": "decathlon", "root": "/nowhere", "split": "validation", "cases": 2}
    attacks = [{**UNIVERSAL, "learn_split": split} for split in ("training", "train", "test[0:9]")]
    spec = expanded(small(**ONE))[0].model_validate(small(attacks=attacks, datasets=[real]))
    dry = shrink_job(spec).model_dump(exclude_unset=True)
    grid = grid_of(dry)
    scored = {ref.case_id for ref in chain.from_iterable(grid.cases.values())}
    assert len(grid.cells) == 3
    assert all(cell.learns_from for cell in grid.cells)
    learns_from = chain.from_iterable(cell.learns_from for cell in grid.cells)
    assert scored.isdisjoint(ref.case_id for ref in learns_from)
    execute(dry, tmp_path)
    assert {row["status"] for row in stored(tmp_path)} == {"ok"}


@pytest.fixture
def model() -> Any:
    unit = units_of(small(**ONE))[0]
    network = network_of(unit.cell.source)
    return fb.load_model(network.net, roi=unit.cell.source.roi, num_classes=6)


def test_a_model_in_python_learns_at_the_first_call(model: Any, learned: list[float]) -> None:
    cases = fb.load_dataset("phantom", shape=SHAPE, cases=2)
    first, second = (fb.attack(model, case, "universal", eps="8/255", learn_cases=2, steps=2) for case in cases)
    assert learned == [8 / 255]
    assert torch.equal(first.learned, second.learned)
    change = (second.adversarial - second.clean)[:, :16, :16, :16]
    free = (second.adversarial > 0)[:, :16, :16, :16] & (second.adversarial < 1)[:, :16, :16, :16]
    assert torch.allclose(change[free], first.learned[free], atol=1e-6)
    fb.attack(model, cases[0], "universal", eps="4/255", learn_cases=2, steps=1)
    assert learned == [8 / 255, 4 / 255]
    assert fb.attack(model, cases[0], "fgsm", eps="4/255").learned is None


def test_python_refuses_learning_cases_and_arrays(model: Any) -> None:
    case = fb.load_dataset("phantom", shape=SHAPE, split="train", cases=1)[0]
    with pytest.raises(UserError, match=r"got 1 of the split 'train' \(first: phantom_0000\)"):
        fb.attack(model, case, "universal", eps="8/255")
    with pytest.raises(UserError, match=r"^universal: expected a dataset whose split 'train' has cases to learn from"):
        fb.attack(model, (case.image, case.label), "universal", eps="8/255")
