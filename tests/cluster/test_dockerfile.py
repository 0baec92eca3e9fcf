"""The Dockerfile: what its instructions name is there, as no Docker builds it here."""

import re
import subprocess
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "cluster" / "docker" / "Dockerfile"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
KNOWN = {"ARG", "FROM", "ENV", "RUN", "WORKDIR", "COPY", "USER", "CMD"}


def instructions(text: str) -> list[tuple[str, str]]:
    """Name and arguments of each, continued lines joined and comments left out; ValueError where there is no name."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    found = []
    for line in filter(str.strip, joined.splitlines()):
        name, _, arguments = line.partition(" ")
        if name not in KNOWN or not arguments.strip():
            raise ValueError(f"expected an instruction, got {line!r}")
        found.append((name, " ".join(arguments.split())))
    return found


FOUND = instructions(DOCKERFILE.read_text(encoding="utf-8"))


def arguments(name: str) -> list[str]:
    return [found for each, found in FOUND if each == name]


def defaults() -> dict[str, str]:
    return dict(argument.split("=", 1) for argument in arguments("ARG"))


def test_the_base_is_a_pinned_python_of_those_that_are_supported() -> None:
    assert re.fullmatch(r"3\.11\.\d+", defaults()["PYTHON"])
    assert PROJECT["requires-python"] == ">=3.11"
    assert arguments("FROM") == ["python:${PYTHON}-slim-bookworm"]


def test_what_an_argument_names_is_defined() -> None:
    used = set(re.findall(r"\$\{?([A-Z_]+)", " ".join(found for _, found in FOUND)))
    assert used == defaults().keys()


@pytest.mark.parametrize("source", [word for line in arguments("COPY") for word in line.split()[:-1]])
def test_what_is_copied_is_there_and_sent_to_docker(source: str) -> None:
    assert (ROOT / source).exists()
    patterns = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert patterns[0] == "*"
    assert any(fnmatch(source, pattern[1:]) for pattern in patterns if pattern.startswith("!"))


def test_the_extras_exist() -> None:
    assert set(defaults()["EXTRAS"].split(",")) == {"cluster", "s3"} <= PROJECT["optional-dependencies"].keys()


def test_torch_has_the_bounds_of_the_project() -> None:
    (line,) = [run for run in arguments("RUN") if "torchvision" in run]
    pinned = re.findall(r'"(torch[^"]*)"', line)
    assert sorted(pinned) == sorted(each for each in PROJECT["dependencies"] if each.startswith("torch"))


@pytest.mark.parametrize(("index", "words"), [("", []), ("https://cpu/wheels", ["--index-url", "https://cpu/wheels"])])
def test_torch_comes_from_the_index_that_is_given_else_from_pips_own(index: str, words: list[str]) -> None:
    (line,) = [run for run in arguments("RUN") if "torchvision" in run]
    said = subprocess.run(
        ["sh", "-c", f"pip() {{ printf '%s\\n' \"$@\"; }}\n{line}"],
        env={"TORCH_INDEX": index},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert [word for word in said if not word.startswith(("torch", "install", "--no-cache"))] == words


def test_pips_own_index_is_the_default_and_no_other_host_is_named() -> None:
    assert defaults()["TORCH_INDEX"] == ""
    assert not re.search(r"https?://", DOCKERFILE.read_text(encoding="utf-8"))


def test_the_user_is_not_root() -> None:
    assert arguments("USER") == ["freqbench"]
    names = [name for name, _ in FOUND]
    assert "RUN" not in names[names.index("USER") :]
