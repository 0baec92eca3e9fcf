"""The grid of `converge`: which attacks are multiplied, by what, and the job that says the same."""

import json
import re
from collections.abc import Sequence
from typing import Any

import pytest
from tiny_job import JOB, expanded, job

from freqbench.core import config
from freqbench.core.errors import UserError
from freqbench.job.effort import Effort, Varied, vary_attacks
from freqbench.job.grid import expand
from freqbench.job.schema import JobSpec

EFFORT = Effort(steps=(2, 4), queries=(3, 6), losses=("dice", "ce"), restarts=(1, 3))


def variants(attacks: Sequence[dict[str, Any]], effort: Effort = EFFORT, **changes: Any) -> Varied:
    models = {"models": JOB["models"][:1]} | changes
    return vary_attacks(config.validate(job(attacks=list(attacks), **models), JobSpec, "job.yaml"), effort, 1)


def efforts(given: Varied) -> list[tuple[Any, ...]]:
    return [tuple(entry.get(name) for name in ("steps", "loss", "restarts")) for entry in given.entries.values()]


def test_losses_that_change_are_for_attacks_whose_steps_follow_a_cosine() -> None:
    losses = Effort(steps=(2, 4), losses=("dice", "switch"), restarts=(1,))
    given = variants([{"name": "pgd", "eps": 0.1}, {"name": "sa2_opt", "rho": 0.2, "block": 8}], losses)
    taken = {(cell.attack.name, cell.attack.loss) for cell in given.grid.cells}
    assert taken == {("pgd", "dice"), ("sa2_opt", "dice"), ("sa2_opt", "switch")}


OF_STEPS = [(steps, loss, restarts) for steps in (2, 4) for loss in ("dice", "ce") for restarts in (1, 3)]


@pytest.mark.parametrize(
    ("attack", "effort", "expected"),
    [
        ({"name": "pgd", "eps": "8/255"}, EFFORT, OF_STEPS),
        ({"name": "pgd", "eps": "8/255", "steps": [10, 20]}, EFFORT, OF_STEPS),
        ({"name": "vafa", "q_max": 20}, EFFORT, [(*of, 1) for *of, restarts in OF_STEPS if restarts == 1]),
        ({"name": "segpgd", "eps": "8/255"}, EFFORT, [(2, None, 1), (2, None, 3), (4, None, 1), (4, None, 3)]),
        ({"name": "vafa", "q_max": 20}, Effort(steps=(2, 4), losses=("dicece",)), [(2, "dicece", 1), (4, "dicece", 1)]),
        (
            {"name": "autoattack", "eps": 0.1, "queries": 7},
            Effort(steps=(4, 8), restarts=(1,)),
            [(4, None, 1), (8, None, 1)],
        ),
    ],
    ids=[
        "draws",
        "steps of its own",
        "draws nothing",
        "loss of its own",
        "loss of its variant",
        "ensemble of a search",
    ],
)
def test_an_attack_is_multiplied_by_what_it_takes(
    attack: dict[str, Any], effort: Effort, expected: list[tuple[Any, ...]]
) -> None:
    assert efforts(variants([attack], effort)) == expected


def test_attacks_without_gradient_steps_and_null_rows_are_left_out() -> None:
    attacks = [
        *({"name": "fgsm", "eps": "8/255"}, {"name": "gn", "std": "8/255"}),
        *({"name": "almaprox"}, {"name": "sa2", "rho": 0.4, "control": ["none", "random"]}),
    ]
    given = variants(attacks)
    assert given.left_out == ("fgsm", "gn", "almaprox")
    assert {cell.attack.name for cell in given.grid.cells} == {"sa2"}
    assert all("control" not in entry for entry in given.entries.values())


def test_a_search_is_multiplied_by_queries_and_by_what_else_it_takes() -> None:
    attacks = [{"name": name, "eps": "8/255", "queries": [10, 20]} for name in ("square", "rays")]
    given = variants(attacks, Effort(queries=(3, 6), losses=("dice",)))
    names = ("name", "steps", "queries", "loss", "restarts")
    assert [tuple(entry.get(name) for name in names) for entry in given.entries.values()] == [
        *(("square", None, queries, "dice", restarts) for queries in (3, 6) for restarts in (1, 3)),
        *(("rays", None, queries, None, None) for queries in (3, 6)),
    ]
    assert given.left_out == ()


