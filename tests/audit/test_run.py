"""An audit computes what a store lacks, holds claims against it, and shows what it found."""

import io
import re
import shutil
from collections import Counter
from dataclasses import replace
from itertools import chain, product
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from audit.planted import gradients, healthy
from audit.planted import rows as planted_rows
from faint_balls import job
from reporting.handmade import job_of
from rich.console import Console
from tiny_job import execute, expanded, rows

from freqbench.audit import computing, probe_files, probes
from freqbench.audit.checks import Finding, audited, gathered, verdicts
from freqbench.audit.checks import gradients as checks_of_gradients
from freqbench.audit.computing import MissingOptions, compute_missing
from freqbench.audit.probe_files import GRADIENTS, Gradients, SavedScores, root_of, write
from freqbench.audit.reproduce import Reproducer
from freqbench.cli.audit import _more_cases
from freqbench.core import code
from freqbench.core.errors import UserError
from freqbench.core.plugins import trusting
from freqbench.job import costs
from freqbench.job.schema import JobSpec
from freqbench.models import forward_flops, load, step_bytes
from freqbench.reporting.audit import LINES, first_screen
from freqbench.reporting.contents import keys_of
from freqbench.reporting.page import facts
from freqbench.reporting.report import report
from freqbench.results import KEY, Store

SHORT = {"STEPS": 8, "QUERIES": 100}
ATTACKS = [{**job()["attacks"][0], "steps": 8}, job()["attacks"][1]]
SMALL = job(attacks=ATTACKS, datasets=[{**job()["datasets"][0], "cases": 3}])


def shorten(patch: pytest.MonkeyPatch, **numbers: int) -> None:
    """Fewer steps and queries in what an audit adds."""
    for name, number in (SHORT | numbers).items():
        patch.setattr(computing, name, number)
    patch.setattr(probes, "STEPS", (SHORT | numbers)["STEPS"])


def audit(out: str, spec: JobSpec | None = None, **asked: object) -> str:
    """Carry it out, and what was said."""
    said = io.StringIO()
    options = MissingOptions(**{"engine": "serial", **asked})
    assert compute_missing(spec or expanded(SMALL)[0], out, Console(file=said, width=120), options) == 0
    return said.getvalue()


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("ran") / "out"
    execute(SMALL, place)
    return place


@pytest.fixture(scope="module")
def out(ran: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch)
        place = str(shutil.copytree(ran, tmp_path_factory.mktemp("audited") / "out"))
        before = rows(place)
        audit(place)
        assert rows(place) == before
    return place


@pytest.fixture(scope="module")
def findings(out: str) -> tuple[Finding, ...]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks_of_gradients, "FEWEST_QUERIES", 100)
        return audited(gathered([Store(out)]))


def verdict(findings: tuple[Finding, ...], check: str, model: str) -> str:
    (only,) = {each.verdict for each in findings if (each.check, each.model) == (check, model)}
    return only


@pytest.mark.integration
def test_the_network_that_rounds_its_input_is_flagged(findings: tuple[Finding, ...]) -> None:
    (model,) = [each for each in verdicts(findings) if each.model == "rounded"]
    assert model.verdict == "flagged"
    assert {"zero_gradients", "transfer", "unbounded"} <= set(model.flags)


@pytest.mark.integration
def test_the_plain_network_shows_no_sign_of_masked_gradients(findings: tuple[Finding, ...]) -> None:
    (model,) = [each for each in verdicts(findings) if each.model == "plain"]
    assert (model.flags, model.checks["not checked"]) == ((), ())
    holds = {"budget", "unbounded", "noise_linf", "square", "zero_gradients", "same_gradients"}
    assert holds <= set(model.checks["holds"])


@pytest.mark.integration
def test_claims_of_store_are_held_against_strongest_attacks(findings: tuple[Finding, ...]) -> None:
    """The store's own rows are its claim, whatever the audit found."""
    by_subject = {(each.model, each.subject): each for each in findings if each.check == "strongest"}
    plain = by_subject["plain", "linf eps=32/255"]
    assert (plain.comparisons, plain.cases) == (7, 3)  # FGSM, Square, PGD with more steps and restarts, two losses
    assert "pgd eps=32/255" in plain.sentence
    assert by_subject["rounded", "linf eps=32/255"].verdict == "violated"  # by Square


