"""What `plan` says of a job: its grid, what is done, what is missing on this machine, how long the rest may take."""

from collections.abc import Iterator, Sequence

from rich.table import Table

from freqbench.job import estimate
from freqbench.job.grid import Grid
from freqbench.job.rehearsal import Missing
from freqbench.job.remaining import Saved, current_plan
from freqbench.job.schema import JobSpec
from freqbench.results import Store


def overview(spec: JobSpec, grid: Grid) -> Table:
    """The grid by dataset, source and attack."""
    table = Table("dataset", "source", "attack", "cells", "cases", "window passes", title=f"{spec.name}: the grid")
    for row in estimate.overview(grid):
        table.add_row(*map(str, row))
    return table


def lines(grid: Grid, lacking: Sequence[Missing], is_saved: Saved | None, out: str) -> Iterator[str]:
    """What is warned of, missing, done and left.

    Args:
        grid: with stand-ins for what is missing.
        lacking: what is.
        is_saved: as of `current_plan`.
        out: the result store.
    """
    for warning in grid.warnings:
        yield f"warning: {warning}"
    if lacking:
        yield from (f"{each.word}: {each}" for each in lacking)
        if all(each.word != Missing.word for each in lacking):
            yield "passes are counted on untrained networks in their place; which records are there shows once they are"
            return
        yield (
            "passes are counted on volumes of a usual size and on untrained networks in the place of what is missing; "
            "run --dry-data phantom tries this grid now"
        )
        return
    store = Store(out)
    todo = current_plan(grid, store, is_saved)
    yield f"{todo.num_done} of {todo.num_done + todo.num_todo} records are in {store.root}"
    if todo.units:
        hours, basis = estimate.hours(todo, store)
        yield f"about {estimate.text(hours)} left on one worker ({basis})"
