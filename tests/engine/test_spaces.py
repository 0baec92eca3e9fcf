"""Models with a space of their own: attacked there, and handed on through the native grid and unit."""

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from data.downloads import put
from engine.cases import grid_of, network_of, records_of, run_all
from rich.console import Console
from tiny_job import ARGS, ROI, class_rows, execute, expanded, noted, results, rows, small

from freqbench import models
from freqbench.core import config
from freqbench.core.input_space import Preprocess
from freqbench.core.types import Case
from freqbench.data import Dataset, attacked_native, prepare, preprocess, resampling_error
from freqbench.engine import attacking, run
from freqbench.engine.attacking import Needs
from freqbench.engine.rows import Outcome
from freqbench.engine.worker import Worker, WorkerSpec
from freqbench.job.grid import Grid, further_targets
from freqbench.job.schema import JobSpec
from freqbench.metrics import dice, hd95, image_scores
from freqbench.results import Store

SHAPE = (18, 20, 12)
STEPS = (1.0, 1.5, 2.0)
OWN = {"spacing": [1.5, 1.5, 1.5], "intensity": {"percentile": [5, 95]}, "crop_foreground": False}
A = {"name": "a", "arch": "unet", "checkpoint": "random", "args": ARGS, "roi": ROI}
B = {**A, "name": "b", "checkpoint": "random:1", "preprocess": OWN}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A dataset of two cases in CT units, their first axis from right to left, in a space of its own."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    affine = np.diag([-STEPS[0], STEPS[1], STEPS[2], 1.0])
    affine[:3, 3] = 10, -5, 3
    for name in ("x", "y"):
        voxels = rng.uniform(-300, 400, SHAPE).astype(np.float32)
        label = np.zeros(SHAPE, np.uint8)
        label[4:12, 5:14, 3:9] = 1
        label[12:16, 8:12, 4:8] = 2
        for kind, volume in (("image", voxels), ("label", label)):
            put(root / f"{name}_{kind}.nii.gz", volume, affine)
    listed = [{"image": f"./{name}_image.nii.gz", "label": f"./{name}_label.nii.gz"} for name in ("x", "y")]
    (root / "dataset.json").write_text(json.dumps({"test": listed}))
    keys = {"root": str(root), "labels": 3, "cases": 1, "intensity": {"window": [-175, 250]}, "crop_foreground": False}
    return {"name": "d", "loader": "decathlon", **keys}


