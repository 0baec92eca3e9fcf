"""Recipes are read as they are written, and a store in which the papers' numbers are planted gives them back."""

import io
import math
from collections import Counter
from collections.abc import Mapping
from itertools import product
from operator import itemgetter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from reporting.handmade import shown, stored
from reporting.papers import planted
from reporting.papers.planted import PAPERS, cells, cells_of, one
from tiers import quick

from freqbench.core import config
from freqbench.core.errors import UserError
from freqbench.core.names import job_file
from freqbench.job.schema import JobSpec
from freqbench.reporting.papers import recipes
from freqbench.reporting.papers.paper_table import NOT_OURS, judge, paper_table
from freqbench.reporting.papers.recipes import Recipe
from freqbench.reporting.report import FORMATS, report

place_of = itemgetter("dataset", "model", "training", "attack", "params", "metric")
SHA = "ab" * 32


def is_ours(row: Mapping[str, Any]) -> bool:
    """True if a cell is of an arm or attack that a paper's table lacks."""
    return any(str(row[key]).endswith("(not in the paper)") for key in ("training", "attack"))


@pytest.mark.parametrize("name", quick(planted.JOB_OF, "vafa_table3", "vafa_table5"))
def test_planted_numbers_come_back(name: str) -> None:
    data = planted.sections(name)[0].data
    own = [row for row in PAPERS if planted.job_of(row) == planted.JOB_OF[name]]
    wanted = {place_of(row): row for row in own}
    by_place = {place_of(row): row for row in data.to_dict("records") if not is_ours(row)}
    assert by_place
    for place, row in by_place.items():
        printed = wanted[place]["value"]
        assert row["ours"] == pytest.approx(float(printed), abs=1e-9), place
        assert f"{row['published']:.{row['digits']}f}" == printed
        assert (row["difference"], row["note"]) == (pytest.approx(0, abs=1e-9), wanted[place]["note"])
        patients = row["cases"] // 2 if row["dataset"] == "ACDC" else row["cases"]
        assert (row["cases"], row["patients"]) == (12 if row["dataset"] == "Synapse" else 20, patients)
        assert row["low"] < row["ours"] < row["high"]


def test_all_400_numbers_stand_in_one_table_once() -> None:
    places = Counter()
    for recipe in map(recipes.load, planted.JOB_OF):
        for cell in recipe.cells:
            place = cell.labels | {"params": cell.attack.printed, "metric": cell.metric.name}
            if not is_ours(place):
                places[recipe.published.source, recipe.published.table, *place_of(place)] += 1
    assert len(PAPERS) == 400
    assert places == Counter((row["source"], row["table"], *place_of(row)) for row in PAPERS)


def test_the_layout_is_the_papers() -> None:
    """VAFA's Table 5: models and attacks down, metrics and budgets across; UNETR++ starred, as its space is guessed."""
    table = planted.sections("vafa_table5")[0].table
    assert [*table["model"]] == ["UNETR"] * 6 + ["UNETR++*"] * 6
    assert [*table["attack"]] == ["Clean", "PGD", "FGSM", "BIM", "GN", "VAFA"] * 2
    budgets = ("4 (VAFA 20)", "8 (VAFA 30)")
    assert [*table.columns[2:]] == [*map("\n".join, product(("DSC", "HD95", "LPIPS"), budgets))]
    assert [*table.iloc[5, 2:]] == [f"{x} ({x})" for x in ("32.2", "29.8", "57.6", "59.9", "97.5", "96.9")]
    assert [*table.iloc[0, 2:]] == ["74.3 (74.3)"] * 2 + ["14.0 (14.0)"] * 2 + ["", ""]


def test_the_strongest_of_a_column_is_marked() -> None:
    """DSC and HD95 mark it, among attacks that bound the same; LPIPS says how far an attack went, not how well."""
    layout = paper_table(of_linf("vafa_table5"), planted.frame("vafa_table5"))[0]
    assert {name.partition("\n")[0] for _, name in layout.marks} == {"DSC", "HD95"}
    place = {"table": "5", "model": "UNETR", "metric": "dsc", "params": "eps=4"}.items()
    printed = {row["attack"]: float(row["value"]) for row in PAPERS if place <= row.items()}
    (lowest,) = [layout.table["attack"][row] for row, name in layout.marks if name.startswith("DSC\n4") and row < 4]
    assert printed[lowest] == min(printed[name] for name in ("PGD", "FGSM", "BIM"))


