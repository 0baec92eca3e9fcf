"""`list`: all names of a table, those with a word, and all about one."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import Bench, done, refused
from tiny_job import job

from freqbench.attacks.core.declared import declared
from freqbench.cli import catalogue
from freqbench.core import config
from freqbench.core.names import KNOWN, packaged_jobs
from freqbench.data import DATASETS
from freqbench.job.json_schema import schema_of
from freqbench.job.schema import JobSpec, require_sound
from freqbench.job.training import TrainJob
from freqbench.models import zoo_names
from freqbench.models.defences.table import DEFENCES

TABLES: dict[str, Callable[[str], catalogue.Described]] = {
    "attacks": catalogue.attack,
    "models": catalogue.model,
    "datasets": catalogue.dataset,
    "metrics": catalogue.metric,
}


@pytest.mark.parametrize("table", TABLES)
def test_a_list_has_every_name_that_a_job_may_have(table: str, bench: Bench) -> None:
    out = done(bench, "list", table)
    assert set(KNOWN[table]) <= {line.split()[0] for line in out.splitlines() if line.strip()}


def line_of(table: str, name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(TABLES[table](name).line)
    return content


@pytest.mark.parametrize("name", KNOWN["attacks"])
def test_the_line_of_an_attack_is_let_through(name: str) -> None:
    spec = config.validate(job(**line_of("attacks", name)), JobSpec, where="job.yaml")
    require_sound(spec)
    budget = declared(name).budget_name
    assert budget is None or budget in spec.attacks[0].own


@pytest.mark.parametrize("name", KNOWN["datasets"])
def test_the_line_of_a_dataset_has_all_that_its_class_requires(name: str) -> None:
    (entry,) = line_of("datasets", name)["datasets"]
    assert DATASETS[name](**entry).name == name


@pytest.mark.parametrize("name", ["unet", "slices", "nnunet", "bundle", "meshnet", "onnx", "command"])
def test_the_line_of_a_model_is_let_through(name: str) -> None:
    config.validate(job(**line_of("models", name), targets=["mine"]), JobSpec, where="job.yaml")


def test_attack_is_described_by_its_formula_parameters_and_paper(bench: Bench) -> None:
    out = done(bench, "list", "attacks", "vafa-3d")
    for text in (
        *("arXiv:2307.07269", "dct-quantization-stretched: DCT quantisation, each slice then stretched to [0, 1]"),
        *("a = R(IDCT(q φ(c / q)) + 128)", "smallest entry of the table; None: 5", "20.0"),
    ):
        assert text in out
    assert "attacks: [{name: vafa, q_max: 20.0}]" in out
    assert ".. math" not in out


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (("models", "unetr"), ("arXiv:2103.10504", "perceptron", "dimension of hidden layer", "arch: unetr")),
        (("datasets", "acdc"), ("(1.5, 1.5, 2.0)", "list ", "datasets: [{name: acdc, root: data/mine}]")),
        (("metrics", "hd95"), ("hd95_penalised ", "voxel", "metrics: [hd95]")),
        (
            ("models", "zoo://phantom/unet-vaft"),
            ("vaft on sa2 with frequency consistency", "job zoo_phantom_vaft, seed 0, 400 steps", "86.0 (foreground"),
        ),
        (
            ("models", "zoo://hippocampus/union-wide"),
            ("at on a union of vafa_opt, sa2_opt, apgd", "70.8 under the strongest attack within any of: bias-field"),
        ),
    ],
)
def test_a_name_is_described(arguments: tuple[str, str], texts: tuple[str, ...], bench: Bench) -> None:
    """Names of all tables but metrics are read on first use, as in a process of its own."""
    KNOWN.pop("models", None)
    out = done(bench, "list", *arguments)
    assert [text for text in texts if text not in out] == []


@pytest.mark.parametrize(
    ("arguments", "likely"),
    [
        (
            ("attacks", "vaffa"),
            f"attack 'vaffa'. Did you mean 'vafa'? All {len(KNOWN['attacks'])}: freqbench list attacks",
        ),
        (("models", "zoo://phantom/unt"), "zoo checkpoint 'phantom/unt'. Did you mean 'phantom/unet'?"),
        (("models", "unetrr"), "model 'unetrr'. Did you mean 'unetr'? Known: "),
        (("datasets", "acdd"), "dataset 'acdd'. Did you mean 'acdc'? Known: "),
        (("metrics", "hd96"), "metric 'hd96'. Did you mean 'hd95'? Known: "),
    ],
)
def test_a_wrong_name_is_one_line(arguments: tuple[str, str], likely: str, bench: Bench) -> None:
    assert f"unknown {likely}" in refused(bench, "list", *arguments)


@pytest.mark.parametrize(
    ("words", "names", "others"),
    [
        (("attacks", "dct"), {"vafa", "sa2_opt"}, {"gn", "pgd"}),
        (("models", "tensorflow"), {"meshnet"}, {"unet"}),
        (("models", "union-wide"), {"zoo://hippocampus/union-wide"}, {"unet", "zoo://phantom/unet"}),
        (("metrics", "95"), {"hd95"}, {"dsc"}),
        (("jobs", "quick"), {"quickstart"}, {"phantom/suite"}),
    ],
)
def test_word_selects_its_rows(words: tuple[str, str], names: set[str], others: set[str], bench: Bench) -> None:
    out = done(bench, "list", *words)
    firsts = {line.split()[0] for line in out.splitlines() if line.strip()}
    assert names <= firsts
    assert not others & firsts


def test_packaged_jobs_are_listed_on_one_screen(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = bench("list", "jobs")[1]
    of_papers = {f"papers/{name}" for name in re.findall(r"\w+(?=,|$)", out, re.MULTILINE)}
    listed = of_papers | {line.split()[0] for line in out.splitlines()}
    assert {name for name in packaged_jobs() if not name.startswith("research/")} <= listed
    assert "How stable are" in out
    assert len(out.splitlines()) <= 40
    assert max(map(len, out.splitlines())) <= 80
    assert out.endswith("all about one: freqbench list jobs quickstart\n")
    assert "unknown job 'quickstat'. Did you mean 'quickstart'?" in refused(bench, "list", "jobs", "quickstat")


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("quickstart", ("datasets: phantom", "models: unet, unet-vaft", "attacks: gn, pgd, ", "Which attacks break")),
        (
            "research/phantom/zoo",
            ("datasets: phantom", "models: unet, segresnet, unetr", "Trains the three tiny networks"),
        ),
        ("phantom/bounds", ("attacks: ball", "audit runs/bounds --certify")),
    ],
)
def test_packaged_job_is_described_with_command_that_runs_it(name: str, texts: tuple[str, ...], bench: Bench) -> None:
    out = done(bench, "list", "jobs", name)
    assert [text for text in texts if text not in " ".join(out.split())] == []
    assert out.endswith(f"\nrun it:\nfreqbench run {name}\n")


def test_page_of_keys_has_every_key_and_two_readable_jobs(bench: Bench) -> None:
    """Attacks and defences are lists of their own, and freqbench sets budgets that it found."""
    page = bench("list", "keys")[1]
    assert len(page.splitlines()) <= 150
    others = {"Budget", "Trained", *(cls.__name__ for cls in DEFENCES.values())}
    models: list[type[Any]] = [JobSpec, TrainJob]
    for model, content in zip(models, yaml.safe_load_all(page), strict=True):
        config.validate(content, model, where="keys.yaml")
        schema = schema_of(model)
        parts = [part for name, part in schema["$defs"].items() if name not in others and "attack-" not in name]
        keys = {key for part in (schema, *parts) for key in part.get("properties", ())} - {"trained"}
        assert [key for key in keys if not re.search(rf"\b{key}\b", page)] == []


@pytest.mark.parametrize("name", packaged_jobs())
def test_a_packaged_job_states_its_question_and_cost(name: str) -> None:
    job = catalogue.job(name)
    assert job.facts["cost"]
    assert catalogue.question(job)[-1] in ".?"
    points_to_keys = "# Every key by an example: freqbench list keys\n" in packaged_jobs()[name].read_text()
    assert points_to_keys != name.startswith("research/")


def test_packaged_networks_are_listed_with_their_dice(bench: Bench) -> None:
    code, out, _ = bench("list", "models")
    lines = {line.split()[0]: line.split()[1:] for line in out.splitlines() if "zoo://" in line and "one: " not in line}
    assert (code, [*lines]) == (0, [f"zoo://{name}" for name in zoo_names()])
    assert lines["zoo://hippocampus/unet"] == ["unet", "clean", "87.1", "0.0"]
    assert lines["zoo://phantom/unet"] == ["unet", "clean", "89.1", "-"]


def test_argument_of_a_network_has_one_default(bench: Bench) -> None:
    """MONAI's text says "Defaults to 0." of residual units, of which this project's UNet has 2."""
    _, out, _ = bench("list", "models", "unet")
    text = " ".join(out.split())
    assert "number of residual units. (the class's own default: 0)" in text
    assert "Defaults to" not in text


OWN_ATTACK = '''"""Steps of a laboratory. Doe et al., 2026."""

from dataclasses import dataclass

from freqbench.attacks.pgd import PGD


@dataclass(frozen=True, kw_only=True)
class Mine(PGD):
    """Steps as PGD does."""
'''


def test_trusted_foreign_class_is_described(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.joinpath("own_attack_of_test.py").write_text(OWN_ATTACK)
    monkeypatch.syspath_prepend(tmp_path)
    assert "needs --trust-code" in refused(bench, "list", "attacks", "own_attack_of_test:Mine")
    out = done(bench, "list", "attacks", "own_attack_of_test:Mine", "--trust-code")
    for text in ("Steps of a laboratory. Doe et al., 2026", "step_size", "eps: 8/255"):
        assert text in out


@pytest.mark.parametrize(
    ("latex", "text"),
    [
        (r"\frac{a + 1}{b}", "(a + 1) / b"),
        (r"\lVert d \rVert_\infty \le \eta", "‖d‖_∞ ≤ η"),
        (r"\mathrm{IDCT}\bigl(c \, m\bigr), \qquad |u| < 1", "IDCT(c m), |u| < 1"),
    ],
)
def test_a_formula_is_text_in_a_terminal(latex: str, text: str) -> None:
    assert catalogue.plain(f"Does it.\n\n.. math:: {latex}\n") == f"Does it.\n\n    {text}"
    assert catalogue.plain(f"With :math:`{latex}` in\na paragraph.") == f"With {text} in a paragraph."
