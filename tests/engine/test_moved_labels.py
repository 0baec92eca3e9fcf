"""An attack that moves the anatomy: predictions are held against the label where the volume shows it."""

import io
import json
import math
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine.cases import Threshold, case_of, grid_of, stored
from exchange.elsewhere import voxels_of as load
from rich.console import Console
from tiny_job import SHAPE, class_rows, execute, expanded, job, rows, small
from torch import Tensor

import freqbench as fb
from freqbench import metrics
from freqbench.attacks import make
from freqbench.core.errors import UserError
from freqbench.core.types import Case
from freqbench.engine import attacking, run, saved_volumes
from freqbench.engine.attacking import attack_case
from freqbench.exchange import export
from freqbench.job.grid import further_targets
from freqbench.models import SegmentationModel
from freqbench.ops.losses import mean_dice
from freqbench.results import Store

DEFORMATION = {"name": "deformation", "max_mm": 12, "knot_mm": 30, "steps": 2, "min_jacobian": 0.3}
ONE = {"attacks": [DEFORMATION], "metrics": ["dsc", "hd95"], "save_adversarial": "nifti"}
SERIAL = {"resources": {"workers": 1, "threads": 1}}


def ball(**changes: Any) -> Case:
    axes = torch.meshgrid(*[torch.arange(20.0) - 9.5] * 3, indexing="ij")
    radius = torch.stack(axes).norm(dim=0)[None]
    return case_of(torch.sigmoid(6 - radius), radius < 6, **changes)


def dice(image: Tensor, label: Tensor) -> float:
    return float(mean_dice(torch.stack([0.5 - image, image - 0.5], dim=1), label[None]))


one_and_several_windows = pytest.mark.parametrize("side", [20, 12])


@one_and_several_windows
def test_the_label_of_a_volume_is_moved_as_its_voxels_are(side: int) -> None:
    """One window, and several that are one volume to the attack: a threshold finds the moved ball."""
    case = ball()
    model = SegmentationModel(Threshold(), (side, side, side)).eval()
    attacked = attack_case(make("deformation", max_mm=4.0, control="random", knot_mm=8.0), model, case, 0, 2)
    assert attacked.label is not None
    assert (attacked.label.dtype, attacked.label.shape) == (torch.uint8, case.label.shape)
    scores = [dice(attacked.adversarial, label) for label in (attacked.label, case.label)]
    assert scores[0] > 0.9 > scores[1] + 0.05


def test_other_attacks_leave_the_case_its_label() -> None:
    attacked = attack_case(make("fgsm", eps=0.1), SegmentationModel(Threshold(), (20, 20, 20)).eval(), ball(), 0, 1)
    case = ball()
    assert attacked.label is None
    assert attacked.relabel(case) is case


def test_rows_hold_the_prediction_against_the_moved_label(tmp_path: Path) -> None:
    """The moved label is saved beside the case's own."""
    execute(small(**ONE, **SERIAL), tmp_path)
    (row,) = stored(tmp_path)
    (folder,) = (path.parent for path in tmp_path.glob("volumes/*/*/attack.json"))
    label, moved, pred, clean = (
        load(folder / f"{name}.nii.gz")
        for name in ("label", "label_adversarial", "prediction_adversarial-a", "prediction_clean-a")
    )
    assert not np.array_equal(label, moved)
    assert row["dsc"] == np.nanmean(metrics.dice(pred, moved, 6)) != np.nanmean(metrics.dice(pred, label, 6))
    assert row["dsc_clean"] == np.nanmean(metrics.dice(clean, label, 6))
    counts = {each["class_index"]: each["label_voxels"] for each in Store(str(tmp_path)).class_records().to_pylist()}
    assert counts == {k: int((moved == k).sum()) for k in range(6)}


MOVED = ("displacement_mean_mm", "displacement_max_mm", "jacobian_min")


@pytest.mark.parametrize("control", ["none", "random"])
def test_rows_say_how_far_anatomy_was_moved_within_bounds(control: str, tmp_path: Path) -> None:
    """Displacements are in millimetres of the case, and null where nothing moves."""
    attacks = [{**DEFORMATION, "max_mm": 3, "control": control}, {"name": "fgsm", "eps": 0.1}]
    execute(small(attacks=attacks, metrics=["dsc"], **SERIAL), tmp_path)
    moved = {row["attack"]: itemgetter(*MOVED)(row) for row in stored(tmp_path)}
    mean, largest, least = moved["deformation"]
    assert 0.1 < mean < largest <= 3
    assert 0.3 <= least < 1
    assert moved["fgsm"] == (None, None, None)