def noisy(swing: float) -> planted.Change:
    """Every second case harder by `swing` points under PGD alone, every other easier: the means stay."""

    def change(row: dict[str, Any]) -> dict[str, Any]:
        if row["attack"] != "pgd" or row["dsc"] is None:
            return row
        return row | {"dsc": row["dsc"] + (-1) ** int(row["case_id"].removeprefix("case")) * swing / 100}

    return change


def test_a_best_that_other_patients_may_undo_is_not_marked() -> None:
    """PGD is 0.1 points below the others, on 12 patients: clear where they differ by 0.09 to 0.11. At -0.042 to 0.242 p
    is 0.04 against either, alone: t of 11 degrees is 0.1 sqrt(11) / 0.142 = 2.34."""
    recipe = of_linf("vafa_table5")
    marked = []
    for swing in (0.01, 0.142):
        layout = paper_table(recipe, shown(*planted.records("vafa_table5", noisy(swing))))[0]
        marked.append({name for row, name in layout.marks if row < 4 and name.startswith("DSC\n4")})
    assert [bool(names) for names in marked] == [True, False]


def test_no_best_is_marked_across_threat_models() -> None:
    sections = planted.sections("vafa_table5")
    assert sections[0].marks == frozenset()
    assert "No best is marked among dct-quantization-stretched and gaussian and linf" in sections[-1].text
    records = shown(*planted.records("vafa_table5", lambda row: row | {"dsc_clean": 0.01}))
    layout, *_, notes = paper_table(of_linf("vafa_table5"), records)
    assert layout.marks
    assert "Clean" not in {layout.table["attack"][row] for row, _ in layout.marks}
    assert "No best is marked" not in notes.text


def of_linf(name: str) -> Recipe:
    """The recipe of its first model, with the clean row and the attacks that bound voxels."""
    recipe = recipes.load(name)
    kept = tuple(entry for entry in recipe.attacks if entry.threat_model in ("", "linf"))
    return recipe.model_copy(update={"attacks": kept, "models": recipe.models[:1]})


@pytest.mark.integration
def test_the_strongest_defence_is_marked_in_table_6() -> None:
    layout = planted.sections("vafa_table6")[0]
    rows = [row for row, name in layout.marks if name == "UNETR\nVAFA"]
    marked = {tuple(layout.table.loc[row, ["dataset", "training"]]) for row in rows}
    assert marked == {("Synapse", "VAFA-FR"), ("ACDC*", "VAFA-FR")}


def with_checkpoint(recipe: Recipe) -> Recipe:
    """The recipe with a checkpoint known to be the authors'."""
    models = tuple(model.model_copy(update={"checkpoints": (SHA,)}) for model in recipe.models)
    return recipe.model_copy(update={"models": models})


def facts_of(records: pd.DataFrame, sha256: str) -> list[dict[str, Any]]:
    return [{"models": {key: {"name": "x", "sha256": sha256} for key in records["source_model_id"].unique()}}]


@pytest.mark.parametrize("sha256", ["cd" * 32, None])
def test_another_or_unknown_checkpoint_is_not_comparable(sha256: str | None) -> None:
    records = planted.frame("vafa_table5")
    data = cells(with_checkpoint(of_linf("vafa_table5")), records, facts_of(records, sha256) if sha256 else [])
    assert {*data["verdict"]} == {"not comparable"}
    assert all(NOT_OURS in reason for reason in data["reason"])


@pytest.mark.integration
def test_starred_cells_are_never_comparable() -> None:
    records = planted.frame("sa2")
    data = cells(with_checkpoint(recipes.load("sa2_synapse")), records, facts_of(records, SHA))
    comparable = data[data["verdict"] != "not comparable"]
    assert {*comparable["attack"]} == {"Clean", "SA2"}
    assert {*comparable["verdict"]} == {"parity"}


