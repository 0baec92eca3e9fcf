"""The rest of a grid, given the rows of a store."""

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command_line import bench
from engine.cases import grid_of, row_keys
from tiny_job import expanded, job, noted, small

from freqbench import models
from freqbench.data import Dataset
from freqbench.engine import rows
from freqbench.job import cells, costs
from freqbench.job import plan as planning
from freqbench.job.cells import Unit
from freqbench.job.plan import make_plan
from freqbench.results import Store, index_keys

METRICS = frozenset({"dsc", "hd95"})


def test_an_empty_store_leaves_everything_and_a_full_one_nothing() -> None:
    _, grid = expanded(job())
    empty = make_plan(grid, {})
    full = make_plan(grid, dict.fromkeys(row_keys(grid), METRICS))
    assert (empty.num_done, empty.num_todo, empty.units) == (0, 24, tuple(grid.units()))
    assert (full.num_done, full.num_todo, full.units) == (24, 0, ())


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"save_only": ["pgd"]}, "save_only: saves no volumes of pgd: that needs save_adversarial: nifti"),
        ({"seeds": [0, 1], "attacks": [{"name": "fgsm", "eps": 0.1}]}, "seeds: no attack draws: the 2 seeds give"),
        ({"training": ["train.yaml"]}, "training: trains nothing: that needs a model with a checkpoint train://NAME"),
        ({"save_only": ["pgd"], "save_adversarial": "nifti"}, None),
        ({"seeds": [0, 1], "attacks": [{"name": "gn", "std": 0.1}]}, None),
    ],
)
def test_a_key_that_does_nothing_without_another_is_said(changes: dict[str, Any], line: str | None) -> None:
    said = [note for note in grid_of(job(**changes)).notes if note.startswith(("save_only", "seeds", "training"))]
    assert [note.startswith(str(line)) for note in said] == [True] * (line is not None)


def test_records_that_lack_their_volume_are_computed_anew() -> None:
    _, grid = expanded(job())
    first, *rest = row_keys(grid)
    covered = {first: frozenset({"dsc"}), **dict.fromkeys(rest[:3], METRICS)}  # the first lacks a metric too
    assert make_plan(grid, covered, lambda cell, ref: True).notes == ()
    plan = make_plan(grid, covered, lambda cell, ref: False)
    assert (plan.num_done, plan.num_unsaved) == (0, 3)
    assert plan.notes[0].startswith("3 records have all scores but no saved volume")
    assert make_plan(grid, {}, lambda cell, ref: False).notes == ()


def test_a_case_s_key_is_found_once_however_many_cells_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    _, grid = expanded(job())
    asked = noted(monkeypatch, Dataset, "case_key", lambda _, ref: ref.case_id)
    make_plan(grid, {})
    grid.index()
    assert len(grid.cells) == 6
    assert asked == [ref.case_id for ref in grid.cases["phantom"]]


def test_the_index_spells_out_all_keys() -> None:
    _, grid = expanded(job())
    assert index_keys(grid.index()) == set(row_keys(grid))


VAFA = {"name": "vafa", "q_max": 20, "steps": 1, "block": "8x32x16"}


def params_of(*attacks: dict[str, Any], **changes: Any) -> list[dict[str, Any]]:
    return [json.loads(cell.params) for cell in grid_of(small(attacks=list(attacks), **changes)).cells]


def test_a_block_that_the_roi_cuts_is_said() -> None:
    (params,) = params_of(VAFA)
    assert (params["block"], params["block_cut"]) == ([8, 32, 16], "8x16x16")


def test_a_block_that_fits_and_attacks_without_one_say_nothing() -> None:
    assert all("block_cut" not in params for params in params_of({**VAFA, "block": 16}, {"name": "fgsm", "eps": 0.1}))


def test_a_slice_s_block_is_cut_in_the_slice_alone() -> None:
    fits, cut = params_of(*({"name": "vafa_2d", "q_max": 20, "steps": 1, "block": block} for block in (16, 20)))
    assert "block_cut" not in fits
    assert cut["block_cut"] == "16x16"


def test_roi_cuts_no_block_of_volume_that_is_attacked_as_one() -> None:
    ssa = {"name": "ssa", "eps": "8/255", "steps": 1, "block": 20}
    window, volume = params_of(ssa, {**ssa, "scope": "volume"})
    assert ("block_cut" in window, "block_cut" in volume) == (True, False)


