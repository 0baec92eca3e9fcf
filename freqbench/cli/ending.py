"""Ends a command that made records: prints results in short, writes the page, names next steps, sets the exit code."""

import shlex
import sys
from typing import Any

import typer

from freqbench.cli import common
from freqbench.cli.report import write_page
from freqbench.core.errors import one_line

NEXT = ("freqbench open {out}", "freqbench report {out}", "freqbench audit {out}")


def finish(summary: Any, out: str, page: bool = True) -> None:
    """Shows the results, writes the page, and leaves with the exit code of a run's summary."""
    from freqbench.core.files import storage

    if summary.interrupted:
        common.say(
            f"stopped: {summary.num_done + summary.num_new} records are stored in {out}; the same command goes on"
        )
        raise typer.Exit(common.EXIT_INTERRUPTED)
    sys.stdout.write(common.tables([out], "terminal", "overview") + "\n")
    common.say(
        f"{summary.num_new} records in {summary.seconds:.0f} s, {summary.num_done} were there before: "
        f"{storage.join(out, 'records')}"
    )
    if page:
        with common.stoppable("the page was written"):
            try:
                write_page([out], None, with_volumes=False, yes=False)
            except Exception as error:  # noqa: BLE001 (a faulty page does not spoil the run)
                common.say(f"no page: {one_line(error)}")
    for i, command in enumerate(NEXT):
        common.say(f"{'next:' if i == 0 else '     '} {command.format(out=shlex.quote(out))}")
    if summary.num_failed:
        common.console().print(f"{summary.num_failed} records failed: the same command tries them again", style="red")
        raise typer.Exit(common.EXIT_FAILED)