@pytest.mark.integration
def test_authors_checkpoint_makes_numbers_comparable(tmp_path: Path) -> None:
    """A store of one's own, and a recipe that names the checkpoint of the first network."""

    def change(row: dict[str, Any]) -> dict[str, Any]:
        return row | ({"dsc": row["dsc"] + 0.006} if row["attack"] == "pgd" else {})

    text = (recipes.FOLDER / "vafa_table5.yaml").read_text()
    own = tmp_path / "mine.yaml"
    own.write_text(text.replace("name: unetr, title: UNETR", f"name: unetr, title: UNETR, checkpoints: ['{SHA}']"))
    rows = planted.records("vafa_table5", change)
    store = stored(*rows)
    store.write_run("run0", {"models": {row["source_model_id"]: {"sha256": SHA} for row in rows}})
    data = pd.read_csv(io.StringIO(report([store], format="csv", table=str(own)))).fillna({"verdict": ""})
    unetr = data[data["model"] == "UNETR"]
    other = data[data["model"] == "UNETR++"]
    assert {*unetr["verdict"]} == {"parity", "differs"}
    assert {*unetr.loc[unetr["verdict"] == "differs", "attack"]} == {"PGD"}
    assert {*other["verdict"]} == {"not comparable"}
    assert all("guessed: preprocessing" in reason for reason in other["reason"])


@pytest.mark.integration
def test_every_format_has_every_number() -> None:
    store = stored(*planted.records("vafa_table1"))
    wanted = [row["value"] for row in PAPERS if row["table"] == "1"]
    for format in FORMATS:
        text = report([store], format=format, table="vafa_table1")
        assert [value for value in wanted if value.rstrip("0") not in text] == [], format


def test_a_recipe_without_published_numbers_has_no_verdicts() -> None:
    content = recipes.load("vafa_table1").model_dump() | {"published": None}
    layout, evidence, _ = paper_table(Recipe.model_validate(content), planted.frame("vafa_table1"))
    assert layout.table["DSC"].tolist()[:2] == ["74.31", "62.67"]
    assert not {"publ.", "diff.", "verdict", "why"} & {*evidence.table}


def test_an_unknown_table_lists_all_that_are_known() -> None:
    with pytest.raises(UserError, match=r"table 'vafa_tabel1'\. Did you mean 'vafa_table1'.*leaderboard.*sa2_acdc"):
        report([], table="vafa_tabel1")


def test_every_reason_has_its_letter() -> None:
    made = planted.records("vafa_table1", lambda row: None if row["attack"] == "bim" else row)
    evidence = paper_table(recipes.load("vafa_table1"), shown(*made))[1]
    lines = dict(line.removeprefix("- ").split(": ", 1) for line in evidence.text.splitlines())
    (letter,) = [key for key, reason in lines.items() if reason == "never run"]
    bim = evidence.table.loc[evidence.table["attack"] == "BIM", ["why", "ours"]]
    assert bim.to_numpy().tolist() == [[letter, ""]] * 2


@pytest.mark.parametrize(
    ("ours", "printed", "metric", "spread", "verdict"),
    [
        (63.25, "62.7", "dsc", math.nan, "parity"),
        (63.26, "62.7", "dsc", math.nan, "differs"),  # 0.05 + 0.5
        (62.15, "62.7", "dsc", math.nan, "parity"),
        (62.14, "62.7", "dsc", math.nan, "differs"),
        (63.175, "62.67", "dsc", math.nan, "parity"),
        (63.18, "62.67", "dsc", math.nan, "differs"),  # 0.005 + 0.5
        (63.55, "62.7", "dsc", 0.3, "parity"),
        (63.56, "62.7", "dsc", 0.3, "differs"),
        (12.4975, "7.897", "hd95", math.nan, "parity"),
        (12.498, "7.897", "hd95", math.nan, "differs"),  # 0.0005 + 4.6
        (96.205, "95.50", "lpips_similarity", math.nan, "parity"),
        (96.21, "95.50", "lpips_similarity", math.nan, "differs"),
        (68.685, "68.68", "ssim", math.nan, "parity"),
        (68.69, "68.68", "ssim", math.nan, "differs"),  # no rerun is known
        (68.79, "68.68", "ssim", 0.11, "parity"),
    ],
)
def test_verdicts_at_their_boundaries(ours: float, printed: str, metric: str, spread: float, verdict: str) -> None:
    assert judge(ours, printed, metric, spread).verdict == verdict


