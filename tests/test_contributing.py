"""Each "Add a ..." of CONTRIBUTING.md is followed to the letter in a copy of the repository, and works there."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pandas as pd
import pytest
import yaml

from freqbench.attacks.core.declared import declared

ROOT = Path(__file__).parents[1]
UNET = {"name": "unet", "arch": "attention_unet", "checkpoint": "random", "roi": [16, 16, 16]}
LINEAR = {"name": "linear", "arch": "linear", "checkpoint": "linear.json", "roi": [16, 16, 16]}
JOB = {
    "name": "added",
    "datasets": [{"name": "cubes", "cases": 2}],
    "models": [UNET, LINEAR],
    "attacks": [{"name": "two_step", "eps": "8/255"}],
    "metrics": ["dsc", "sensitivity"],
    "resources": {"threads": 1},
}
pytestmark = pytest.mark.integration


def steps(*sections: str) -> list[tuple[str, str, str]]:
    """The language, the path and the content of each file or change that sections of CONTRIBUTING.md show."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    chosen = [part for part in text.split("\n## ") if part.split("\n")[0] in sections]
    assert len(chosen) == len(sections)
    files = [
        (language, re.split(r"^# (?=\w+/)", textwrap.dedent(block), flags=re.MULTILINE)[1:])
        for _, language, block in re.findall(r"^( *)```(\w+)\n(.*?)^\1```", "\n".join(chosen), re.MULTILINE | re.DOTALL)
    ]
    return [(language, *file.split("\n", 1)) for language, parts in files for file in parts]  # type: ignore[misc]


def follow(tree: Path, *sections: str) -> None:
    """Does what the sections say."""
    for language, path, content in steps(*sections):
        if language != "diff":
            assert not (tree / path).exists()
            (tree / path).write_text(content, encoding="utf-8")
            continue
        lines = (tree / path).read_text(encoding="utf-8").split("\n")
        place = 0
        for sign, line in ((line[:1], line[1:]) for line in content.rstrip("\n").split("\n")):
            if sign == "+":
                lines.insert(place, line)
                place += 1
            else:
                place = lines.index(line) + 1
        (tree / path).write_text("\n".join(lines), encoding="utf-8")


def copied(place: Path) -> Path:
    """A copy of what is installed, and of the tests."""
    skipped = shutil.ignore_patterns("__pycache__", ".venv", ".git", "arrays", "reports", "generated", "*_cache")
    return Path(shutil.copytree(ROOT, place / "tree", symlinks=True, ignore=skipped))


def require_style(tree: Path, paths: set[str]) -> "subprocess.Popen[str]":
    """Holds what was added to the repository's own check of style, and begins that of types."""
    for tool in (("check",), ("format", "--check")):
        ended = run(tree, "-m", "ruff", *tool, *paths)
        assert ended.returncode == 0, ended.stdout
    package = sorted(path for path in paths if path.startswith("freqbench/"))
    return subprocess.Popen([sys.executable, "-m", "mypy", *package], cwd=tree, stdout=subprocess.PIPE, text=True)


def run(tree: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)


TESTS = (
    "attacks/test_contract.py::test_every_attack_keeps_the_contract[two_step]",
    "attacks/test_contract.py::test_attacks_raise_the_loss_and_towards_a_target_lower_it[two_step]",
    "attacks/test_threat_models.py::test_strongest_forms_have_the_limits_of_the_attack[two_step]",
    "job/test_refusals.py::test_the_outline_of_an_attack_agrees_with_its_class[two_step]",
    "job/test_refusals.py::test_parameters_that_an_attack_takes_pass_the_check[two_step]",
    "models/test_nets.py::test_default_network_takes_the_default_window[attention_unet]",
)
COMMANDS = """
import sys

import pytest
from freqbench.cli import app, main

tests, sys.argv[1:] = sys.argv[1:], ["plan", "wrong.yaml"]
try:
    main()
except SystemExit as end:
    print(end.code, "torch" in sys.modules)
for words in (
    "run added.yaml --no-page --engine serial",
    "audit runs/added --rows 2",
    "audit runs/added --all",
    "report runs/added --table clinical --format csv",
    "report runs/added --table two_step_table1 --format md",
):
    app(words.split(), standalone_mode=False)
sys.exit(pytest.main(["-m", "", "-n", "0", "-q", "-p", "no:cacheprovider", *tests]))
"""


def test_additions_of_contributing_run_and_are_tested(tmp_path: Path) -> None:
    """A wrong parameter of the attack is refused before torch is imported; pytest refuses a test that is not there."""
    tree = copied(tmp_path)
    titles = re.findall(r"^## (Add an? .*)$", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(titles) == 7
    follow(tree, *titles)
    types = require_style(tree, {path for _, path, _ in steps(*titles) if path.endswith(".py")})
    (tree / "linear.json").write_text('{"weight": [[-9], [9]], "bias": [5.4, -5.4]}')
    (tree / "added.yaml").write_text(yaml.safe_dump(JOB))
    (tree / "wrong.yaml").write_text(yaml.safe_dump({**JOB, "attacks": [{"name": "two_step", "esp": 0.1}]}))
    ended = run(tree, "-c", COMMANDS, *(f"tests/{name}" for name in TESTS))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stderr.startswith("error: wrong.yaml: attacks[0].esp: unknown parameter 'esp'. Did you mean 'eps'?")
    assert ended.stdout.startswith("2 False\n")
    rows = pd.read_parquet(tree / "runs" / "added" / "records")
    assert rows[["attack", "dataset", "status"]].values.tolist() == [["two_step", "cubes", "ok"]] * 8
    assert (rows.loc[rows["target_model"] == "linear", "dsc_foreground_clean"] == 1).all()
    assert rows["sensitivity"].between(0, 1).all()
    assert rows["sensitivity_clean"].between(0, 1).all()
    assert (rows["sensitivity_undefined_classes"] == 0).all()
    assert rows["linf"].tolist() == pytest.approx([8 / 255] * 8, rel=1e-4)
    assert ",sensitivity,sensitivity_clean,section\n" in ended.stdout
    assert "attacks do harm" in " ".join(ended.stdout.split())
    assert "Attention U-Net" in ended.stdout
    assert f"{len(TESTS)} passed" in ended.stdout
    assert {path for _, path, _ in steps("Add an attack")} == {
        *("freqbench/attacks/two_step.py", "freqbench/attacks/table.py", "tests/attacks/examples.py")
    }
    said, _ = types.communicate()
    assert types.returncode == 0, said
    assert declared("two_step") is None, "it stands in the copy alone"
