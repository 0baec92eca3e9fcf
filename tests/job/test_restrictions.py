"""`datasets` and `sources`: which models and attacks are for which datasets, and whose gradients attacks follow."""

from typing import Any

import pytest
from tiny_job import ARGS, JOB, SHAPE, expanded, job

from freqbench.core.errors import UserError
from freqbench.core.names import ALIASES
from freqbench.engine.matching import match_budgets
from freqbench.job.rehearsal import SMALL_ARGS
from freqbench.job.sweep import AttackEntry
from freqbench.models import MODELS

DATASETS = [
    {"name": "x", "loader": "phantom", "shape": SHAPE, "cases": 1},
    {"name": "y", "loader": "stand_in", "shape": SHAPE, "cases": 1, "classes": ["background", "organ"]},
]
A, B = JOB["models"]
FGSM, GN = {"name": "fgsm", "eps": "8/255"}, {"name": "gn", "std": "8/255"}


def cells(models: list[dict[str, Any]] | None = None, attacks: Any = (FGSM,), **changes: Any) -> list[tuple[str, ...]]:
    _, grid = expanded(job(datasets=DATASETS, models=models or [A, B], attacks=list(attacks), **changes))
    return [(cell.dataset.name, cell.source.name, cell.attack.name) for cell in grid.cells]


def test_a_model_is_attacked_on_its_datasets_alone() -> None:
    assert cells([{**A, "datasets": ["x"]}, {**B, "datasets": ["y"]}]) == [("x", "a", "fgsm"), ("y", "b", "fgsm")]


def test_a_target_that_is_named_scores_where_it_is_for() -> None:
    _, grid = expanded(job(datasets=DATASETS, models=[{**A, "datasets": ["x"]}, B], attacks=[FGSM], targets=["a", "b"]))
    assert {(cell.dataset.name, len(cell.targets)) for cell in grid.cells} == {("x", 2), ("y", 1)}


def test_an_ensemble_has_members_of_its_own_datasets() -> None:
    models = [{**A, "datasets": ["x"]}, B, {"name": "e", "ensemble": ["a", "b"], "datasets": ["x"]}]
    assert [source for dataset, source, _ in cells(models) if dataset == "x"] == ["a", "b", "e"]
    with pytest.raises(UserError, match=r"models\[2\]: e: ensemble: unknown model 'a'. .*Known: b"):
        cells([*models[:2], {"name": "e", "ensemble": ["a", "b"]}])


@pytest.mark.parametrize("datasets", ["x", ["x"]])
def test_an_attack_is_made_on_its_datasets_alone(datasets: object) -> None:
    assert cells([A], [{**FGSM, "datasets": datasets}, GN]) == [("x", "a", "fgsm"), ("x", "a", "gn"), ("y", "a", "gn")]


def test_attack_follows_its_sources_alone_and_is_scored_on_all() -> None:
    _, grid = expanded(job(attacks=[{**FGSM, "sources": "b"}]))
    assert [(cell.source.name, len(cell.targets)) for cell in grid.cells] == [("b", 2)]


def test_matched_budgets_are_found_on_models_of_dataset_alone(tmp_path: Any) -> None:
    models = [{**A, "datasets": ["x"]}, {**B, "datasets": ["y"]}]
    attack = {"name": "fgsm", "match": {"metric": "l2_body", "value": 1.0}, "sources": ["a"]}
    spec = expanded(job(datasets=DATASETS, models=models, attacks=[GN]))[0].model_copy(
        update={"attacks": [AttackEntry(**attack)]}
    )
    (entry,) = match_budgets(spec, str(tmp_path), lambda text: None, compute=False).attacks
    assert [(row.dataset, row.source) for row in entry.matched or ()] == [("x", "a")]


def test_a_restriction_is_in_no_identity() -> None:
    ids = [
        {cell.cell_id for cell in expanded(job(models=[{**A, **more}], attacks=[{**FGSM, **more}]))[1].cells}
        for more in ({}, {"datasets": ["phantom"]})
    ]
    assert ids[0] == ids[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": [{**A, "datasets": ["z"]}]}, r"models\[0\].datasets: unknown dataset 'z'. .*Known: x, y"),
        ({"models": [{**A, "datasets": []}]}, r"models\[0\].datasets: .* at least 1"),
        ({"models": [{**A, "datasets": ["x"]}]}, r"models: expected one for y, got none: give one without `datasets`"),
        (
            {"models": [{**A, "datasets": ["x", "y"]}, {**B, "name": "a", "datasets": ["y"]}]},
            r"models\[1\].name: 'a' is taken",
        ),
        ({"attacks": [{**FGSM, "datasets": ["z"]}]}, r"attacks\[0\].datasets: unknown dataset 'z'"),
        ({"attacks": [{**FGSM, "sources": ["c"]}]}, r"attacks\[0\].sources: unknown source 'c'. .*Known: a, b"),
        ({"attacks": [{**FGSM, "sources": []}]}, r"attacks\[0\].sources: unknown source '\[\]'"),
    ],
)
def test_a_restriction_to_nothing_that_is_known_is_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        cells(**changes)


PARAMETERS = {"sa2": {"rho": 0.4}, "vafa": {"q_max": 20}, "vafa_2d": {"q_max": 20}}


def test_the_released_code_s_models_are_those_of_the_table() -> None:
    net = {"checkpoint": "random", "args": SMALL_ARGS["unetr"], "roi": [32] * 3}
    models = [{**net, "name": "m", "arch": arch, "datasets": [on]} for arch, on in (("unet-r", "x"), ("unetr", "y"))]
    _, grid = expanded(job(datasets=[DATASETS[0], {**DATASETS[0], "name": "y"}], models=models, attacks=[FGSM]))
    alias, own = (cell.source for cell in grid.cells)
    assert (alias.arch, alias.model_id) == (own.arch, own.model_id) == ("unetr", own.model_id)
    assert set(ALIASES["models"].values()) <= set(MODELS)


@pytest.mark.parametrize(("alias", "own"), ALIASES["attacks"].items())
def test_the_released_code_s_attacks_are_those_of_the_table(alias: str, own: str) -> None:
    lines = [
        expanded(job(models=[A], attacks=[{"name": name, **PARAMETERS[own], "block": 8}]))[1].cells[0]
        for name in (alias, own)
    ]
    assert lines[0].cell_id == lines[1].cell_id
    assert lines[0].attack.name == own


def test_models_of_one_name_keep_what_each_was_given() -> None:
    models = [{**A, "datasets": ["x"]}, {**A, "args": ARGS | {"channels": [4, 16]}, "datasets": ["y"]}]
    _, grid = expanded(job(datasets=DATASETS, models=models, attacks=[FGSM]))
    assert [cell.source.args["channels"] for cell in grid.cells] == [(4, 8), (4, 16)]


def test_the_released_code_s_dataset_is_that_of_the_table() -> None:
    from freqbench.job.schema import build_dataset

    datasets = [build_dataset({"name": name, "root": "somewhere"}, "job") for name in ("btcv", "synapse")]
    assert (type(datasets[0]), datasets[0].whole_recipe()) == (type(datasets[1]), datasets[1].whole_recipe())