def test_obstacles_come_before_the_numbers() -> None:
    verdict = judge(62.7, "62.7", "dsc", math.nan, ["guessed: steps", "9 cases, not 12"])
    assert (verdict.verdict, verdict.reasons) == ("not comparable", ("guessed: steps", "9 cases, not 12"))
    assert verdict.tolerance == pytest.approx(0.55)
    assert judge(math.nan, "62.7", "dsc", math.nan, ["guessed: steps"]).verdict == ""
    assert judge(62.7, "", "dsc", math.nan).reasons == ("no published number",)


NO_WEIGHTS = '{"lpips_similarity": "no weights"}'


FAILED = {
    "status": "failed",
    "error": "out of\nmemory; twice",
    "dsc": None,
    "dsc_clean": None,
    "lpips_similarity": None,
}


def test_failed_cases_are_counted_with_the_first_reason() -> None:
    def change(row: dict[str, Any]) -> dict[str, Any]:
        return row | FAILED if row["attack"] == "pgd" and row["case_id"] in ("case0", "case1", "case2") else row

    cell = one(cells_of("vafa_table1", change), attack="PGD", metric="dsc")
    assert (cell["cases"], cell["failed"]) == (9, 3)
    assert cell["reason"].startswith("3 failed: out of memory; twice; ")
    assert "9 cases, not 12" in cell["reason"]
    assert cell["ours"] == pytest.approx(62.67 + sum((i - 5.5) / 4 for i in range(3, 12)) / 9)


def test_cases_of_a_part_stand_in_the_row_of_its_dataset() -> None:
    """PGD on the first three cases alone, under another name."""

    def change(row: dict[str, Any]) -> dict[str, Any] | None:
        if row["attack"] != "pgd":
            return row
        return row | {"dataset": "few"} if row["case_id"] in ("case0", "case1", "case2") else None

    frame = shown(*planted.records("vafa_table1", change))
    recipe = recipes.load("vafa_table1")
    whole = recipe.datasets[0].model_copy(update={"parts": ("few",)})
    cell = one(cells(recipe.model_copy(update={"datasets": (whole,)}), frame), attack="PGD", metric="dsc")
    assert cell["ours"] == pytest.approx(62.67 + sum((i - 5.5) / 4 for i in range(3)) / 3)
    assert (cell["cases"], "3 cases, not 12" in cell["reason"]) == (3, True)
    assert one(cells(recipe, frame), attack="PGD", metric="dsc")["reason"] == "never run"


@pytest.mark.parametrize(
    ("values", "metric", "reason"),
    [
        (None, "dsc", "never run"),
        (FAILED, "dsc", "12 failed: out of memory; twice"),
        ({"precision": "bf16"}, "dsc", "left out: not run in fp32"),
        ({"lpips_similarity": None, "metrics": "dsc"}, "lpips_similarity", "lpips was not among the job's metrics"),
        ({"lpips_similarity": None, "null_reasons": NO_WEIGHTS}, "lpips_similarity", "not computed: no weights"),
    ],
)
def test_cell_without_number_is_no_zero_and_says_why(values: dict[str, Any] | None, metric: str, reason: str) -> None:
    data = cells_of("vafa_table1", lambda row: (values and row | values) if row["attack"] == "pgd" else row)
    cell = one(data, attack="PGD", metric=metric)
    assert math.isnan(cell["ours"])
    assert (cell["verdict"], cell["reason"][: len(reason)]) == ("", reason)


