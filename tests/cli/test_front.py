"""The commands: one screen of help, and what each refuses."""

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from command_line import Bench, refused

from freqbench.cli import PANELS, app
from freqbench.core.names import packaged_jobs


def below(group: Any, *before: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yields the words and the command of every command and group."""
    for name, command in group.commands.items():
        yield (*before, name), command
        if hasattr(command, "commands"):
            yield from below(command, *before, name)


ROOT = typer.main.get_command(app)
PATHS = dict(below(ROOT))
COMMANDS = {words: command for words, command in PATHS.items() if not hasattr(command, "commands")}


def test_the_help_is_one_screen_with_every_command_in_its_panel(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, text, err = bench("--help")
    lines = text.splitlines()
    assert (code, err) == (0, "")
    assert 24 <= len(lines) <= 30
    assert max(map(len, lines)) <= 80
    assert "..." not in text.partition("\n")[2], "a sentence is cut"
    names = [line.split()[0] for line in lines if line.startswith("  ") and line[2:3].islower()][: len(OF_PANELS) + 1]
    assert names[1:] == OF_PANELS  # after the sentence at the top
    assert bench() == (2, text, "")
    assert set(OF_PANELS) == set(ROOT.commands)  # type: ignore[attr-defined]


OF_PANELS = [name for names in PANELS.values() for name in names]


@pytest.mark.parametrize("words", PATHS, ids=" ".join)
def test_help_of_a_command_reads_well(words: tuple[str, ...], bench: Bench) -> None:
    code, out, err = bench(*words, "--help")
    assert (code, err) == (0, "")
    assert "Usage:" in out
    for option in ("--out", "--set", "--limit-cases") if words[-1] in ("plan", "run", "submit") else ():
        assert option in out


def test_the_help_shows_45_options_and_help_all_every_one(bench: Bench) -> None:
    options = [each for command in (ROOT, *PATHS.values()) for each in command.params if hasattr(each, "is_flag")]
    assert sum(not each.hidden for each in options) <= 45
    assert len(COMMANDS) == 16
    for words, is_there in ((("--help",), False), (("--help-all",), True), (("--help",), False)):
        said = bench("run", *words)[1]
        assert ("--engine" in said, "more options: --help-all" in said) == (is_there, not is_there)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_function_of_a_command_has_at_most_seven_parameters(words: tuple[str, ...]) -> None:
    assert len(inspect.signature(inspect.unwrap(COMMANDS[words].callback)).parameters) <= 7


@pytest.mark.parametrize(
    ("path", "option", "kind"),
    [
        ("research/phantom/zoo", ("--shard", "1/2"), "a job with attacks, got a training job"),
        ("research/phantom/zoo", ("--engine", "serial"), "a job with attacks, got a training job"),
        ("quickstart", ("--only", "unet"), "a training job, got a job with attacks"),
    ],
)
def test_an_option_of_the_other_kind_of_job_is_refused(
    path: str, option: tuple[str, str], kind: str, bench: Bench
) -> None:
    said = refused(bench, "run", path, *option)
    assert said == f"error: {packaged_jobs()[path]}: {option[0]}: expected {kind}: leave it out\n"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("a", "b", "--open"), "report: --open: expected one store, got 2: open one after another"),
        (("a", "--open", "--figures", "f"), "report: --figures: expected no other option beside it: run report twice"),
        (("a", "--open", "--format", "md"), "report: --open: expected no other option beside it: run report twice"),
    ],
)
def test_a_report_is_shown_one_way_at_a_time(words: tuple[str, ...], complaint: str, bench: Bench) -> None:
    assert refused(bench, "report", *words) == f"error: {complaint}\n"
