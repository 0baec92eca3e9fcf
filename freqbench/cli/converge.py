"""The command `converge`: how many passes are enough for the attacks of a job."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import typer

from freqbench.cli import common
from freqbench.core.errors import UserError

app = typer.Typer()


@app.command()
def converge(
    job: Annotated[str, typer.Argument(help="Job file (YAML) of a benchmark.", metavar="JOB")],
    out: Annotated[str | None, typer.Option("--out", help="Where results go [default: runs/NAME-converge].")] = None,
    cases: Annotated[int, typer.Option("--cases", min=1, help="The first N cases of each dataset.")] = 3,
    steps: Annotated[str, typer.Option("--steps", help="Numbers of steps, increasing.")] = "5,10,20,40,80",
    losses: Annotated[str, typer.Option("--losses", help="Losses, for attacks that take one.")] = "dice,ce,dicece",
    restarts: Annotated[str, typer.Option("--restarts", help="Numbers of restarts, for attacks that draw.")] = "1,3",
    engine: Annotated[Literal["auto", "ray", "serial"], typer.Option(help="As of `run`.")] = "auto",
    address: Annotated[str | None, typer.Option(help="Ray cluster, as of `run`.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override the job file, as of `run`.")] = None,
    trust_code: Annotated[
        bool, typer.Option("--trust-code", help="Let code of other packages and of frozen models run: read it first.")
    ] = False,
) -> None:
    """Show how much more passes, other losses and restarts add to each attack of a job, and recommend settings.

    Every attack that follows a gradient is run at each number of steps, loss and number of restarts on a few cases,
    into a store of its own; the same command goes on where it was stopped. OUT then has converge.csv (the curves),
    converge.yaml (the recommended attacks for a job file), converge.pdf and converge.png.
    """
    from freqbench.engine import matching, run
    from freqbench.job import plan
    from freqbench.job.effort import Effort, varied
    from freqbench.training import trained

    effort = Effort(steps=_numbers("--steps", steps), losses=_words(losses), restarts=_numbers("--restarts", restarts))
    spec = trained.present(common.job_of(job, set_, trust_code), job)
    place = out or f"runs/{spec.name}-converge"
    try:
        spec = matching.matched(spec, place, common.say, job)
    except KeyboardInterrupt:
        common.say("stopped while budgets were matched: what was found is kept, and the same command goes on")
        raise typer.Exit(common.EXIT_INTERRUPTED) from None
    found = varied(spec, effort, cases, job)
    if found.left_out:
        common.say(f"left out, as more steps add nothing to their drop: {', '.join(found.left_out)}")
    units = list(found.grid.units())
    common.console().print(plan.overview(found.job, found.grid))
    passes = sum(unit.passes for unit in units)
    common.say(f"{len(found.grid.cells)} cells, {len(units)} units, {passes:,} window passes")
    for line in plan.lines(found.grid, (), None, place):
        common.say(line)
    summary = run.execute(found.job, found.grid, place, common.console(), engine, address)
    if summary.interrupted:
        common.finish(summary, place)
    _show(place, found.entries)
    if summary.num_failed:
        common.say(f"{summary.num_failed} records failed: the same command tries them again")
        raise typer.Exit(common.EXIT_FAILED)


def _words(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def _numbers(option: str, text: str) -> tuple[int, ...]:
    """Whole numbers between commas.

    Raises:
        UserError: something else.
    """
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise UserError(f"{option}: expected whole numbers between commas, such as 5,10,20, got {text!r}") from None


def _show(out: str, entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the tables of a store, and write them, the recommended attacks and the figure beside its records."""
    from freqbench.analysis.frames import found_records
    from freqbench.core import storage
    from freqbench.reporting import convergence, render
    from freqbench.reporting.contents import keys_of
    from freqbench.reporting.figures.curves import convergence_figure
    from freqbench.reporting.figures.style import pdf_and_png
    from freqbench.results import Store

    store = Store(out)
    _, records = found_records([store], keys_of([store.job()]), convergence.COLUMNS)
    for line in convergence.failed(records, entries):
        common.say(line)
    table = convergence.settings(records, entries)
    if table.empty:
        raise UserError(f"{out}: expected a DSC of at least one setting, got none: see the errors of its records")
    common.put(render.terminal(convergence.sections(table)), None)
    pdf, png = pdf_and_png(convergence_figure(table))
    files = {
        "csv": render.csv(table.drop(columns="cell_id")).encode(),
        "yaml": convergence.job_text(convergence.recommended(table), entries).encode(),
        "pdf": pdf,
        "png": png,
    }
    for suffix, content in files.items():
        path = storage.join(out, f"converge.{suffix}")
        storage.write_atomic(path, content)
        common.say(f"written: {path}")