@pytest.mark.integration
def test_undefined_distances_drop_out_and_are_counted() -> None:
    def change(row: dict[str, Any]) -> dict[str, Any]:
        value = {"case0": math.nan, "case1": math.inf}.get(row["case_id"], 20.0 if row["case_id"] == "case2" else 10.0)
        return row | {"hd95": value}

    cell = one(cells_of("vafa_table5", change), model="UNETR", attack="PGD", params="eps=4", metric="hd95")
    assert (cell["ours"], cell["cases"], cell["undefined"]) == (pytest.approx((20 + 9 * 10) / 10), 12, 2)


def test_seeds_have_spread_and_each_case_counts_with_all_of_them() -> None:
    """Two seeds whose means lie 1 point apart: their standard deviation is 1 / sqrt(2)."""
    rows = planted.records("vafa_table1")
    noise = [row for row in rows if row["attack"] == "gn"]
    second = [row | {"seed": 1, "cell_id": row["cell_id"] + "x", "dsc": row["dsc"] + 0.01} for row in noise]
    cell = one(cells("vafa_table1", shown(*rows, *second)), attack="GN", metric="dsc")
    assert cell["ours"] == pytest.approx(74.19 + 0.5)
    assert (cell["cases"], cell["seeds"], cell["seed_spread"]) == (12, 2, pytest.approx(math.sqrt(0.5)))


def test_transferred_volumes_are_not_in_the_table() -> None:
    rows = planted.records("vafa_table1")
    further = [
        row | {"source_model": "other", "source_model_id": "ff", "cell_id": row["cell_id"] + "x", "dsc": 0.0}
        for row in rows
    ]
    assert one(cells("vafa_table1", shown(*rows, *further)), attack="PGD", metric="dsc")["ours"] == pytest.approx(62.67)


def test_other_parameters_are_another_attack() -> None:
    data = cells_of("vafa_table1", lambda row: row | {"params": row["params"].replace('"steps": 20', '"steps": 21')})
    assert one(data, attack="PGD", metric="dsc")["reason"] == "never run"
    assert not one(data, attack="FGSM", metric="dsc")["reason"].startswith("never")


@pytest.mark.integration
def test_other_window_batch_is_another_coupled_attack() -> None:
    def change(row: dict[str, Any]) -> dict[str, Any]:
        return row | {"params": row["params"].replace('"window_batch": 4', '"window_batch": 1')}

    data = cells_of("sa2_synapse", change)
    assert {*data[data["reason"] == "never run"]["attack"]} == {"SegPGD", "CosPGD"}


def test_two_checkpoints_of_one_name_are_never_averaged() -> None:
    rows = planted.records("vafa_table1")
    other = [
        row | {"source_model_id": "ffff", "target_model_id": "ffff", "cell_id": row["cell_id"] + "x", "dsc": 0.9}
        for row in rows
    ]
    data = cells("vafa_table1", shown(*rows, *other))
    assert data["ours"].isna().all()
    assert all("2 models are called unetr (" in reason for reason in data["reason"])


def test_clean_scores_of_one_case_count_once() -> None:
    """Case 0 stands in many records, with other metrics in some, the others in one: a mean over records is another."""

    def change(row: dict[str, Any]) -> dict[str, Any] | None:
        if row["case_id"] != "case0":
            return row | {"dsc_clean": 0.6} if row["attack"] == "pgd" else None
        return row | {"dsc_clean": 0.9, "hd95_clean": 10.0 if row["attack"] == "gn" else None}

    cell = one(cells_of("vafa_table1", change), attack="Clean", metric="dsc")
    assert (cell["ours"], cell["cases"]) == (pytest.approx((90 + 11 * 60) / 12), 12)


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
    recipe = recipes.load(table)
    spec = config.load(job_file(job), JobSpec)
    made = set()
    for entry in spec.attacks:
        for parameters in entry.combinations(job) if entry.match is None else ():
            for besides in ({}, {recipes.COUPLED: spec.window_batch}):
                attack = {"name": entry.name, **besides, **parameters}
                made.add(recipes.TableAttack(title="x", attack=attack).setting)
    assert {entry.title for entry in recipe.attacks if entry.attack and entry.setting not in made} == not_run
    assert {entry.name for entry in spec.datasets} == {*recipe.dataset_of}
    networks = {model.name for model in recipe.models}
    assert {entry.name for entry in spec.models} <= networks


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