@pytest.mark.integration
def test_a_claim_that_rests_on_two_steps_of_vafa_falls(findings: tuple[Finding, ...]) -> None:
    """The optimum within the same bounds leaves less of the plain network too."""
    (model,) = [each for each in verdicts(findings) if each.model == "plain"]
    assert (model.verdict, [each.verdict for each in model.claims].count("violated")) == ("flagged", 1)
    assert re.search(r"vafa q_max=20 leaves [\d.]+, vafa_opt q_max=20 loss=(horizon|dice) leaves \d", model.sentence)


@pytest.mark.integration
def test_null_rows_are_there_with_and_without_stretching(findings: tuple[Finding, ...]) -> None:
    texts = [each.sentence for each in findings if (each.check, each.model) == ("credit", "plain")]
    assert Counter(text.split()[0] for text in texts) == {"vafa": 2, "vafa_opt": 2}  # as it is, and two losses
    assert {"(slices stretched)" in text for text in texts} == {True, False}
    assert all("random" in text and "uniform" in text for text in texts)


@pytest.mark.integration
def test_gradients_are_measured_of_every_model_and_case(out: str) -> None:
    gradients = probe_files.read(out, Gradients)
    assert gradients is not None
    assert len(gradients.windows) == 2 * 3
    shares = {each.model: each.zero_share for each in gradients.windows}
    assert shares["rounded"] == 1.0
    assert shares["plain"] is not None
    assert shares["plain"] < 0.01


@pytest.mark.integration
def test_saved_volumes_score_as_their_rows_do(out: str, findings: tuple[Finding, ...]) -> None:
    saved = probe_files.read(out, SavedScores)
    assert saved is not None
    assert len(saved.volumes) == 2 * 2  # as many as attacks, each of another case
    assert all(each.dsc_stored == each.dsc for each in saved.volumes)
    assert verdict(findings, "saved", "plain") == "holds"


@pytest.mark.integration
def test_a_second_audit_computes_nothing(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch)
    before = rows(root_of(out))
    gradients = probe_files.read(out, Gradients)
    said = audit(out)
    assert re.search(r"(\d+) of \1 records are in", said)
    assert "looking at the gradients" not in said
    assert (rows(root_of(out)), probe_files.read(out, Gradients)) == (before, gradients)


@pytest.mark.integration
def test_an_audit_s_scores_on_further_models_are_reproduced(out: str) -> None:
    names = ("cell_id", "case_key", "target_model_id", "source_model_id")
    crossed = [key for *key, source in Store(root_of(out)).rows(names) if key[2] != source]
    with trusting():
        made = list(Reproducer(Store(root_of(out)), None).each([(key[0], key[1], key[2]) for key in crossed[:2]]))
    assert [each.verdict for each in made] == ["equal", "equal"]


def test_the_plan_says_how_much_and_computes_nothing(tmp_path: Path) -> None:
    place = str(tmp_path / "out")
    Store(place).write_job({"spec": {}, "index": {"cells": [], "cases": {}}})
    said = audit(place, compute=False)
    assert re.search(r"\d+ cells, \d+ records on at most 3 cases, [\d,]+ window passes", said)
    assert "most of them: square 6,000, " in said  # 3 cases, 2 models
    passes = "gradients: 264 window passes more, at most, about 1 minute"  # 6 windows of 4 and of 20 steps, twice
    assert passes in said
    assert not (tmp_path / "out" / "audit" / "records").exists()


def test_seconds_of_gradients_are_those_of_their_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three cases of one window and 44 passes each, at a million operations a second, where the store has no rows."""
    monkeypatch.setattr(costs, "_speed", lambda: (1e6, 1.0))
    own = planned(tmp_path, 3).own
    sources = {cell.source.model_id: cell.source for cell in own.cells}.values()
    operations = sum(forward_flops(source) + 100 * step_bytes(source) for source in sources)
    assert probes.seconds(own, Store(str(tmp_path))) == pytest.approx(3 * 44 * operations / 1e6)


def planned(place: Path | str, cases: int = 1, **changes: Any) -> computing.ExtraCells:
    return computing.plan_cells(expanded(job(**changes))[0], str(place), cases, None, print, compute=False)


def test_a_plan_makes_few_identities_of_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes a tenth of a second; one for every cell and case would be 145."""
    walks = list[None]()
    walk = code._State
    monkeypatch.setattr(code, "_State", lambda **how: walks.append(None) or walk(**how))  # type: ignore[func-returns-value]
    planned(tmp_path)
    assert 0 < len(walks) < 20


