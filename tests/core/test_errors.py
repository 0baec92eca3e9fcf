"""Refusals are of a length that people read, whatever they repeat."""

import io
import re
import sys

import pytest
from rich.progress import Progress

from freqbench.core.errors import DataError, ParameterError, UserError, one_line, unknown
from freqbench.core.terminal import PlainConsole


@pytest.mark.parametrize(
    "error",
    [
        UserError(f"job.yaml: name: got {'9' * 5000}: give a shorter one"),
        DataError(f"job.yaml: {'/a' * 9000}: give a shorter one"),
        ParameterError("job.yaml", "eps", f"got {'9' * 5000}: give a shorter one"),
    ],
)
def test_a_refusal_keeps_its_begin_and_its_advice(error: UserError) -> None:
    assert len(str(error)) <= 1000
    assert str(error).startswith("job.yaml: ")
    assert str(error).endswith(": give a shorter one")


def test_a_long_text_is_cut_between_words() -> None:
    words = " ".join(f"word{number:03}" for number in range(500))
    assert (one_line(words, 20), one_line(words, 23)) == ("word000 word001 ...", "word000 word001 word002 ...")
    assert one_line("9" * 50, 20) == "9" * 20 + " ..."
    assert all(re.fullmatch(r"word\d{3}|\.\.\.", word) for word in str(UserError(words)).split())


@pytest.mark.parametrize("end", ["\n", "\r", "\x85", "\u2028"])
def test_a_refusal_is_one_line_whatever_it_repeats(end: str) -> None:
    assert str(UserError(f"pgd.a{end}: unknown parameter")) == "pgd.a : unknown parameter"


def test_unknown_name_is_told_some_of_many_names_and_nearest() -> None:
    said = unknown("case", "case_77x" + "y" * 9, [f"case_{i:04}" for i in range(1000)])
    assert said.endswith("case_0020, case_0021 and 975 more")
    assert "Did you mean 'case_" in said


def test_a_reset_of_colours_into_a_bar_s_stdout_is_no_text() -> None:
    """Ray's colorama writes it at exit if it was imported while a bar was shown; another escape stays visible."""
    console = PlainConsole(file=io.StringIO(), force_terminal=True, width=40)
    with Progress(console=console):
        stdout = sys.stdout
    console.file = io.StringIO()
    stdout.write("\x1b[0m")
    stdout.flush()
    assert console.file.getvalue() == ""
    stdout.write("\x1b[31mred")
    stdout.flush()
    assert "?[31mred" in console.file.getvalue()
