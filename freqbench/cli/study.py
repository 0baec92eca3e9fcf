"""Studies what a job's settings are worth: the commands `study converge` and `study certify`."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer

from freqbench.cli import common
from freqbench.cli.report import finish
from freqbench.cli.run import show_outlook
from freqbench.core.errors import UserError

if TYPE_CHECKING:
    from freqbench.job.grid import Grid

app = typer.Typer(name="study", help="Study how many passes suffice, or what certificates prove.", no_args_is_help=True)


@app.command()
@common.takes_job()
def converge(options: common.JobOptions) -> None:
    """Show what more passes, other losses and restarts add to each attack of a job, and recommend settings.

    The job lists what is compared: `steps: [5, 10, 20]` of attacks that follow a gradient, `queries` of searches,
    `loss` and `restarts`. It runs like any job, and the same command goes on where it was stopped. OUT then has
    converge.csv (the curves), converge.yaml (the recommended attacks for a job file), converge.pdf and converge.png.
    """
    from freqbench.reporting import convergence

    _carry_out(options, convergence.require_counted, _show_convergence)


@app.command()
@common.takes_job()
def certify(options: common.JobOptions) -> None:
    """Set what is proven of smoothed networks beside what attacks leave of them: certified at least, attacked at most.

    Every model of the job has the defence `smoothing`, and every attack is `ball` of the same kind, with radii in place
    of budgets. Cases are drawn and attacked like those of any job, into a store of rows that `report` and `audit` take
    too; the same command goes on where it was stopped. OUT then has bounds.csv, bounds.pdf and bounds.png.
    """
    from freqbench.reporting.views import defences

    _carry_out(options, defences.require_certified, lambda place, _: _show_bounds(place))


def _carry_out(
    options: common.JobOptions, require: Callable[["Grid"], None], show: Callable[[str, "Grid"], None]
) -> None:
    """Runs the job of a study, whose grid `require` may refuse; `show` reads the store, unless it was stopped."""
    job = options.job()
    from freqbench.engine import run as runner
    from freqbench.job import plan as planning
    from freqbench.training import link

    with common.stoppable("networks were trained"):
        job = link.train_rest(job, common.say, None, options.address)
    place = options.place(job)
    with common.stoppable("budgets were matched"):
        grid = common.grid_of(job, options.limit_cases, place, match=True)
    require(grid)
    show_outlook(planning.outlook(grid, (), None, place))
    how = runner.RunOptions(engine=options.engine, address=options.address)
    summary = runner.execute(grid, place, common.console(), how)
    if not summary.interrupted:
        show(place, grid)
    finish(summary, place, page=False)


def _show_convergence(out: str, grid: "Grid") -> None:
    """Prints the tables of a store, and writes them, the recommended attacks and the figure beside its records."""
    from freqbench.analysis.frames import found_records
    from freqbench.reporting import convergence, render
    from freqbench.reporting.contents import keys_of
    from freqbench.reporting.figures.curves import convergence_figure
    from freqbench.results import Store

    store, entries = Store(out), convergence.counted_entries(grid.cells)
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