def test_cut_is_of_source_whose_roi_it_is_and_of_no_identity() -> None:
    wide = {**job()["models"][0], "name": "wide", "roi": [16, 32, 16]}
    cut, whole = params_of(VAFA, models=[job()["models"][0], wide])
    assert ("block_cut" in cut, "block_cut" in whole) == (True, False)
    assert grid_of(small(attacks=[VAFA])).cells[0].cell_id == "e458d3eb3cb259cc"


@pytest.mark.parametrize(("scope", "repeats"), [("window", 0), ("joint", 1)])
def test_unfit_graphs_are_counted(scope: str, repeats: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory for all windows but one: each step runs that one forward twice."""
    _, grid = expanded(small(attacks=[{"name": "pgd", "eps": 0.01, "steps": 3, "scope": scope}]))
    (unit,) = grid.units()
    (whole,) = planning._count_rows(grid)
    memory = models.step_bytes(unit.cell.source) * (unit.num_windows - 1)
    monkeypatch.setattr(cells, "windows_in_graph", lambda specs: models.windows_in_graph(specs, memory))
    (row,) = planning._count_rows(grid)
    assert row == whole | {"recomputed": repeats, "window_passes": whole["window_passes"] + 3 * repeats}
    said = [*planning.lines(planning.outlook(grid, (), None, str(tmp_path)))]
    assert sum("1 windows of a volume run forward twice a step" in line for line in said) == repeats


def measured(unit: Unit, second: int = 0, metrics: str = "hd95,dsc", **facts: Any) -> list[dict[str, Any]]:
    """Good records of a unit, half of its passes forward, that were stored in a second of a run."""
    half = unit.passes // 2
    finished = {"run_id": "r", "finished_at": datetime(2026, 1, 1, 0, 0, second, tzinfo=UTC)}
    good = {"status": "ok", "error": None, "metrics": metrics}
    told = {**finished, "num_forwards": half, "num_backwards": half, **facts}
    return [record | told | good for record in rows.failure(unit, "", told).records]


def estimated(monkeypatch: pytest.MonkeyPatch, content: Mapping[str, Any], out: Path, rate: float = 1e6) -> str:
    monkeypatch.setattr(costs, "_speed", lambda: (rate, 1.0))
    return [*planning.lines(planning.outlook(grid_of(content), (), None, str(out), price=36.0))][-1]


def test_estimate_goes_by_attack_s_own_rows_of_latest_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An earlier run was on a slower machine, and another attack's pass costs more; 16 passes and a record are left."""
    content = small(attacks=[{"name": "pgd", "eps": [0.01, 0.02, 0.03], "steps": 2}, {"name": "fgsm", "eps": 0.1}])
    before, now, _, other = grid_of(content).units()
    runs = [(before, "old", 1600.0), (now, "new", 160.0), (other, "new", 8000.0)]
    for second, (unit, run_id, attack_seconds) in enumerate(runs):
        records = measured(unit, second, run_id=run_id, attack_seconds=attack_seconds, score_seconds=200.0)
        Store(str(tmp_path)).writer(run_id, interval_s=0).add(records, [[]] * len(records))
    line = estimated(monkeypatch, content, tmp_path)
    assert line == "about 6 minutes left on one worker (from rows of the store or of earlier runs here), 3.60 at 36/h"


def test_a_rough_estimate_goes_by_the_speed_of_the_machine_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [estimated(monkeypatch, small(), tmp_path, rate) for rate in (1e6, 1e5)]
    assert all("left on one worker (rough: counted operations, at this machine's speed now)" in line for line in lines)
    cheap, dear = (float(line.split(", ")[-1].split()[0].replace(",", "")) for line in lines)
    assert dear / cheap == pytest.approx(10, rel=0.1)


def test_speed_of_machine_is_measured_and_leaves_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = torch.get_num_threads()
    rate, slower = costs._speed.__wrapped__()
    assert 1e7 < rate < 1e14
    assert slower >= 1
    assert torch.get_num_threads() == before


with_own_cache = pytest.mark.usefixtures("own_cache")


@with_own_cache
def test_store_without_rows_is_estimated_by_an_earlier_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """10 seconds a pass, 20 a record of its metrics, half of them due to load, which triples them now."""
    monkeypatch.setattr(costs, "_speed", lambda: (1e6, 3.0))
    (unit,) = grid_of(small()).units()
    fresh = Store(str(tmp_path / "other"))
    spent = costs.Spent()
    assert costs.estimate_costs([unit], ("dsc", "hd95"), fresh).basis == costs.ROUGH
    for record in measured(unit, attack_seconds=10.0 * unit.passes, score_seconds=20.0):
        spent.add(record, 2.0)
        spent.add(record | {"status": "failed"})  # it has no pace
    spent.remember()
    assert costs.estimate_costs([unit], ("dsc",), fresh).basis == costs.ROUGH
    estimate = costs.estimate_costs([unit], ("dsc", "hd95"), fresh)
    assert (estimate.total, estimate.basis) == (3 / 2 * (10.0 * unit.passes + 20.0), costs.BASIS)
    for file in tmp_path.glob("cache/networks/*.json"):
        file.write_text("[1]")
    assert costs.estimate_costs([unit], ("dsc", "hd95"), fresh).basis == costs.ROUGH


def test_network_without_rows_is_estimated_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One took 10 seconds a pass, the other as much longer as it has operations, 100 for each byte of its tensors."""
    monkeypatch.setattr(costs, "_speed", lambda: (1e12, 1.0))
    content = small(attacks=[{"name": "pgd", "eps": 0.1, "steps": 2}])
    content["models"] = job()["models"]
    known, unknown = grid_of(content).units()
    store = Store(str(tmp_path / "out"))
    records = measured(known, attack_seconds=10.0 * known.passes, score_seconds=20.0)
    store.writer("r", interval_s=0).add(records, [[], []])
    estimate = costs.estimate_costs([known, unknown], ("dsc",), store)
    seconds = [estimate.attack[costs.place(unit)] for unit in (known, unknown)]
    sources = [unit.cell.source for unit in (known, unknown)]
    operations = [models.forward_flops(source) + 100 * models.step_bytes(source) for source in sources]
    assert (seconds[0], seconds[1] / seconds[0]) == (10.0 * known.passes, pytest.approx(operations[1] / operations[0]))


@with_own_cache
def test_seconds_to_score_are_the_targets_with_its_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of a store, then the memory of a run: two targets take 7 and 3 seconds, with Dice alone a tenth of that."""
    monkeypatch.setattr(costs, "_speed", lambda: (1e6, 1.0))
    content = small(attacks=[{"name": "gn", "std": [0.1, 0.2]}])
    content["models"] = job()["models"]
    unit, other, *_ = grid_of(content).units()
    store = Store(str(tmp_path / "out"))
    spent = costs.Spent()
    writer = store.writer("r", interval_s=0)
    for second, (done, metrics, factor) in enumerate([(unit, "hd95,dsc", 1.0), (other, "dsc", 0.1)]):
        pairs = zip(measured(done, second, metrics), (7.0, 3.0), strict=True)
        records = [record | {"score_seconds": factor * seconds} for record, seconds in pairs]
        writer.add(records, [[]] * len(records))
        for record in records:
            spent.add(record)
    dear, cheap = (target.model_id for target in unit.targets)
    assert costs.measured_paces(store, ("dsc", "hd95"))[1] == {dear: 7.0, cheap: 3.0}
    estimates = [costs.estimate_costs([unit], ("dsc", "hd95"), store)]
    spent.remember()
    estimates.append(costs.estimate_costs([unit], ("dsc", "hd95"), None))
    assert [(each.scoring[costs.place(unit)], each.basis) for each in estimates] == [(10.0, costs.BASIS)] * 2
    assert costs.estimate_costs([unit], ("dsc", "ssim"), store).basis == costs.ROUGH


def test_a_large_volume_takes_longer_to_score_than_a_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without earlier runs: a million voxels a second, beside the prediction, which takes no time at this rate."""
    monkeypatch.setattr(costs, "_speed", lambda: (1e30, 1.0))
    (unit,) = grid_of(small(attacks=[{"name": "gn", "std": 0.1}])).units()
    voxels = math.prod(unit.cell.dataset.shape_in(unit.ref, unit.targets[0].space))
    scoring = costs.estimate_costs([unit], ("dsc",), None).scoring[costs.place(unit)]
    assert scoring == pytest.approx(1e-6 * voxels * len(unit.targets))


@pytest.mark.parametrize(
    ("patient", "shown"), [("phantom_20", "ph: 3 cases of 1 patient, over whom intervals are taken"), (None, None)]
)
def test_plan_counts_patients_of_several_cases(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], patient: str | None, shown: str | None
) -> None:
    content = {
        "name": "p",
        "datasets": [{"name": "ph", "loader": "phantom", "cases": 3, "patient": patient}],
        "models": [{"name": "u", "checkpoint": "zoo://phantom/unet"}],
        "attacks": [{"name": "fgsm", "eps": ["4/255"]}],
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(content))
    code, out, err = bench(capsys, "plan", str(tmp_path / "job.yaml"), "--out", str(tmp_path / "out"))
    assert code == 0, err
    assert ("over whom intervals are taken" in out) == (shown is not None)
    assert (shown or "") in out
