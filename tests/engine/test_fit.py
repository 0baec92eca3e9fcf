"""Clean Dice below the expected one, gradients of zero and other cautions, in plan, run, rows and audit."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attacks.examples import SmallNet, every_attack, example, generators, volumes
from data.downloads import put
from engine.cases import CUBE, grid_of, stored
from rich.console import Console
from tiny_job import ARGS, ROI, execute, expanded, noted, save_weights, small

import freqbench as fb
from freqbench import models
from freqbench.audit.checks import audited, gathered
from freqbench.core.errors import MisfitError, UserError
from freqbench.engine import memory, run, scoring
from freqbench.engine.attacking import caution_of
from freqbench.engine.critic import Critic, Judgement
from freqbench.engine.run import Recorder
from freqbench.engine.worker import Worker, WorkerSpec
from freqbench.job.fit import CAUSES
from freqbench.job.plan import Plan, make_plan
from freqbench.models import build
from freqbench.results import Store

SHAPE = [16, 16, 16]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Weights that nobody trained, in a file with freqbench's record, as if somebody had."""
    path = tmp_path_factory.mktemp("weights") / "own.safetensors"
    save_weights(path, seed=3)
    return str(path)


def carry_out(
    out: Path, checkpoint: str, expected: float | None, cases: int = 2, engine: run.Engine = "serial", **changes: Any
) -> list[str]:
    said = io.StringIO()
    phantoms = [{**CUBE, "cases": cases}]
    entry = {"name": "m", "checkpoint": checkpoint, "roi": ROI, "expected_dice": expected}
    execute(small(**{"datasets": phantoms, "models": [entry], "metrics": ["dsc"], **changes}), out, said, engine)
    return said.getvalue().splitlines()


every_engine = pytest.mark.parametrize("engine", ["serial", pytest.param("ray", marks=pytest.mark.integration)])


@every_engine
def test_network_below_half_is_not_attacked(checkpoint: str, tmp_path: Path, engine: run.Engine) -> None:
    with pytest.raises(MisfitError) as stop:
        carry_out(tmp_path, checkpoint, None, cases=3, engine=engine)
    store = Store(str(tmp_path))
    *_, last = store.runs()
    (judged,) = last["clean"]
    misfit = (
        f"m on phantom: clean foreground Dice {judged['dice']:.3f} (3 cases): below 0.5, and no expected_dice says "
        f"that it is the network's own: {CAUSES}"
    )
    way_on = "state what its training used; if this is its own figure, give m expected_dice: VALUE"
    assert str(stop.value) == f"{misfit}; no attack has begun: {way_on}"
    assert (last["status"], last["warnings"], judged["cases"], judged["verdict"]) == ("stopped", [misfit], 3, "misfit")
    assert len(store.records()) == 0


@every_engine
def test_network_as_good_as_expected_is_attacked(checkpoint: str, tmp_path: Path, engine: run.Engine) -> None:
    lines = carry_out(tmp_path, checkpoint, 0.01, engine=engine)
    store = Store(str(tmp_path))
    rows = store.records().to_pylist()
    mean = sum(row["dsc_foreground_clean"] for row in rows) / 2
    first = lines.index("clean predictions: 2 of 2")
    assert lines[first + 1] == f"m on phantom: clean foreground Dice {mean:.3f} (2 cases), expected_dice 0.01"
    assert not any(" records stored" in line and not line.startswith("0 of") for line in lines[:first])
    judged = {"dataset": "phantom", "target_model_id": rows[0]["target_model_id"], "cases": 2, "verdict": "fits"}
    assert store.runs()[-1]["clean"] == [judged | {"dice": pytest.approx(mean), "proof": None}]


