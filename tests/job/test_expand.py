"""Cells that a job multiplies into: its `datasets`, `sources`, organs, target rules, channels, longer attacks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from data import downloads
from engine.cases import grid_of
from tiny_job import ARGS, JOB, SHAPE, expanded, job, small

from freqbench.core import config
from freqbench.core.errors import UserError
from freqbench.core.names import ALIASES
from freqbench.engine.matching import match_budgets
from freqbench.job.attacks import counted_entry
from freqbench.job.cells import Cell
from freqbench.job.grid import Grid, expand, further_targets
from freqbench.job.rehearsal import SMALL_ARGS
from freqbench.job.schema import JobSpec
from freqbench.job.sweep import AttackEntry, parse_value
from freqbench.models import MODELS


def attacks(*entries: dict[str, Any], **changes: Any) -> list[tuple[Any, ...]]:
    _, grid = expanded(small(attacks=list(entries), **changes))
    return [(cell.attack, cell.seed) for cell in grid.cells]


def test_lists_multiply_in_the_order_of_the_file() -> None:
    pairs = [(attack.eps, attack.steps) for attack, _ in attacks({"name": "pgd", "eps": [0.1, 0.2], "steps": [1, 2]})]
    assert pairs == [(0.1, 1), (0.1, 2), (0.2, 1), (0.2, 2)]


def test_every_dataset_meets_every_source_attack_and_seed() -> None:
    datasets = [
        {**JOB["datasets"][0], "name": name, "loader": "phantom", "split": split}
        for name, split in (("x", "test"), ("y", "train"))
    ]
    _, grid = expanded(job(datasets=datasets, seeds=[0, 1], attacks=[{"name": "gn", "std": [0.1, 0.2]}]))
    assert (len(grid.cells), len(list(grid.units()))) == (2 * 2 * 2 * 2, 2 * len(grid.cells))


def test_an_equal_cell_stands_once() -> None:
    assert len(attacks({"name": "fgsm", "eps": [0.5, "1/2", 0.5]}, {"name": "fgsm", "eps": 0.5})) == 1


def test_seeds_multiply_attacks_that_draw_and_no_others() -> None:
    made = attacks(
        {"name": "gn", "std": 0.1},
        {"name": "pgd", "eps": 0.1, "random_start": [True, False]},
        {"name": "fgsm", "eps": 0.1},
        {"name": "bim", "eps": 0.1},
        seeds=[3, 4],
    )
    drawn = [("gn", 3), ("gn", 4), ("pgd", 3), ("pgd", 4)]
    expected = [*drawn, ("pgd", None), ("fgsm", None), ("bim", None)]
    assert [(attack.name, seed) for attack, seed in made] == expected


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8/255", 8 / 255),
        (" 8 / 255 ", 8 / 255),
        ("8x16x32", (8, 16, 32)),
        ("1e-3", 0.001),
        ("-2E2", -200.0),
        ("1/2/3", "1/2/3"),
        ("8/0", "8/0"),
        ("8x16x32x64", "8x16x32x64"),
        (["1/4", "a"], (0.25, "a")),
        ({"kind": "low", "limit": 8}, {"kind": "low", "limit": 8}),
        (None, None),
    ],
)
def test_values_as_a_job_file_writes_them(text: object, value: object) -> None:
    assert parse_value(text) == value


@pytest.mark.parametrize(
    ("targets", "expected"), [("all", {("a", "a", "b"), ("b", "a", "b")}), (["b", "b"], {("a", "b"), ("b", "b")})]
)
def test_all_targets_are_the_transfer_matrix(targets: Any, expected: set[tuple[str, ...]]) -> None:
    _, grid = expanded(job(targets=targets))
    transfers = set()
    for cell in grid.cells:
        transfers.add((cell.source.name, *(target.name for target in cell.targets)))
    assert transfers == expected


def test_limit_cases_takes_the_first_of_every_dataset() -> None:
    spec, grid = expanded(job())
    (ref,) = expand(spec, limit_cases=1).cases["phantom"]
    assert ref == grid.cases["phantom"][0]


def test_further_targets_of_the_job_keep_the_sources() -> None:
    spec, grid = expanded(job(targets="source"))
    further = further_targets(spec, ["b", "b"])
    expected = [cell.cell_id for cell in grid.cells]
    assert [cell.cell_id for cell in further.cells] == expected
    assert all([target.name for target in cell.targets] == ["b"] for cell in further.cells)


def test_further_target_job_s_own_checkpoint_is_its_model() -> None:
    spec, _ = expanded(job(models=[{"name": "mine", "checkpoint": "zoo://phantom/unet"}]))
    assert [target.name for target in further_targets(spec, ["zoo://phantom/unet"]).cells[0].targets] == ["mine"]


def test_a_further_target_may_be_given_a_name() -> None:
    spec, _ = expanded(job(models=[{"name": "unetr", "checkpoint": "zoo://phantom/unet"}]))
    with pytest.raises(UserError, match="'unetr' is a model of the job already: write NAME=zoo://phantom/unetr"):
        further_targets(spec, ["zoo://phantom/unetr"])
    with pytest.raises(UserError, match=r"^targets: models\[2\].name: 'unet' is taken already"):
        further_targets(spec, ["here/unet.pt", "elsewhere/unet.pt"])
    grid = further_targets(spec, ["other=zoo://phantom/unetr"])
    assert [target.name for target in grid.cells[0].targets] == ["other"]


def test_a_job_cannot_target_the_true_labels() -> None:
    expected = r"attacks\[0\].targeted: expected false, got true: .*: use target: least-likely, next-class"
    with pytest.raises(UserError, match=expected):
        expanded(job(attacks=[{"name": "pgd", "eps": "8/255", "targeted": True}]))


def test_warnings_of_attacks_are_kept_for_the_run() -> None:
    _, grid = expanded(job(attacks=[{"name": "vafa", "variant": "paper", "q_max": [30, 40], "block": 8, "steps": 5}]))
    assert len(grid.warnings) == 2
    assert "q_max = 30 has no effect" in grid.warnings[0]


def test_job_knows_its_file_and_never_stores_it() -> None:
    spec = config.validate(small(attacks=[{"name": "fgsm", "eps": 0.1}]), JobSpec, "jobs/mine.yaml")
    changed = spec.model_copy(update={"name": "other"})
    places = (changed.where, changed.copy_named("audit").where, changed.where)
    assert places == ("jobs/mine.yaml", "audit", "jobs/mine.yaml")
    assert "jobs/mine.yaml" not in spec.model_dump_json()
    assert JobSpec.model_validate(spec.model_dump(mode="json")).where == "job"


def grid(*attacks: Mapping[str, Any]) -> Grid:
    return grid_of(job(attacks=list(attacks), models=JOB["models"]))


@pytest.mark.parametrize(
    ("attack", "effort"),
    [
        ({"name": "pgd", "eps": "8/255", "steps": 4, "loss": "ce"}, {"steps": 4, "loss": "ce", "restarts": 1}),
        ({"name": "segpgd", "eps": "8/255", "steps": 3}, {"steps": 3, "restarts": 1}),
        ({"name": "vafa", "q_max": 20, "steps": 4}, {"steps": 4, "loss": "dicece", "restarts": 1}),
        ({"name": "autoattack", "eps": 0.1, "queries": 7, "steps": 8}, {"steps": 8, "restarts": 1}),
        ({"name": "square", "eps": 0.1, "loss": "ce", "queries": 6}, {"queries": 6, "loss": "ce", "restarts": 1}),
        ({"name": "rays", "eps": 0.1, "queries": 6}, {"queries": 6}),
        (
            {"name": "bases", "eps": 0.1, "steps": 5, "queries": 6, "surrogates": [["b"]], "sources": "a"},
            {"steps": 5, "queries": 6, "loss": "dicece", "restarts": 1},
        ),
    ],
    ids=lambda value: value.get("name", ""),
)
def test_an_entry_ends_with_its_length_loss_and_restarts(attack: dict[str, Any], effort: dict[str, Any]) -> None:
    """Losses of their own, searches, ensembles of a search, and gradients of other networks beside queries."""
    entry = counted_entry(grid(attack).cells[0].attack)
    assert entry is not None
    assert [*entry.items()][-len(effort) :] == [*effort.items()]


@pytest.mark.parametrize(
    "attack",
    [
        {"name": "fgsm", "eps": "8/255"},
        {"name": "gn", "std": "8/255"},
        {"name": "almaprox"},
        {"name": "bases", "eps": 0.1, "surrogates": [["b"]], "sources": "a", "control": "uniform"},
    ],
    ids=lambda attack: attack["name"],
)
def test_no_length_null_row_and_smallest_change_have_no_entry(attack: dict[str, Any]) -> None:
    assert counted_entry(grid(attack).cells[0].attack) is None


@pytest.mark.parametrize(
    "attack",
    [
        {"name": "apgd", "eps": "4/255", "eps_schedule": [[[2, 0.5], [1, 0.5]]]},
        {"name": "vafa", "q_max": 20, "block": "8x8x16", "ssim_weight": 0},
        {"name": "vafa_opt", "q_max": 20},
        {"name": "pgd", "eps": "8/255", "organs": [[1, 2]], "target": {"erase": 1}},
    ],
    ids=lambda attack: attack["name"],
)
def test_an_entry_in_a_job_makes_the_same_cells(attack: dict[str, Any]) -> None:
    given = grid(attack)
    entry = counted_entry(given.cells[0].attack)
    assert entry is not None
    expected = [cell.cell_id for cell in given.cells]
    assert [cell.cell_id for cell in grid(entry).cells] == expected


DATASETS = [
    {"name": "x", "loader": "phantom", "shape": SHAPE, "cases": 1},
    {"name": "y", "loader": "stand_in", "shape": SHAPE, "cases": 1, "classes": ["background", "organ"]},
]
A, B = JOB["models"]
FGSM = {"name": "fgsm", "eps": "8/255"}
GN = {"name": "gn", "std": "8/255"}


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
    attack = AttackEntry(name="fgsm", match={"metric": "l2_body", "value": 1.0}, sources=["a"])
    spec = expanded(job(datasets=DATASETS, models=models, attacks=[GN]))[0].model_copy(update={"attacks": [attack]})
    (entry,) = match_budgets(spec, str(tmp_path), lambda text: None, compute=False).attacks
    assert [(row.dataset, row.source) for row in entry.matched or ()] == [("x", "a")]


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
        grid_of(job(models=[A], attacks=[{"name": name, **PARAMETERS[own], "block": 8}])).cells[0]
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


def cells_of(dataset: dict[str, Any] | None = None, **parameters: Any) -> tuple[Cell, ...]:
    content = small(attacks=[{"name": "bim", "eps": "8/255", **parameters}])
    return grid_of({**content, "datasets": [dataset] if dataset else content["datasets"]}).cells


RULES = ["least-likely", "next-class", {"swap": {"spleen": "liver"}}, {"erase": "aorta"}]


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("organs", [["spleen", "liver"], ["aorta"], None], [(1, 2), (4,), None]),
        ("target", RULES, ["least-likely", "next-class", ("swap", 1, 2), ("erase", 4)]),
    ],
)
def test_lists_of_organs_and_rules_multiply_into_cells(name: str, values: list[Any], expected: list[Any]) -> None:
    assert [getattr(cell.attack, name) for cell in cells_of(**{name: values})] == expected


def test_names_and_indices_are_one_cell() -> None:
    assert len(cells_of(organs=[["liver"], [1]], target=[{"swap": {"liver": "spleen"}}, {"swap": {2: 1}}])) == 1


def test_radii_of_schedule_and_members_of_ensemble_are_one_value() -> None:
    radii = {"name": "apgd", "eps": "8/255", "eps_schedule": [[[2, 0.3], [1.5, 0.3], [1, 0.4]]]}
    members = {"name": "autoattack", "eps": "8/255", "members": [["apgd-ce", "square"]], "organs": [["liver"]]}
    scheduled, joined = grid_of(small(attacks=[radii, members])).cells
    assert scheduled.attack.eps_schedule == ((2, 0.3), (1.5, 0.3), (1, 0.4))
    assert (joined.attack.members, joined.attack.organs) == (("apgd-ce", "square"), (1,))


def test_channels_are_one_value_in_a_list_of_their_own() -> None:
    four = {"name": "phantom", "loader": "stand_in", "shape": SHAPE, "channels": 4, "cases": 1}
    assert [cell.attack.channels for cell in cells_of(four, channels=[[2, 0], [1], 3, None])] == [
        (0, 2),
        (1,),
        (3,),
        None,
    ]
    assert len(cells_of(four, channels=[0, [0]])) == 1


def test_a_step_is_told_apart_by_what_is_written() -> None:
    """A quarter of 8/255 is 2/255 here, and another number at another budget."""
    word, number = cells_of(step_size=["eps/4", "2/255", "eps/4"])
    assert (word.attack.step_size, number.attack.step_size) == ("eps/4", 2 / 255)
    assert word.cell_id != number.cell_id


def test_a_name_stands_for_each_dataset_s_own_index(tmp_path: Path) -> None:
    downloads.decathlon(tmp_path, {"validation": ["c"]}, labels=("background", "spleen", "liver"))
    folder = {"name": "folder", "loader": "decathlon", "root": str(tmp_path), "split": "validation"}
    datasets = [JOB["datasets"][0], folder]
    attack = {"name": "bim", "eps": 0.1, "organs": [["liver"]], "target": {"erase": "liver"}}
    _, grid = expanded(small(datasets=datasets, attacks=[attack]))
    parameters = [(cell.dataset.name, cell.attack.organs, cell.attack.target) for cell in grid.cells]
    assert parameters == [("phantom", (1,), ("erase", 1)), ("folder", (2,), ("erase", 2))]