def test_rows_have_the_smallest_change_that_was_found(tmp_path: Path) -> None:
    """The column is that of the attack's norm, and null if none was found or none was sought."""
    few = {"name": "fmn", "steps": 6, "step_size": 0.1, "dice": 0.999}
    attacks = [{**few, "norm": "linf"}, {**few, "norm": "l2"}, {**few, "norm": "linf", "dice": 0, "steps": 1}]
    attacks.append({"name": "almaprox", "share": 0.0, "steps": 1})
    execute(small(attacks=[*attacks, {"name": "fgsm", "eps": 0.1}], metrics=["dsc"], **SERIAL), tmp_path)
    stated = {}
    for row in stored(tmp_path):
        setting = json.loads(row["params"])
        stated[row["attack"], setting.get("norm"), setting.get("dice")] = row
    linf = stated["fmn", "linf", 0.999]
    l2 = stated["fmn", "l2", 0.999]
    never = stated["fmn", "linf", 0]
    share = stated["almaprox", None, None]
    fgsm = stated["fgsm", None, None]
    sizes = [(row["smallest_linf"], row["smallest_l2"]) for row in (linf, l2, never, share, fgsm)]
    of_l2 = pytest.approx(l2["l2"] / math.prod(SHAPE) ** 0.5, abs=1e-7)
    assert sizes == [
        (pytest.approx(linf["linf"], abs=1e-7), None),
        (None, of_l2),
        (None, None),
        (0.0, None),
        (None, None),
    ]
    assert linf["budget"] is None
    assert (linf["threat_model"], l2["threat_model"]) == ("linf-minimal", "l2-minimal")


@one_and_several_windows
def test_displacement_is_that_of_volume_by_its_millimetres(side: int) -> None:
    """The same field on voxels of twice the length is twice as long, in one window and in several."""
    model = SegmentationModel(Threshold(), (side, side, side)).eval()
    small, large = (
        attack_case(
            make("deformation", max_mm=4.0 * times, control="random", knot_mm=1000.0),
            model,
            ball(spacing=(times, times, times)),
            0,
            2,
        )
        for times in (1.0, 2.0)
    )
    assert torch.equal(small.adversarial, large.adversarial)
    mean, largest, least = attrgetter(*MOVED)(small.facts)
    assert attrgetter(*MOVED)(large.facts) == pytest.approx((2 * mean, 2 * largest, least))
    assert 1 < largest <= 4


def test_saved_volumes_whose_facts_lack_displacement_are_refused(tmp_path: Path) -> None:
    content = small(**ONE, **SERIAL)
    execute(content, tmp_path)
    (facts,) = tmp_path.glob("volumes/*/*/attack.json")
    stated = json.loads(facts.read_text())
    facts.write_text(json.dumps({name: stated[name] for name in stated if name not in MOVED}))
    cell = grid_of(content).cells[0]
    with pytest.raises(UserError, match=r"attack\.json: displacement_mean_mm: "):
        saved_volumes.read(str(tmp_path / "volumes"), cell, cell.dataset.refs()[0])


@pytest.mark.integration
def test_saved_volumes_are_scored_with_the_moved_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = small(**{**ONE, "metrics": ["dsc", "hd95", "psnr"]}, **SERIAL, models=job()["models"], targets="source")
    execute(content, tmp_path / "scored")
    execute({**content, "targets": "all"}, tmp_path / "run")
    monkeypatch.setattr(attacking, "attack_case", lambda *args: pytest.fail("attacked again"))
    grid = further_targets(expanded(content)[0], ["a", "b"])
    summary = run.rescore(grid, str(tmp_path / "scored"), Console(quiet=True))
    assert (summary.num_done, summary.num_new, summary.num_failed) == (2, 2, 0)
    assert rows(tmp_path / "scored") == rows(tmp_path / "run")
    assert class_rows(tmp_path / "scored") == class_rows(tmp_path / "run")


def test_targets_on_another_grid_are_left_out_and_named() -> None:
    """Only of attacks that move labels."""
    first, second = job()["models"]
    apart = {**second, "preprocess": {"spacing": [8, 8, 8]}}
    attacks = [DEFORMATION, {"name": "fgsm", "eps": 0.1}]
    _, grid = expanded(small(models=[first, apart], attacks=attacks))
    targets = {(cell.attack.name, cell.source.name): cell.targets for cell in grid.cells}
    assert [target.name for target in targets["deformation", "a"]] == ["a"]
    assert [target.name for target in targets["deformation", "b"]] == ["b"]
    assert [target.name for target in targets["fgsm", "a"]] == ["a", "b"]
    assert "deformation: not scored on b, as labels move on the grid of a" in grid.warnings
    _, same = expanded(small(models=[first, second], attacks=attacks))
    assert all(len(cell.targets) == 2 for cell in same.cells)


def test_tools_get_no_volumes_whose_label_moved(tmp_path: Path) -> None:
    content = small(**{**ONE, "attacks": [DEFORMATION, {"name": "gn", "std": 0.1}]}, **SERIAL)
    execute(content, tmp_path / "out")
    said = io.StringIO()
    made = export.export(grid_of(content), str(tmp_path / "out"), str(tmp_path / "to"), Console(file=said))
    assert {each.attack for each in made} == {None, "gn"}
    assert "1 attacks that move labels left out: deformation" in said.getvalue()


def test_python_scores_use_the_moved_label() -> None:
    case = ball()
    model = fb.load_model(Threshold(), roi=(20, 20, 20), num_classes=2)
    given = (case.image, case.label)
    result = fb.attack(model, given, "deformation", max_mm=4.0, knot_mm=8.0, control="random")
    assert not torch.equal(result.label_adversarial, result.label)
    record = fb.evaluate(model, given, result, metrics=["dsc"])
    assert record["dsc_clean"] == 1
    assert record["dsc"] == pytest.approx(np.nanmean(metrics.dice(result.prediction, result.label_adversarial[0], 2)))
    assert record["dsc"] > 0.95
    assert 0 < record["displacement_mean_mm"] < record["displacement_max_mm"] <= 4
    assert record["jacobian_min"] >= 0.5
