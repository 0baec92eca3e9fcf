"""Cells that a job file multiplies into."""

from typing import Any

import pytest
from tiny_job import JOB, expanded, job, small

from freqbench.core import config
from freqbench.core.errors import UserError
from freqbench.job.grid import expand, further_targets
from freqbench.job.schema import JobSpec
from freqbench.job.sweep import parse_value


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
        {"name": "gn", "std": 0.1}, {"name": "pgd", "eps": 0.1, "random_start": [True, False]},
        {"name": "fgsm", "eps": 0.1}, {"name": "bim", "eps": 0.1}, seeds=[3, 4],
    )  # fmt: skip
    drawn = [(name, seed) for name in ("gn", "pgd") for seed in (3, 4)]
    assert [(attack.name, seed) for attack, seed in made] == [*drawn, *((n, None) for n in ("pgd", "fgsm", "bim"))]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8/255", 8 / 255), (" 8 / 255 ", 8 / 255), ("8x16x32", (8, 16, 32)), ("1e-3", 0.001), ("-2E2", -200.0),
        ("1/2/3", "1/2/3"), ("8/0", "8/0"), ("8x16x32x64", "8x16x32x64"), (["1/4", "a"], (0.25, "a")),
        ({"kind": "low", "limit": 8}, {"kind": "low", "limit": 8}), (None, None),
    ],
)  # fmt: skip
def test_values_as_a_job_file_writes_them(text: object, value: object) -> None:
    assert parse_value(text) == value


@pytest.mark.parametrize(
    ("targets", "expected"), [("all", {("a", "a", "b"), ("b", "a", "b")}), (["b", "b"], {("a", "b"), ("b", "b")})]
)
def test_all_targets_are_the_transfer_matrix(targets: Any, expected: set[tuple[str, ...]]) -> None:
    _, grid = expanded(job(targets=targets))
    assert {(cell.source.name, *(target.name for target in cell.targets)) for cell in grid.cells} == expected


def test_limit_cases_takes_the_first_of_every_dataset() -> None:
    spec, grid = expanded(job())
    (ref,) = expand(spec, limit_cases=1).cases["phantom"]
    assert ref == grid.cases["phantom"][0]


def test_further_targets_of_the_job_keep_the_sources() -> None:
    spec, grid = expanded(job(targets="source"))
    further = further_targets(spec, ["b", "b"])
    assert [cell.cell_id for cell in further.cells] == [cell.cell_id for cell in grid.cells]
    assert {tuple(target.name for target in cell.targets) for cell in further.cells} == {("b",)}


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
    assert (changed.where, changed.copy_named("audit").where, changed.where) == (
        "jobs/mine.yaml",
        "audit",
        "jobs/mine.yaml",
    )
    assert "jobs/mine.yaml" not in spec.model_dump_json()
    assert JobSpec.model_validate(spec.model_dump(mode="json")).where == "job"
