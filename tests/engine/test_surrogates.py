"""Attacks by surrogates: which models these are, what they are in an id, and who loads and hands them over."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engine.cases import grid_of, network_of, run_all, stored, units_of
from tiny_job import JOB, NUM_WINDOWS, SHAPE, execute, expanded, noted, small

import freqbench as fb
from freqbench.attacks import make
from freqbench.audit import computing
from freqbench.core.errors import UserError
from freqbench.engine import provenance
from freqbench.engine.worker import Worker, WorkerSpec
from freqbench.job import costs, plan
from freqbench.job.rehearsal import shrink_job
from freqbench.models import SegmentationModel, loading
from freqbench.results import Store

A, B = JOB["models"]
C = {**A, "name": "c", "checkpoint": "random:3"}
SECOND = {"name": "second", "loader": "phantom", "shape": SHAPE, "cases": 1}
PHANTOM = {"name": "phantom", "shape": SHAPE, "cases": 1}
BASES: dict[str, Any] = {
    "name": "bases",
    "eps": "8/255",
    "queries": 3,
    "steps": 2,
    "surrogates": [["b", "c"]],
    "sources": "a",
}


def content(*attacks: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return small(**{"attacks": list(attacks) or [BASES], "models": [A, B, C], "targets": "source", **changes})


def bases(**changes: Any) -> dict[str, Any]:
    return {**BASES, **changes}


def cells(*attacks: dict[str, Any], **changes: Any) -> Any:
    return grid_of(content(*attacks, **changes)).cells


def test_cell_has_named_models_and_counts_queries_alone() -> None:
    (cell,) = cells()
    assert (cell.source.name, [each.name for each in cell.surrogates]) == ("a", ["b", "c"])
    (row,) = run_all(content())[0].records
    assert (row["status"], row["source_model"], row["target_model"]) == ("ok", "a", "a")
    assert '"surrogates": ["b", "c"]' in row["params"]
    assert (row["num_forwards"], row["num_backwards"]) == (3 * NUM_WINDOWS, 0)
    (unit,) = units_of(content())
    assert [unit.passes_on(model) for model in unit.cell.models] == [3 * NUM_WINDOWS, *[12 * NUM_WINDOWS] * 2]


def test_a_plan_counts_the_surrogates_passes_too(tmp_path: Path) -> None:
    grid = grid_of(content())
    ((row,),) = [list(plan._count_rows(grid))]
    assert row["window_passes"] == (3 + 2 * 12) * NUM_WINDOWS
    whole = grid_of(content(bases(scope="volume")))
    windows = 2 * 2  # with half a window's overlap, on 24 and 20 voxels
    ((row,),) = [list(plan._count_rows(whole))]
    assert row["window_passes"] == (3 + 2 * 12) * windows
    assert plan.outlook(grid, (), None, str(tmp_path)).hours_left > 0  # type: ignore[operator]


@pytest.mark.integration
def test_seconds_of_surrogates_are_apart(tmp_path: Path) -> None:
    """A plan takes seconds a query for the attack itself, and for attacks without rows those of other attacks."""
    execute(content({"name": "fgsm", "eps": 0.1, "sources": "a"}), tmp_path)
    before, _ = costs.measured_paces(Store(str(tmp_path)), ("dsc",))
    execute(content({"name": "fgsm", "eps": 0.1, "sources": "a"}, BASES), tmp_path)
    after, _ = costs.measured_paces(Store(str(tmp_path)), ("dsc",))
    (cell,) = cells()
    source = cell.source.model_id
    assert after[source, None] == before[source, None] == after[source, "fgsm"]
    (row,) = [row for row in stored(tmp_path) if row["attack"] == "bases"]
    assert after[source, "bases"] == pytest.approx(row["attack_seconds"] / row["num_forwards"])


def test_volumes_through_sliding_windows_take_passes_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    real = SegmentationModel.forward
    asked = dict[int, int]()

    def counted(self: SegmentationModel, images: torch.Tensor, *rest: Any) -> torch.Tensor:
        asked[id(self)] = asked.get(id(self), 0) + len(images)
        return real(self, images, *rest)

    monkeypatch.setattr(SegmentationModel, "forward", counted)
    (unit,) = units_of(content(bases(scope="volume")))
    outcome, _ = Worker(WorkerSpec(run_id="r", metrics=())).run(unit)
    assert not outcome.failed
    assert sorted(asked.values()) == [3 * 4, *[6 * 4] * 2]
    assert outcome.records[0]["num_forwards"] == unit.passes_on(unit.cell.source) == 3 * 4


def test_weights_of_surrogate_are_in_id_and_its_name_is_not() -> None:
    (cell,) = cells()
    (other,) = cells(models=[A, B, {**C, "checkpoint": "random:4"}])
    (renamed,) = cells(bases(surrogates=[["b", "d"]]), models=[A, B, {**C, "name": "d"}])
    (beside,) = cells(models=[A, B, C, {**C, "name": "e", "checkpoint": "random:5"}])
    assert cell.cell_id == renamed.cell_id == beside.cell_id
    assert cell.cell_id != other.cell_id
    lists = [bases(surrogates=[names]) for names in (["b"], ["c"], ["c", "b"])]
    assert len({each.cell_id for each in cells(*lists)}) == 3
    plain = replace(cell, attack=make("fgsm", eps=0.1))  # as an audit makes cells of others
    assert plain.cell_id == replace(plain, surrogates=()).cell_id


def test_surrogates_new_weights_alone_are_attacked_anew(tmp_path: Path) -> None:
    for checkpoint, new in (("random:3", 1), ("random:3", 0), ("random:4", 1)):
        changed = content(models=[A, B, {**C, "checkpoint": checkpoint}], metrics=["dsc"])
        assert execute(changed, tmp_path).num_new == new


def test_a_model_is_no_surrogate_of_itself() -> None:
    """Each is attacked by all others of the list, and a line says so."""
    everyone = bases(surrogates=[["a", "b", "c"]], sources=["a", "b"])
    _, grid = expanded(content(everyone))
    first, second = grid.cells
    assert [each.name for each in first.surrogates] == ["b", "c"]
    assert [each.name for each in second.surrogates] == ["a", "c"]
    expected = [f"bases: {name} is no surrogate of itself: left out there" for name in ("a", "b")]
    assert [text for text in grid.warnings if "surrogate" in text] == expected
    assert '"surrogates": ["a", "c"]' in grid.cells[1].params
    (cell,) = cells(everyone | {"sources": "a"})
    assert cell.cell_id == cells()[0].cell_id


def test_an_ensemble_with_the_target_is_no_surrogate() -> None:
    (cell,) = cells(bases(surrogates=[["mean", "c"]]), models=[A, B, C, {"name": "mean", "ensemble": ["a", "b"]}])
    assert [each.name for each in cell.surrogates] == ["c"]


WIDE = {**A, "name": "wide", "roi": [24, 16, 16]}
OTHER = {**A, "name": "other", "checkpoint": "random:9", "datasets": ["second"]}


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"surrogates": [["b", "d"]]}, "attacks[0].surrogates: unknown model 'd'"),
        ({"surrogates": [["b", "other"]]}, "bases.surrogates: unknown model 'other'"),
        (
            {"surrogates": [["a"]]},
            "bases.surrogates: expected other models of the job than a, which is attacked, got "
            "a: name some, or say in sources which models to attack",
        ),
        ({"surrogates": [[]]}, "expected other models of the job than a, which is attacked, got none: name some"),
        (
            {"surrogates": [["wide", "b"]]},
            "bases.surrogates: expected models of the same roi as a, (16, 16, 16), got "
            "(24, 16, 16) of wide: state one for both, or leave it out",
        ),
        (
            {"surrogates": ["b", "c"]},
            "attacks[0].surrogates: expected names of models, each once (in a job file a list "
            "of lists, [[unetr, segresnet]]), got 'b'",
        ),
        ({"surrogates": [["b", "b"]]}, "attacks[0].surrogates: expected names of models, each once"),
    ],
)
def test_surrogates_that_cannot_be_are_refused_in_one_line(entry: Any, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        cells(bases(**entry), models=[A, B, C, WIDE, OTHER], datasets=[PHANTOM, SECOND])
    assert str(caught.value).startswith("job.yaml: ")
    assert expected in str(caught.value)


def test_worker_loads_each_model_once_and_hands_over_those_named(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = noted(monkeypatch, loading, "load", lambda spec, *_: spec.name)
    outcomes = run_all(content(bases(sources=["a", "b"], surrogates=[["a", "c"]], queries=[1, 2])))
    assert not any(outcome.failed for outcome in outcomes)
    assert sorted(loaded) == ["a", "b", "c"]


def test_volumes_are_those_of_the_attack_with_these_networks() -> None:
    (unit,) = units_of(content(bases(scope="volume"), datasets=[{"name": "phantom", "shape": [16] * 3, "cases": 1}]))
    attack = unit.cell.attack
    case = unit.cell.dataset.load(unit.ref)
    a, b, c = (network_of(spec) for spec in unit.cell.models)
    attacked = attack(a, case.image[None], case.label[None], surrogates=[b, c])
    distances = Worker(WorkerSpec(run_id="r", metrics=())).distances(unit.cell, unit.ref, ("l2",))
    assert distances.values["l2"] == pytest.approx(float((attacked.adversarial - case.image).norm()), rel=1e-5)
    swapped = attack(a, case.image[None], case.label[None], surrogates=[b, a])
    assert not torch.equal(swapped.adversarial, attacked.adversarial)


def test_a_run_s_file_has_the_fingerprints_of_surrogates() -> None:
    models = provenance.collect(grid_of(content()))["models"]
    assert sorted(model["name"] for model in models.values()) == ["a", "b", "c"]


def test_a_rehearsal_has_the_same_surrogates(tmp_path: Path) -> None:
    dry = shrink_job(expanded(content(bases(queries=50)))[0]).model_dump(exclude_unset=True)
    (cell,) = grid_of(dry).cells
    assert [each.name for each in cell.surrogates] == ["b", "c"]
    assert cell.attack.passes == (2, 0)
    execute(dry, tmp_path)
    assert {row["status"] for row in stored(tmp_path)} == {"ok"}


def loaded(entry: dict[str, Any], name: str, **changes: Any) -> fb.Model:
    settings = {"arch": "unet", "args": entry["args"], "roi": [16, 16, 16], "num_classes": 6, **changes}
    return fb.load_model(entry["checkpoint"], name=name, device="cpu", **settings)


@pytest.mark.integration
def test_surrogates_given_in_python_make_the_cell_of_the_job() -> None:
    a, b, c = (loaded(entry, entry["name"]) for entry in (A, B, C))
    case = fb.load_dataset("phantom", shape=SHAPE, cases=1)[0]
    parameters = {key: value for key, value in BASES.items() if key not in ("name", "sources", "surrogates")}
    attacked = fb.attack(a, case, "bases", surrogates=[b, c], **parameters)
    (cell,) = cells()
    assert (attacked.cell.cell_id, attacked.num_forwards, attacked.num_backwards) == (cell.cell_id, 3 * NUM_WINDOWS, 0)
    (row,) = run_all(content())[0].records
    assert fb.evaluate(a, case, attacked, metrics=["dsc"])["dsc"] == row["dsc"]


@pytest.mark.parametrize(
    ("surrogates", "expected"),
    [
        ((), "bases.surrogates: expected other models of the job than a, which is attacked, got none"),
        (("few",), "few: expected cases of 4 classes (background included), got 6 of phantom"),
        (("two",), "two: expected images [2, H, W, D], got [1, 24, 20, 16]"),
    ],
)
def test_python_refuses_impossible_surrogates_in_one_line(surrogates: tuple[str, ...], expected: str) -> None:
    kinds: dict[str, dict[str, Any]] = {"few": {"num_classes": 4}, "two": {"num_channels": 2}}
    made = {name: loaded(A, name, **kinds.get(name, {})) for name in ("a", *surrogates)}
    case = fb.load_dataset("phantom", shape=SHAPE, cases=1)[0]
    with pytest.raises(UserError) as caught:
        fb.attack(made["a"], case, "bases", eps="8/255", surrogates=[made[name] for name in surrogates])
    assert str(caught.value).startswith(expected)


def test_python_refuses_names_and_surrogates_of_other_attacks() -> None:
    a = loaded(A, "a")
    case = fb.load_dataset("phantom", shape=SHAPE, cases=1)[0]
    with pytest.raises(UserError, match="expected a model of load_model, got str"):
        fb.attack(a, case, "bases", eps="8/255", surrogates=["b"])  # type: ignore[list-item]
    with pytest.raises(UserError, match=r"^pgd\.surrogates: unknown parameter 'surrogates'"):
        fb.attack(a, case, "pgd", eps="8/255", surrogates=[loaded(B, "b")])


def test_audit_adds_null_rows_with_and_without_surrogates(tmp_path: Path) -> None:
    probe = computing.plan_cells(expanded(content())[0], str(tmp_path), 1, None, print, compute=False)
    surrogates = {
        (cell.attack.name, getattr(cell.attack, "control", None)): len(cell.surrogates)
        for cell in probe.grid.cells
        if cell.source.name == "a"
    }
    assert surrogates.pop(("bases", "none")) == surrogates.pop(("bases", "uniform")) == 2
    assert ("square", None) in surrogates
    assert {*surrogates.values()} == {0}