def test_a_search_by_gradients_of_surrogates_is_multiplied_by_queries_and_keeps_its_steps() -> None:
    """Its null row asks as often, and is left out like every other."""
    attack = {"name": "bases", "eps": "8/255", "steps": 5, "surrogates": [["b"]], "sources": "a"}
    attack["control"] = ["none", "uniform"]
    given = variants([attack], Effort(queries=(3, 6), losses=("dice",)), models=JOB["models"])
    parts = [(entry["steps"], entry["queries"], entry["surrogates"]) for entry in given.entries.values()]
    assert parts == [(5, 3, [["b"]]), (5, 6, [["b"]])]
    assert {cell.surrogates[0].name for cell in given.grid.cells} == {"b"}


def test_cells_are_scored_on_their_own_model_in_full_precision() -> None:
    given = variants([{"name": "pgd", "eps": "8/255"}], models=JOB["models"], precision="bf16")
    assert all(cell.targets == (cell.source,) for cell in given.grid.cells)
    assert {cell.precision for cell in given.grid.cells} == {"fp32"}


def test_the_cases_are_the_first_ones() -> None:
    given = variants([{"name": "pgd", "eps": "8/255"}])
    assert [ref.case_id for ref in given.grid.cases["phantom"]] == [expanded(job())[1].cases["phantom"][0].case_id]


@pytest.mark.parametrize(
    "attack",
    [
        {"name": "apgd", "eps": ["4/255", 0.0313], "eps_schedule": [[[2, 0.5], [1, 0.5]]]},
        {"name": "vafa", "q_max": 20, "block": "8x8x16", "ssim_weight": 0},
        {"name": "pgd", "eps": "8/255", "organs": [[1, 2]], "target": {"erase": 1}},
        {"name": "pgd", "eps": "8/255", "sources": ["b"]},
    ],
    ids=lambda attack: attack["name"],
)
def test_the_job_of_the_store_expands_to_the_same_cells(attack: dict[str, Any]) -> None:
    """run.json keeps this form."""
    given = variants([attack], models=JOB["models"])
    spec = JobSpec.model_validate(json.loads(json.dumps(given.grid.job.model_dump(mode="json"))))
    cells = {cell.cell_id for cell in expand(spec, 1).cells}
    assert cells == set(given.entries) == {cell.cell_id for cell in given.grid.cells}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"steps": (10, 5)}, "--steps: expected two or more whole numbers of at least 1 that increase"),
        ({"steps": (10, 10)}, "such as 5,10,20, got 10,10"),
        ({"steps": (10,)}, "--steps: expected two or more"),
        ({"steps": (0, 10)}, "--steps: expected two or more"),
        (
            {"queries": (10,)},
            "--queries: expected two or more whole numbers of at least 1 that increase, such as 100",
        ),
        ({"restarts": (3, 1)}, "--restarts: expected whole numbers of at least 1 that increase, such as 1,3, got 3,1"),
        ({"losses": ()}, "--losses: expected one or more"),
        ({"losses": ("dise",)}, "--losses: unknown loss 'dise'. Did you mean 'dice'?"),
    ],
)
def test_an_effort_that_cannot_be_is_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=re.escape(complaint)):
        Effort(**changes)


def test_a_loss_that_regions_lack_is_refused() -> None:
    content = job(
        datasets=[{"name": "lesions", "loader": "phantom", "regions": True, "shape": [16, 16, 16], "cases": 1}],
        models=[{**JOB["models"][0], "outputs": "sigmoid"}],
        attacks=[{"name": "pgd", "eps": "8/255"}],
    )
    with pytest.raises(
        UserError, match=r"^job.yaml: pgd.loss: expected a loss that regions have, .*, got dlr: take ano"
    ):
        vary_attacks(config.validate(content, JobSpec, "job.yaml"), Effort(losses=("dice", "dlr")), 1)


def test_a_job_without_a_gradient_attack_is_refused() -> None:
    attacks = [{"name": "fgsm", "eps": "8/255"}, {"name": "gn", "std": "8/255"}]
    text = "expected one that follows a gradient in steps or searches by queries, got fgsm, gn: add one"
    with pytest.raises(UserError, match=re.escape(f"job.yaml: attacks: {text}")):
        variants(attacks)


@pytest.mark.parametrize(
    ("attack", "effort", "complaint"),
    [
        ("sea", Effort(steps=(2, 8)), "job.yaml: sea.steps: expected at least 4"),
        ("pgd", Effort(losses=("dlr-targeted",)), "job.yaml: pgd.loss: expected a target rule beside dlr-targeted"),
    ],
)
def test_a_refusal_by_an_attack_names_it(attack: str, effort: Effort, complaint: str) -> None:
    with pytest.raises(UserError, match=re.escape(complaint)):
        variants([{"name": attack, "eps": "8/255"}], effort)