def test_clean_prediction_serves_the_attack(checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = noted(monkeypatch, scoring, "score_clean", lambda prediction, case, *_: case.ref.case_id)
    carry_out(tmp_path, checkpoint, 0.01)
    assert sorted(made) == ["phantom_2000", "phantom_2001"]


def test_clean_unit_tells_dice_of_rows_and_classes_of_both_maps(checkpoint: str) -> None:
    plan = plan_of(checkpoint)
    worker = Worker(WorkerSpec(run_id="r", metrics=("dsc",)))
    (unit,) = Critic(plan).clean_units()
    outcome, _ = worker.run(unit)
    (facts,) = outcome.clean
    (row,) = worker.run(plan.units[0])[0].records
    assert outcome.records == ()
    assert facts["dsc_foreground_clean"] == row["dsc_foreground_clean"]
    case = unit.cell.dataset.load(unit.ref)
    assert facts["label_classes"] == {*case.label.unique().tolist()} - {0}
    pred = fb.models.predict(fb.models.load(unit.targets[0], torch.device("cpu")), case.image)
    assert facts["pred_classes"] == {*pred.unique().tolist()} - {0}


def plan_of(checkpoint: str, **keys: Any) -> Plan:
    entry = {"name": "m", "checkpoint": checkpoint, "roi": ROI, "expected_dice": None, **keys}
    return make_plan(grid_of(small(models=[entry], datasets=[CUBE])), {})


def judgement(plan: Plan, **facts: Any) -> Judgement | None:
    (unit,) = plan.units
    _, case_key, model_id = unit.cell.key(unit.ref, unit.targets[0])
    named = {"dataset": "phantom", "target_model_id": model_id, "case_key": case_key, "patient_id": "p"}
    return Critic(plan).judge({**named, "dsc_foreground_clean": 0.9, **facts})


def test_class_never_predicted_is_a_misfit(checkpoint: str) -> None:
    gap = {"label_classes": {1, 2, 3}, "pred_classes": {1, 4}}
    stopped, stated = (judgement(plan_of(checkpoint, **keys), **gap) for keys in ({}, {"expected_dice": 0.9}))
    assert stopped is not None
    assert stated is not None
    names = ", ".join(plan_of(checkpoint).units[0].cell.dataset.class_names[2:4])
    said = f"clean foreground Dice 0.900 (1 case), but labels have {names}, and no prediction has: {CAUSES}"
    assert (stopped.misfit, stated.misfit, stated.has_gap) == (f"m on phantom: {said}", None, True)
    all_of = judgement(plan_of(checkpoint), **gap | {"pred_classes": {1, 2, 3}})
    assert all_of is not None
    assert all_of.misfit is None


def test_case_without_foreground_or_prediction_counts_no_further(checkpoint: str) -> None:
    assert judgement(plan_of(checkpoint), dsc_foreground_clean=float("nan")) is None
    assert judgement(plan_of(checkpoint), dsc_foreground_clean=None, error="of it") is None


def test_untrained_weights_are_judged_if_expected(tmp_path: Path) -> None:
    torch.save(build("unet", 6, ROI, dict(ARGS), seed=3).state_dict(), tmp_path / "fresh.pt")
    fresh = {"arch": "unet", "args": ARGS}
    path = str(tmp_path / "fresh.pt")
    stated = {**fresh, "expected_dice": 0.8}
    plans = plan_of(path, **fresh), plan_of(path, **stated), plan_of("random", **stated)
    assert [bool(Critic(plan).unjudged) for plan in plans] == [False, True, False]


def test_an_ensemble_is_judged_by_its_own_expected_dice(checkpoint: str) -> None:
    members = [{"name": n, "checkpoint": checkpoint, "roi": ROI, "expected_dice": 0.3} for n in "ab"]
    members[1]["inference"] = {"overlap": 0.25}
    ensemble = {"name": "e", "ensemble": ["a", "b"], "inference": {}, "expected_dice": 0.7}
    _, grid = expanded(small(models=[*members, ensemble]))
    assert {cell.source.name: cell.source.expected_dice for cell in grid.cells} == {"a": 0.3, "b": 0.3, "e": 0.7}


@pytest.mark.parametrize("is_trained", [True, False], ids=["trained by the job", "scored again"])
def test_low_dice_of_a_trained_job_is_a_warning(checkpoint: str, tmp_path: Path, is_trained: bool) -> None:
    plan = plan_of(checkpoint)
    cell = plan.units[0].cell
    said = io.StringIO()
    if is_trained:
        cell = replace(cell, targets=(replace(cell.source, training="0" * 16),))
        plan = make_plan(replace(plan.grid, cells=(cell,)), {})
    recorder = Recorder(Store(str(tmp_path)), plan, Console(file=said, width=80), attacks=is_trained)
    assert bool(recorder.plan_clean().clean) != is_trained
    key = cell.key(plan.units[0].ref, cell.targets[0])
    row = dict(zip(("case_key", "target_model_id"), key[1:], strict=True)) | {"dataset": "phantom", "patient_id": "p"}
    recorder._require_fit({**row, "dsc_foreground_clean": 0.1})
    assert said.getvalue().startswith("warning: m on phantom: clean foreground Dice 0.100 (1 case): below 0.5")


def test_repeated_command_judges_from_rows(checkpoint: str, tmp_path: Path) -> None:
    carry_out(tmp_path, checkpoint, 0.01)
    two = [{"name": "fgsm", "eps": ["4/255", "8/255"]}]
    with pytest.raises(MisfitError, match=r"\(2 cases\), expected_dice 0.9: below half of it"):
        carry_out(tmp_path, checkpoint, 0.9, attacks=two)
    assert len(Store(str(tmp_path)).records()) == 2
    lines = carry_out(tmp_path, checkpoint, 0.01, attacks=two)
    assert not [line for line in lines if line.startswith("clean predictions")]
    assert [line for line in lines if "(2 cases), expected_dice 0.01" in line]
    lines = carry_out(tmp_path, checkpoint, 0.01, cases=3, attacks=two)
    assert "clean predictions: 1 of 1" in lines
    assert [line for line in lines if "(3 cases), expected_dice 0.01" in line]
    assert not [line for line in carry_out(tmp_path, checkpoint, 0.9, cases=3, attacks=two) if "Dice" in line]


def test_unpredictable_case_fails_its_attacks(checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = memory.segment

    def segment(model: Any, case: Any, *args: Any) -> Any:
        if case.ref.case_id == "phantom_2001":
            raise RuntimeError("no such luck")
        return real(model, case, *args)

    monkeypatch.setattr(memory, "segment", segment)
    lines = carry_out(tmp_path, checkpoint, 0.01)
    assert "failed: clean prediction of phantom_2001: RuntimeError: no such luck" in lines
    assert [line for line in lines if "(1 case), expected_dice 0.01" in line]
    statuses = {row["case_id"]: row["status"] for row in stored(tmp_path)}
    assert statuses == {"phantom_2000": "ok", "phantom_2001": "failed"}


def test_python_cautions_of_a_low_mean_clean_dice(checkpoint: str) -> None:
    cases = fb.load_dataset("phantom", shape=SHAPE, split="test")[:3]

    def cautions(**keys: Any) -> list[Any]:
        model = fb.load_model(checkpoint, **keys)
        return [fb.evaluate(model, case, case.image, metrics=["dsc"])["caution"] for case in cases]

    assert all("below 0.5, and no expected_dice" in str(said) for said in cautions())
    assert cautions(expected_dice=0.01) == [None] * 3
    assert " (3 cases), expected_dice 0.87: lower by more than two" in str(cautions(expected_dice=0.87)[2])


ZERO, USEFUL, PARTLY, NONE = (torch.tensor([f]) for f in ([False, True], [True, True], [True, False], [False, False]))


def scaled(folder: Path, scale: float) -> list[dict[str, Any]]:
    """The entry of an untrained network whose weights are all so many times as large."""
    weights = {key: scale * w for key, w in models.build("unet", 6, (16, 16, 16), ARGS, seed=0).state_dict().items()}
    metadata = {"arch": "unet", "args": ARGS, "roi": ROI, "num_classes": 6}
    models.save_checkpoint(str(folder / "h.safetensors"), weights, metadata, half=False)
    return [{"name": "huge", "checkpoint": str(folder / "h.safetensors")}]


def test_gradients_of_nan_fail_the_row(tmp_path: Path) -> None:
    summary = execute(small(models=scaled(tmp_path, 1e18)), tmp_path / "out")
    (row,) = stored(tmp_path / "out")
    assert (summary.num_failed, row["status"]) == (1, "failed")
    assert row["error"].startswith("huge: expected finite gradients of the network, got NaN or infinities")


@pytest.mark.parametrize("scope", ["window", "volume"])
def test_gradients_of_zero_are_said_in_row_run_and_audit(tmp_path: Path, scope: str) -> None:
    """Weights are so large that a Dice over probabilities of 0 and 1 is flat, as that of a masked network."""
    said = io.StringIO()
    out = tmp_path / "out"
    attacks = [{"name": name, "eps": "8/255", "loss": "dice", "scope": scope} for name in ("fgsm", "pgd")]
    execute(small(models=scaled(tmp_path, 1e10), attacks=attacks, metrics=["dsc"]), out, said)
    rows = stored(out)
    assert [row["status"] for row in rows] == ["ok", "ok"]
    assert {row["caution"] for row in rows} == {"every gradient was 0: the attack had nothing to follow"}
    warned = " ".join(said.getvalue().split())
    assert warned.count("2 records say little about their model, most of them of pgd on huge: every gradient") == 1
    assert any("say little about their model" in path.read_text() for path in out.glob("runs/*.json"))
    (finding,) = [each for each in audited(gathered([Store(str(out))])) if each.check == "zero_gradients"]
    assert finding.verdict == "violated"
    assert finding.sentence.startswith("100.0 % of the rows of fgsm")


@pytest.mark.parametrize(
    ("gradients", "caution"),
    [
        ([USEFUL, ZERO], None),
        ([ZERO, ZERO], "every gradient was 0: the attack had nothing to follow"),
        ([ZERO, PARTLY], "some gradients had NaN or infinities: the attack took these voxels for settled"),
    ],
)
def test_one_gradient_of_use_is_enough(gradients: list[torch.Tensor], caution: str | None) -> None:
    assert caution_of("m", gradients) == caution


def test_no_gradient_of_use_and_one_of_nan_is_refused() -> None:
    with pytest.raises(UserError, match="m: expected finite gradients"):
        caution_of("m", [ZERO, NONE])


@pytest.mark.parametrize(("tile", "caution"), [(1.0, None), (0.0, "every gradient was 0: the attack learned nothing")])
def test_an_attack_that_learned_nothing_says_so(tile: float, caution: str | None) -> None:
    assert caution_of("m", [USEFUL[:0]], torch.full((1, 2, 2, 2), tile)) == caution


@every_attack
def test_an_attack_tells_of_each_gradient_that_it_follows(name: str) -> None:
    images, labels = volumes()
    result = example(name)(SmallNet(), images, labels, generator=generators(1, 2))
    assert caution_of("m", [result.gradients]) is None
    assert bool(len(result.gradients)) == bool(result.num_backwards or name == "bases")  # whose are of surrogates


def test_reason_in_files_is_no_masked_gradient(tmp_path: Path) -> None:
    """HU + 1024 in the window of HU: every labelled voxel is clipped to 1."""
    rng = np.random.default_rng(0)
    image = np.zeros((20, 18, 16), np.float32)
    image[3:17, 3:15, 2:14] = 1060 + rng.normal(0, 8, (14, 12, 12))
    label = np.zeros(image.shape, np.uint8)
    label[6:12, 6:12, 4:10] = 1
    for name, voxels in (("i", image), ("l", label)):
        put(tmp_path / f"{name}.nii.gz", voxels)
    listed = {"labels": {"0": "air", "1": "organ"}, "test": [{"image": "i.nii.gz", "label": "l.nii.gz"}]}
    (tmp_path / "dataset.json").write_text(json.dumps(listed))
    window = {"intensity": {"window": [-175, 250]}, "crop_foreground": False}
    data = {"name": "d", "loader": "decathlon", "root": str(tmp_path), **window}
    said = io.StringIO()
    execute(small(datasets=[data], metrics=["dsc"]), tmp_path / "out", said)
    (row,) = stored(tmp_path / "out", ("caution",))
    assert row["caution"].startswith("i.nii.gz: expected intensities on the scale of the window [-175, 250]")
    assert "100% of labelled voxels clipped to 1" in row["caution"]
    warned = " ".join(said.getvalue().split())
    assert warned.count("subtract 1024") == 1
    assert "say little about their model" not in warned
    (finding,) = [each for each in audited(gathered([Store(str(tmp_path / "out"))])) if each.check == "zero_gradients"]
    assert finding.verdict == "not checked"