@pytest.mark.integration
def test_short_audit_settles_what_is_open_most_often(ran: Path, tmp_path: Path) -> None:
    """More of its cases come into the same audit."""
    out = str(shutil.copytree(ran, tmp_path / "out"))
    said = audit(out, cases=1, short=True)
    assert "0 window passes\n" in said
    assert "most of them" not in said
    assert "this is 0 times the window passes of the run's own attacks" in said
    assert not any(row["num_backwards"] for row in Store(f"{out}/audit").records().to_pylist())
    made = {each.check: each for each in audited(gathered([Store(out)])) if each.model == "plain"}
    assert {name for name in computing.SHORT if made[name].verdict == "not checked"} == set()
    assert made["square"].verdict == "not checked"
    credit = replace(made["credit"], cases=1, patients=1)
    assert _more_cases(Store(out), None, credit).endswith(f"freqbench audit {out} --run --short --cases 3")
    audit(out, cases=3, short=True)
    assert computing.seconds_missing(expanded(SMALL)[0], out)[1] == 0
    assert _more_cases(Store(out), None, credit).endswith(f"freqbench audit {out} --run --cases 3")
    for place in (out, f"{out}/audit"):
        assert {*Store(place).rows(("case_id",))} == {("ball_0",), ("ball_1",), ("ball_2",)}


@pytest.mark.integration
def test_the_cost_of_an_audit_is_told_in_passes_of_its_run(out: str) -> None:
    records = Store(out).records().to_pylist()
    total = {(row["cell_id"], row["case_key"]): row["num_forwards"] + row["num_backwards"] for row in records}
    assert computing.passes_stored(out) == sum(total.values()) > 0


def strongest(place: Path, name: str = "apgd", **changes: Any) -> list[Any]:
    cells = planned(place, **changes).grid.cells
    return [cell.attack for cell in cells if (cell.attack.name, cell.source.name) == (name, "plain")]


@pytest.mark.integration
def test_cells_that_the_store_has_are_not_planned_again(out: str, tmp_path: Path) -> None:
    stored = {cell.cell_id for cell in expanded(SMALL)[1].cells if cell.attack.name == "vafa"}
    for place, is_there in ((out, False), (tmp_path, True)):
        assert bool(stored & {cell.cell_id for cell in planned(place, 3, attacks=ATTACKS).grid.cells}) == is_there


def test_a_job_with_fewer_models_audits_these_alone(tmp_path: Path) -> None:
    extra = planned(tmp_path, attacks=ATTACKS, models=job()["models"][:1])
    models = chain.from_iterable((cell.source, *cell.targets) for cell in extra.grid.cells)
    assert {model.name for model in models} == {"plain"}
    assert {cell.source.name for cell in extra.own.cells} == {"plain"}


@pytest.mark.parametrize("attack", [{"name": "kspace", "eps_k": 0.05}, {"name": "deformation", "max_mm": 2}])
def test_null_rows_are_those_that_an_attack_has(tmp_path: Path, attack: dict[str, Any]) -> None:
    forms = strongest(tmp_path, attack["name"], attacks=[{**attack, "steps": 2}])
    assert {each.loss for each in forms if each.control == "none" and each.steps > 2} == {"horizon", "dice"}
    assert {each.control for each in forms} == {"none", "random"}


def test_each_claim_gets_both_losses_with_its_longest_steps(tmp_path: Path) -> None:
    attacks = [{"name": "pgd", "eps": ["4/255", "8/255"], "steps": [10, 30]}, {"name": "fgsm", "eps": "4/255"}]
    forms = [(each.eps, each.loss) for each in strongest(tmp_path, attacks=attacks)]
    assert forms == [*product((4 / 255, 8 / 255), ("horizon", "dice"))]
    usual = {(each.steps, each.restarts, each.scope) for each in strongest(tmp_path, attacks=attacks)}
    assert usual == {(30, 1, "joint")}


@pytest.mark.parametrize(
    ("attack", "form", "bounds"),
    [
        ({"name": "vafa", "block": 8}, "vafa_opt", {"q_max": 20, "q_min": 5, "block": 8, "renormalize": True}),
        (
            {"name": "vafa", "block": 8, "variant": "paper"},
            "vafa_opt",
            {"q_max": 20, "q_min": 1, "block": 8, "renormalize": False},
        ),
        ({"name": "vafa_2d"}, "vafa_opt_2d", {"q_max": 20, "q_min": 5, "block": 8, "renormalize": True}),
        ({"name": "sa2", "band": "low"}, "sa2_opt", {"rho": 0.4, "block": 16, "band": "low"}),
    ],
    ids=str,
)
def test_adaptive_forms_run(attack: dict[str, object], form: str, bounds: dict[str, object], tmp_path: Path) -> None:
    forms = strongest(tmp_path, form, attacks=[{**attack, "steps": 20}])
    assert [each.loss for each in forms if each.control == "none"] == ["horizon", "dice"]
    assert {each.control for each in forms} == {"none", "uniform", "random"}
    assert all(bounds.items() <= vars(each).items() for each in forms)


