"""Texts on a terminal."""

import io
import sys

from rich.progress import Progress

from freqbench.core.terminal import PlainConsole


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