def job_of(data: dict[str, Any], *entries: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return small(**{"datasets": [data], "models": list(entries), "metrics": ["dsc", "hd95"], **changes})


@pytest.fixture(scope="module")
def both(data: dict[str, Any]) -> list[Outcome]:
    """`a` sees the dataset's space, `b` its own: each is attacked and scored on both."""
    return run_all(job_of(data, A, B))


def pair(outcomes: list[Outcome], source: str, target: str) -> dict[str, Any]:
    rows = {(row["source_model"], row["target_model"]): row for row in records_of(outcomes)}
    return dict(rows[source, target])


def space_of(dataset: Dataset, name: str) -> Preprocess:
    return Preprocess(**OWN) if name == "b" else dataset.space


def by_hand(grid: Grid, source: str) -> tuple[Case, torch.Tensor]:
    cell = next(cell for cell in grid.cells if cell.source.name == source)
    case = cell.dataset.load(grid.cases["d"][0], space_of(cell.dataset, source))
    model = network_of(cell.source)
    return case, attacking.attack_case(cell.attack, model, case, cell.seed, 1).adversarial


def test_the_budget_is_in_the_source_s_own_unit(data: dict[str, Any], both: list[Outcome]) -> None:
    _, grid = expanded(job_of(data, A, B))
    ((low, high),) = grid.cells[0].dataset.load(grid.cases["d"][0], space_of(grid.cells[0].dataset, "b")).native_ranges
    assert high - low > 450
    for target in ("a", "b"):
        assert pair(both, "a", target)["eps_native"] == pytest.approx(8 / 255 * 425)
        assert pair(both, "b", target)["eps_native"] == pytest.approx(8 / 255 * (high - low))


@pytest.mark.parametrize("entry", [A, B], ids=["a", "b"])
def test_rows_within_a_space_are_unchanged(data: dict[str, Any], both: list[Outcome], entry: dict[str, Any]) -> None:
    alone, _ = results(run_all(job_of(data, entry)))
    ((key, row),) = alone.items()
    assert (row["resampling_error"], results(both)[0][key]) == ("None", row)


@pytest.mark.parametrize(("source", "target"), ["ab", "ba"])
def test_native_volumes_score_elsewhere(data: dict[str, Any], both: list[Outcome], source: str, target: str) -> None:
    _, grid = expanded(job_of(data, A, B))
    case, adversarial = by_hand(grid, source)
    dataset = grid.cells[0].dataset
    ref = grid.cases["d"][0]
    native = dataset.native(ref)
    attacked = attacked_native(native, case, adversarial, space_of(dataset, source))
    clean = prepare(native, space_of(dataset, target))
    volume = prepare(attacked, space_of(dataset, target), clean=native).image
    assert volume.shape == clean.image.shape != case.image.shape
    model = network_of(next(cell.source for cell in grid.cells if cell.source.name == target))
    pred = models.predict(model, volume)
    pred_clean = models.predict(model, clean.image)
    label = clean.label[0]
    row = pair(both, source, target)
    assert (row["dsc"], row["dsc_clean"]) == (np.nanmean(dice(pred, label, 3)), np.nanmean(dice(pred_clean, label, 3)))
    assert row["hd95_mm"] == pytest.approx(np.nanmean(hd95(pred, label, 3, spacing=clean.spacing)[1:]), nan_ok=True)
    assert row["voxel_success"] == (pred != pred_clean).double().mean()
    error = resampling_error(native, attacked, adversarial, space_of(dataset, source))
    assert row["resampling_error"] == error
    assert (error < 1e-6) == (source == "a"), "the dataset's space keeps the file's grid"
    assert row["linf"] == pytest.approx(float((adversarial - case.image).abs().max())), "of the volume as attacked"


def test_a_space_spelled_otherwise_is_the_same_space(data: dict[str, Any]) -> None:
    theirs = {**data, "intensity": "minmax"}
    same = {**A, "name": "b", "preprocess": {"intensity": {"percentile": [0, 100]}, "crop_foreground": False}}
    outcomes = run_all(job_of(theirs, A, same))
    assert [row["resampling_error"] for row in records_of(outcomes)] == [None] * 4
    assert pair(outcomes, "a", "b")["dsc"] == pair(outcomes, "a", "a")["dsc"]


RANGE = {
    "_target_": "ScaleIntensityRanged",
    "keys": "image",
    "a_min": -175,
    "a_max": 250,
    "b_min": 0,
    "b_max": 1,
    "clip": True,
}
COARSE = {"_target_": "Spacingd", "keys": "image", "pixdim": [1.5, 1.5, 1.5]}


def test_pipeline_on_another_grid_has_its_resampling_error(data: dict[str, Any]) -> None:
    own = {**A, "transforms": [COARSE, RANGE]}
    grid = grid_of(job_of(data, own))
    (cell,) = grid.cells
    ref = grid.cases["d"][0]
    case = cell.dataset.load(ref, cell.source.space)
    native = cell.dataset.native(ref)
    made = attacking.attack_case(cell.attack, network_of(cell.source), case, None, 1).adversarial
    error = resampling_error(native, attacked_native(native, case, made, cell.source.space), made, cell.source.space)
    assert pair(run_all(job_of(data, own)), "a", "a")["resampling_error"] == error > 1e-3
    for alike in ({"models": [{**own, "transforms": [RANGE]}]}, {"score_on": "grid"}):
        assert pair(run_all(job_of(data, own, **alike)), "a", "a")["resampling_error"] is None


def test_way_through_native_grid_is_gone_once_unit(data: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    gone: list[str] = []
    for name in ("attacked_native", "resampling_error", "prepare"):
        real = getattr(preprocess, name)
        counted = lambda *args, real=real, name=name, **kwargs: gone.append(name) or real(*args, **kwargs)  # noqa: E731
        monkeypatch.setattr(preprocess, name, counted)
    more = [{**A, "name": "c", "checkpoint": "random:2"}]
    run_all(job_of(data, B, A, *more, attacks=[{"name": "gn", "std": 0.1, "sources": "b"}], metrics=["dsc"]))
    assert sorted(gone) == ["attacked_native", "prepare", "prepare", "resampling_error"], "one way, and its error"


VOLUMES = {"save_adversarial": "nifti", "metrics": ["dsc"], "resources": {"workers": 1, "threads": 1}}


def test_saved_files_lie_in_the_space_that_they_are_of(data: dict[str, Any], tmp_path: Path) -> None:
    content = job_of(data, A, B, **VOLUMES, attacks=[{"name": "gn", "std": 0.1, "sources": "b"}])
    execute(content, tmp_path)
    _, grid = expanded(content)
    dataset = grid.cells[0].dataset
    (ref,) = grid.cases["d"]
    (folder,) = (path.parent for path in tmp_path.glob("volumes/*/*/attack.json"))
    of = {"adversarial": "b", "clean": "b", "label": "b"}
    for target in "ab":
        of |= {f"prediction_{kind}-{target}": target for kind in ("clean", "adversarial")}
    for name, owner in of.items():
        image = nibabel.load(folder / f"{name}.nii.gz")
        case = dataset.load(ref, space_of(dataset, owner))
        assert np.allclose(image.affine, case.affine, rtol=1e-6), name
        assert image.shape == case.image.shape[1:], name


@pytest.mark.integration
def test_spaces_score_saved_volumes(data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(job_of(data, A, B, **VOLUMES, targets="source"), tmp_path / "scored")
    execute(job_of(data, A, B, **VOLUMES), tmp_path / "run")
    monkeypatch.setattr(attacking, "attack_case", lambda *args: pytest.fail("attacked again"))
    stored = config.validate(Store(str(tmp_path / "scored")).job()["spec"], JobSpec, "run.json")
    run.rescore(further_targets(stored, ["a", "b"]), str(tmp_path / "scored"), Console(quiet=True))
    assert rows(tmp_path / "scored") == rows(tmp_path / "run")
    assert (class_rows(tmp_path / "scored"), len(rows(tmp_path / "run"))) == (class_rows(tmp_path / "run"), 4)


@pytest.mark.parametrize("scope", ["window", "volume"])
def test_planned_windows_and_passes_are_those_of_source_s_space(data: dict[str, Any], scope: str) -> None:
    """18x30x24 mm are 18x20x12 voxels in the dataset's space and 12x20x16 in the other: as the headers say."""
    wider = {**B, "roi": [8, 8, 8], "inference": {"overlap": 0.25}}
    attack = {"name": "pgd", "eps": "4/255", "steps": 1, "scope": scope}
    content = job_of(data, A, wider, attacks=[attack], metrics=["dsc"])
    _, grid = expanded(content)
    records = {outcome.records[0]["cell_id"]: outcome.records[0] for outcome in run_all(content)}
    for unit in grid.units():
        row = records[unit.cell.cell_id]
        assert (unit.num_windows, unit.passes) == (row["num_windows"], row["num_forwards"] + row["num_backwards"])
    assert len({unit.num_windows for unit in grid.units()}) == 2


def test_a_volume_is_attacked_through_the_source_s_own_weighting(data: dict[str, Any]) -> None:
    pgd = {"name": "pgd", "eps": "8/255", "steps": 1, "scope": "volume"}
    plain, gaussian = (
        run_all(job_of(data, {**B, "inference": {"weighting": weighting}}, attacks=[pgd]))[0].records[0]
        for weighting in ("constant", "gaussian")
    )
    assert plain["num_windows"] == gaussian["num_windows"] > 1
    assert plain["l2"] != gaussian["l2"]


def test_a_reference_comes_in_the_source_s_space(data: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def note(_: Any, model: Any, case: Case, seed: Any, batch: int, needs: Needs, *more: Any) -> tuple[Any, ...]:
        assert needs.reference
        return case.spacing, needs.reference.spacing, needs.reference.ref.case_id

    seen = noted(monkeypatch, attacking, "attack_case", note)
    run_all(job_of(data, B, attacks=[{"name": "faa", "bands": 4, "portion": 0.5, "steps": 1}], metrics=["dsc"]))
    assert seen == [((1.5,) * 3, (1.5,) * 3, "y_image")]


def test_distances_for_matching_are_taken_in_the_source_s_space(data: dict[str, Any]) -> None:
    _, grid = expanded(job_of(data, A, B))
    case, adversarial = by_hand(grid, "b")
    cell = next(cell for cell in grid.cells if cell.source.name == "b")
    distances = Worker(WorkerSpec(run_id="", metrics=(), threads=1)).distances(cell, grid.cases["d"][0], ("l2",))
    assert distances.values["l2"] == pytest.approx(image_scores(case.image, adversarial).values["l2"])