RECOMMENDED = """# Recommended by freqbench audit --converge
attacks:
  - {name: pgd, eps: 8/255, step_size: eps/10, steps: 40, loss: dice, restarts: 1, sources: [plain]}
  - {name: pgd, eps: 2/255, step_size: eps/10, steps: 40, loss: dice, restarts: 1}
"""


def test_recommendations_of_converge_are_run_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Recommendations hold for their network alone; a file of another kind adds none."""
    file = tmp_path / "out-converge" / "converge.yaml"
    file.parent.mkdir()

    def recommended() -> set[tuple[object, ...]]:
        extra = planned(tmp_path / "out", attacks=[{"name": "fgsm", "eps": "8/255"}]).grid.cells
        cells: list[Any] = [cell for cell in extra if getattr(cell.attack, "step_size", None) == "eps/10"]
        return {(cell.source.name, cell.attack.eps, cell.attack.steps, cell.attack.loss) for cell in cells}

    assert recommended() == set()
    file.write_text(RECOMMENDED)
    assert recommended() == {("plain", 8 / 255, 40, "dice")}
    file.write_text("attacks: []  # none has converged")
    assert (recommended(), capsys.readouterr().out) == (set(), "")
    file.write_text("attacks: [{name: pgdd}]")
    assert recommended() == set()
    assert f"nothing of {file}: " in capsys.readouterr().out


def test_attacks_on_part_and_null_rows_ask_for_no_strongest_form(tmp_path: Path) -> None:
    attacks = [{"name": "pgd", "eps": "8/255", "organs": [[1]]}, {"name": "vafa", "block": 8, "control": "uniform"}]
    assert strongest(tmp_path, attacks=attacks) == []


@pytest.mark.integration
def test_another_radius_is_measured_beside_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch, STEPS=2, QUERIES=2)
    content = job(save_adversarial="none", models=job()["models"][:1], attacks=[{**ATTACKS[0], "steps": 2}])
    place = str(tmp_path / "out")
    execute(content, place)
    spec, _ = expanded(content)
    audit(place, spec, cases=2)
    before = looked_at(place)
    audit(place, spec, cases=1, eps="4/255")
    assert before < looked_at(place)
    gradients = probe_files.read(place, Gradients)
    assert gradients is not None
    assert Counter(each.eps for each in gradients.windows) == {32 / 255: 2, 4 / 255: 1}


def looked_at(place: str) -> set[tuple[str, ...]]:
    keys = keys_of([Store(place).job()])
    return set(gathered([Store(place)], keys).records[["cell_id", "case_key"]].itertuples(index=False, name=None))


@pytest.mark.parametrize("adaptive", [True, False])
def test_a_defence_at_random_shows_its_draws_whoever_attacks(adaptive: bool) -> None:
    """A naive attacker sees one draw, and the same gradient twice, which hides the defence."""
    defence = {"name": "randomized_smoothing", "sigma": 0.2, "eot": 2, "samples": 1, "selection_samples": 1}
    _, grid = expanded(job(models=[{**job()["models"][0], "defence": defence, "adaptive": adaptive}]))
    (cell, *_) = grid.cells
    with trusting():
        model = load(cell.source, torch.device("cpu"))
    (facts,) = probes.facts_of_case(model, cell, grid.cases["balls"][0], 8 / 255, print)
    assert facts.sign_agreement is not None
    assert facts.sign_agreement < 0.99
    assert facts.draws == (2 if adaptive else 1)


@pytest.mark.parametrize(
    ("attacks", "eps"),
    [
        ([{"name": "pgd", "eps": ["4/255", "8/255"]}, {"name": "fgsm", "eps": "8/255"}], 8 / 255),
        ([{"name": "pgd", "eps": ["4/255", "8/255"]}], 4 / 255),
        ([{"name": "gn", "std": "4/255"}], 8 / 255),
    ],
)
def test_the_radius_is_the_job_s_most_usual(attacks: list[dict[str, object]], eps: float) -> None:
    _, grid = expanded(job(attacks=attacks))
    assert computing.usual_eps(grid.cells) == eps


@pytest.mark.parametrize("text", ["8", "0", "-1", "much", "8/0", "8x16"])
def test_a_radius_that_cannot_be_is_refused(text: str, tmp_path: Path) -> None:
    place = str(tmp_path / "out")
    Store(place).write_job({"spec": {}, "index": {"cells": [], "cases": {}}})
    with pytest.raises(UserError, match=r"--eps: expected a number in \(0, 1\]"):
        compute_missing(expanded(job())[0], place, Console(file=io.StringIO()), MissingOptions(eps=text))


def test_an_audit_without_a_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run\.json"):
        compute_missing(expanded(job())[0], str(tmp_path / "none"), Console(file=io.StringIO()), MissingOptions())


def test_planned_settings_are_strong_enough_for_the_checks(tmp_path: Path) -> None:
    """Enough queries, full precision, as rows of bf16 count beside such of fp32 only, and PGD alone on other models."""
    grid = planned(tmp_path, precision="bf16", targets="all").grid
    queries = {cell.attack.queries for cell in grid.cells if cell.attack.name == "square"}
    assert queries == {checks_of_gradients.FEWEST_QUERIES} == {1000}
    assert {cell.precision for cell in grid.cells} == {"fp32"}
    assert (grid.job.precision, grid.job.compile) == ("fp32", False)
    assert [cell.attack.name for cell in grid.cells if len(cell.targets) == 2] == ["pgd", "pgd"]  # one a source


def stored(root: str, rows: list[dict[str, Any]]) -> Store:
    store = Store(root)
    store.writer("run0", interval_s=0).add(rows, [[]] * len(rows))
    store.write_job(job_of(rows))
    return store


@pytest.fixture(scope="module")
def flagged(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return stored(str(tmp_path_factory.mktemp("flagged") / "out"), healthy(but={"twice": {"left": 45}}))


def test_a_report_says_what_is_flagged_and_why(flagged: Store) -> None:
    keys = {key[:3] for key in flagged.rows(KEY)}
    text = " ".join(report([flagged], keys).split())
    assert "flagged (6 of 12)" in text
    assert "it does not hold that a larger budget hurts more (1 sign of masked gradients in " in text
    assert "a larger budget hurts more" in text
    assert "points more DSC" in text


@pytest.mark.integration
def test_whole_audit_is_a_table_a_csv_and_json_without_nan(flagged: Store) -> None:
    for format in ("terminal", "latex"):
        text = report([flagged], None, format, "audit")
        assert "violated" in text
        assert "not checked" in text
        assert format != "terminal" or max(map(len, text.splitlines())) <= 110
    frame = pd.read_csv(io.StringIO(report([flagged], None, "csv", "audit")))
    budget = frame[frame["check"] == "budget"].iloc[0]
    assert (budget["verdict"], budget["cases"]) == ("violated", 6)
    assert budget["low"] < budget["difference"] < budget["high"]
    part = facts.audit(audited(gathered([flagged])))
    names = {f"{name}: {should}" for name, should in zip(frame["check"], frame["should"], strict=True)}
    assert names == {each["should"] for each in part["findings"]}  # one name everywhere
    assert part["models"][0]["verdict"] == "flagged"
    assert {"check", "should", "dataset", "model", "subject", "verdict", "sentence"} == {*part["findings"][0]}


def test_first_screen_has_gravest_findings_in_twenty_lines(flagged: Store) -> None:
    findings = audited(gathered([flagged]))
    many = [replace(each, model=f"{each.model}{number}") for number, each in product(range(9), findings)]
    lines = first_screen(tuple(many), ["freqbench audit out --run " * 4] * 3, 80).splitlines()
    assert LINES - 6 <= len(lines) + 3 <= LINES  # each of the commands takes two lines
    assert max(map(len, lines[:-3])) <= 80
    assert lines[1] == "m0 on phantom  flagged: budget; 6 of 12 checks hold, 4 not made"
    assert lines[9].startswith("budget: a larger budget hurts more. Violated for 9 networks; on m0: ")


def test_rows_and_gradients_of_the_audit_s_own_store_count(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    store = stored(out, planted_rows("pgd"))
    before = {each.check: each.verdict for each in audited(gathered([store]))}
    stored(root_of(out), planted_rows("twice", left=45))
    write(out, gradients(zero_share=0.9))
    after = {each.check: each.verdict for each in audited(gathered([store]))}
    assert (before["budget"], before["zero_gradients"]) == ("not checked", "not checked")
    assert (after["budget"], after["zero_gradients"]) == ("violated", "violated")


def test_a_file_of_gradients_that_is_none_is_one_line(tmp_path: Path) -> None:
    out = str(tmp_path)
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit" / GRADIENTS).write_text('{"eps": 1, "windows": "many"}')
    with pytest.raises(UserError, match=r"gradients.json: "):
        probe_files.read(out, Gradients)
