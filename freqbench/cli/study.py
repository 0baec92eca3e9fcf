"""Studies what a job's settings are worth: the commands `study converge` and `study certify`."""

import re
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from freqbench.cli import common
from freqbench.cli.report import finish
from freqbench.cli.run import show_outlook
from freqbench.core.errors import UserError
from freqbench.core.terminal import amount

app = typer.Typer(name="study", help="Study how many passes suffice, or what certificates prove.", no_args_is_help=True)


@app.command()
@common.takes_job("out", "limit_cases")
def converge(
    out: Annotated[str | None, typer.Option(help="Where results go.", show_default="runs/NAME-converge")] = None,
    cases: Annotated[int, typer.Option(min=1, help="The first N cases of each dataset.")] = 3,
    steps: Annotated[str, typer.Option(help="Numbers of steps, increasing.")] = "5,10,20,40,80",
    queries: Annotated[str, typer.Option(help="Numbers of queries, for searches.")] = "100,300,1000",
    losses: Annotated[str, typer.Option(help="Losses, for attacks that take them.")] = "dice,ce,dicece,auto",
    restarts: Annotated[str, typer.Option(help="Numbers of restarts, for attacks that draw.")] = "1,3",
    *,
    options: common.JobOptions,
) -> None:
    """Show what more passes, other losses and restarts add to each attack of a job, and recommend settings.

    Every attack that follows a gradient is run at each number of steps, every search without one at each number of
    queries, with each loss and number of restarts, on a few cases,
    into a store of its own; the same command goes on where it was stopped. OUT then has converge.csv (the curves),
    converge.yaml (the recommended attacks for a job file), converge.pdf and converge.png.
    """
    job = options.job()
    from freqbench.engine import matching
    from freqbench.engine import run as runner
    from freqbench.job import plan as planning
    from freqbench.job.effort import Effort, vary_attacks
    from freqbench.training import link

    effort = Effort(
        steps=_numbers("--steps", steps),
        queries=_numbers("--queries", queries),
        losses=tuple(dict.fromkeys(word.strip() for word in losses.split(",") if word.strip())),
        restarts=_numbers("--restarts", restarts),
    )
    job = link.present(job)
    place = out or f"runs/{job.name}-converge"
    with common.stoppable("budgets were matched"):
        job = matching.match_budgets(job, place, common.say)
    variants = vary_attacks(job, effort, cases)
    if variants.left_out:
        common.say(f"left out, as more steps add nothing to their drop: {', '.join(variants.left_out)}")
    units = list(variants.grid.units())
    passes = sum(unit.passes for unit in units)
    outlook = planning.outlook(variants.grid, (), None, place)
    cells = amount(len(variants.grid.cells), "cell")
    show_outlook(outlook, f"{cells}, {amount(len(units), 'unit')}, {passes:,} window passes")
    summary = runner.execute(variants.grid, place, common.console(), options.engine, options.address)
    if summary.interrupted:
        finish(summary, place)
    _show_convergence(place, variants.entries)
    if summary.num_failed:
        common.say(f"{amount(summary.num_failed, 'record')} failed: the same command tries them again")
        raise typer.Exit(common.EXIT_FAILED)


@app.command()
@common.takes_job()
def certify(options: common.JobOptions) -> None:
    """Set what is proven of smoothed networks beside what attacks leave of them: certified at least, attacked at most.

    Every model of the job has the defence `smoothing`, and every attack is `ball` of the same kind, with radii in place
    of budgets. Cases are drawn and attacked like those of any job, into a store of rows that `report` and `audit` take
    too; the same command goes on where it was stopped. OUT then has bounds.csv, bounds.pdf and bounds.png.
    """
    job = options.job()
    from freqbench.engine import run as runner
    from freqbench.job import plan as planning
    from freqbench.reporting.views import defences
    from freqbench.training import link

    with common.stoppable("networks were trained"):
        job = link.train_rest(job, common.say, None, options.address)
    place = options.place(job)
    grid = common.grid_of(job, options.limit_cases, place)
    defences.require_certified(grid)
    show_outlook(planning.outlook(grid, (), None, place))
    summary = runner.execute(grid, place, common.console(), options.engine, options.address)
    if not summary.interrupted:
        _show_bounds(place)
    finish(summary, place, page=False)


def _numbers(option: str, text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"( *[0-9]{1,9} *,)* *[0-9]{1,9} *", text):
        raise UserError(f"{option}: expected whole numbers between commas, such as 5,10,20, got {text!r}")
    return tuple(map(int, text.split(",")))


def _show_convergence(out: str, entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Prints the tables of a store, and writes them, the recommended attacks and the figure beside its records."""
    from freqbench.analysis.frames import found_records
    from freqbench.reporting import convergence, render
    from freqbench.reporting.contents import keys_of
    from freqbench.reporting.figures.curves import convergence_figure
    from freqbench.results import Store

    store = Store(out)
    _, records = found_records([store], keys_of([store.job()]), convergence.COLUMNS)
    for line in convergence.failed_lines(records, entries):
        common.say(line)
    table = convergence.settings(records, entries)
    if table.empty:
        raise UserError(f"{out}: expected a DSC of at least one setting, got none: see the errors of its records")
    common.put(render.terminal(render.word_sections(convergence.sections(table))), None)
    advice = convergence.job_text(convergence.recommend(table), entries).encode()
    figure = convergence_figure(table)
    _put_beside(out, "converge", figure, csv=render.csv(table.drop(columns="cell_id")).encode(), yaml=advice)


def _show_bounds(out: str) -> None:
    """Prints the table of a store's certificates, and writes all of them and the figure beside its records."""
    import pandas as pd

    from freqbench.analysis import certificates
    from freqbench.reporting import render
    from freqbench.reporting.contents import contents
    from freqbench.reporting.figures.curves import bounds_figure
    from freqbench.reporting.views import defences
    from freqbench.results import Store

    content = contents([Store(out)], (*certificates.COLUMNS, "dsc"), with_classes=False)
    sections = defences.bounds(content.records)
    common.put(render.terminal(sections), None)
    tables = [section.data for section in sections if section.data is not None]
    if tables:
        table = pd.concat(tables)
        _put_beside(out, "bounds", bounds_figure(certificates.means(table)), csv=render.csv(table).encode())


def _put_beside(out: str, name: str, figure: Any, **files: bytes) -> None:
    """Writes a figure and files by their suffix beside a store's records; refuses to replace files of others."""
    from freqbench.core.files import storage
    from freqbench.reporting.figures.style import MAKER, pdf_and_png

    pdf, png = pdf_and_png(figure)
    files |= {"pdf": pdf, "png": png}
    paths = {suffix: storage.join(out, f"{name}.{suffix}") for suffix in files}
    for suffix, path in paths.items():  # all before the first is written
        mark = MAKER.encode() if suffix in ("pdf", "png") else files[suffix].partition(b"\n")[0]
        storage.require_own(path, mark)
    for suffix, path in paths.items():
        storage.write_atomic(path, files[suffix])
        common.say(f"written: {path}")
