"""Recipes are read strictly, whether of the package or a user's own, and say how they differ from what is known."""

from pathlib import Path

import pytest
import yaml

from freqbench.core import config
from freqbench.core.errors import UserError
from freqbench.core.names import job_file
from freqbench.job.schema import JobSpec
from freqbench.reporting.papers import recipes
from freqbench.reporting.papers.recipes import published

OWN = """
title: mine
rows: [attack]
columns: [metric]
datasets: [{name: phantom, title: Phantom, cases: 2}]
models: [{name: unet, title: UNet}]
attacks:
  - {title: Clean}
  - {title: PGD, attack: {name: pgd, eps: 8/255}}
metrics: [{name: dsc, best: lowest}]
"""


def own(folder: Path, text: str = OWN) -> str:
    path = folder / "mine.yaml"
    path.write_text(text)
    return str(path)


def test_published_numbers_keep_their_digits() -> None:
    numbers = published()
    assert len(numbers) == 400
    assert {"7.897", "99.10", "14.0"} <= {text for text, _ in numbers.values()}


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    recipe = recipes.load(own(tmp_path))
    assert [(cell.attack.title, cell.metric.name) for cell in recipe.cells] == [("Clean", "dsc"), ("PGD", "dsc")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("title: mine", "title: mine\ncompaer: attack"), "unknown key 'compaer'. Did you mean 'compare'"),
        (("best: lowest", "bets: lowest"), r"metrics\[0\]: unknown key 'bets'. Did you mean 'best'"),
        (("name: pgd", "name: pdg"), r"attacks\[1\].attack: unknown attack 'pdg'. Did you mean 'pgd'"),
        (("eps: 8/255", "epps: 8/255"), r"attacks\[1\].attack: .*epps.*Did you mean 'eps'"),
        (("eps: 8/255", "eps: 8"), r"attacks\[1\].attack: pgd: eps: .*8/255"),
        (("name: dsc", "name: dcs"), r"metrics\[0\].name: unknown metric 'dcs'. Did you mean 'dsc'"),
        (("columns: [metric]", "columns: [metrics]"), r"columns\[0\]"),
        (("title: PGD", "title: Clean"), "a place of its own for each cell, got 2 for Clean, DSC"),
        (("title: UNet}", "title: UNet, datasets: [phantm]}"), "unknown dataset 'phantm'. Did you mean 'phantom'"),
        (("title: UNet}", "title: UNet, checkpoints: [abc]}"), r"models\[0\].checkpoints\[0\]"),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        recipes.load(own(tmp_path, OWN.replace(*change)))
    assert "mine.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("job", "table", "not_run"),
    [
        ("research/acdc/sa2", "sa2_acdc", {"AutoAttack", "SSA"}),  # too dear; in need of cubes: rows of their own
        ("research/acdc/table6", "acdc_table6", set()),
        ("research/hippocampus/table6", "hippocampus_table6", set()),
        ("papers/malik", "malik_white_box", set()),
        ("papers/rog_msd", "rog_msd", set()),
    ],
)
def test_a_job_runs_the_attacks_of_its_table(job: str, table: str, not_run: set[str]) -> None:
    recipe, spec = recipes.load(table), config.load(job_file(job), JobSpec)
    made = {
        recipes.TableAttack(title="x", attack={"name": entry.name, **besides, **parameters}).setting
        for entry in spec.attacks
        if entry.match is None
        for parameters in entry.combinations(job)
        for besides in ({}, {recipes.COUPLED: spec.window_batch})
    }
    assert {entry.title for entry in recipe.attacks if entry.attack and entry.setting not in made} == not_run
    assert {entry.name for entry in spec.datasets} == {*recipe.dataset_of}
    assert {entry.name for entry in spec.models} <= {model.name for model in recipe.models}


def test_stars_are_those_of_the_published_file() -> None:
    """Tables 2 to 4: what `papers.csv` stars is what the recipe stars, under freqbench's names."""
    for number in (2, 3, 4):
        for entry in recipes.load(f"vafa_table{number}").attacks:
            pairs = [part.split("=") for part in entry.printed.split(";") if part.endswith("*")]
            assert {*entry.starred} == {{"patch": "block"}.get(name, name) for name, _ in pairs}


def test_records_before_a_parameter_have_its_default() -> None:
    (_, entry) = recipes.Recipe.model_validate(yaml.safe_load(OWN)).attacks
    old = '{"eps": 0.03137254901960784, "steps": 20, "step_size": 0.01, "variant": "released"}'
    assert recipes.setting_of("pgd", old) == entry.setting
    assert recipes.setting_of("pgd", old.replace("20", "21")) != entry.setting
