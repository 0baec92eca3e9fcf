"""What `plan` says of a job: its grid, what is done, what is missing on this machine, how long the rest may take."""

from collections.abc import Iterator, Sequence

from rich.table import Column, Table

from freqbench.engine import estimate
from freqbench.engine.rehearsal import Missing
from freqbench.engine.runner import current_plan, volumes_root
from freqbench.grid import Grid
from freqbench.job import JobSpec
from freqbench.results import Store


def tables(spec: JobSpec, grid: Grid, lacking: Sequence[Missing]) -> Iterator[Table]:
    """The grid by dataset, source and attack, and what is missing."""
    table = Table("dataset", "source", "attack", "cells", "cases", "window passes", title=f"{spec.name}: the grid")
    for row in estimate.overview(grid):
        table.add_row(*map(str, row))
    yield table
    if lacking:
        expected, source = (Column(text, overflow="fold") for text in ("what was expected", "to be had from"))
        absent = Table("missing", expected, source, title="missing here")
        for each in lacking:
            absent.add_row(each.what, each.complaint, each.source)
        yield absent


def lines(spec: JobSpec, grid: Grid, lacking: Sequence[Missing], out: str) -> Iterator[str]:
    """What is done, warned of and left."""
    for warning in grid.warnings:
        yield f"warning: {warning}"
    if lacking:
        yield (
            f"{len(lacking)} things are missing here: passes are counted on volumes of a usual size and on untrained "
            "networks in their place; nothing can be run but `run --dry-data phantom`"
        )
        return
    store = Store(out)
    todo = current_plan(grid, store, volumes_root(spec, store.root))
    yield f"{todo.num_done} of {todo.num_done + todo.num_todo} records are in {store.root}"
    hours, basis = estimate.hours(todo, store)
    yield f"about {estimate.text(hours)} left on one worker ({basis})"
