"""Plans and runs a job file, or trains networks: `plan`, `run`, `converge`, `certify`, `schema` and `train`."""

import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Column, Table

from freqbench.cli import common
from freqbench.cli.report import finish
from freqbench.core.errors import UserError, one_line
from freqbench.core.terminal import amount

if TYPE_CHECKING:
    from freqbench.job.plan import Outlook

app = typer.Typer()


@app.command(rich_help_panel=common.RUN)
@common.takes_job("engine", "address")
def plan(
    options: common.JobOptions,
    price: Annotated[
        str | None, typer.Option(help="Cost of one worker for an hour, such as 2.5/h: prices the rest.")
    ] = None,
    as_json: common.Json = False,
) -> None:
    """Show cells, cases, passes, finished work and the time that the rest may take; compute nothing."""
    if price is not None and not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?/h", price):
        raise UserError(f"--price: expected the cost of one worker for an hour, such as 2.5/h, got {price!r}")
    hourly = float(price.removesuffix("/h")) if price else None
    with common.aside(as_json):
        job = options.job()  # refuses a bad job before slow imports
        from freqbench.engine import saved_volumes
        from freqbench.job import plan as planning
        from freqbench.job import rehearsal
        from freqbench.training import link

        job, untrained = link.planned(job)
        lacking = (*untrained, *rehearsal.missing(job))
        place = options.place(job)
        grid = common.grid_of(rehearsal.counted(job, lacking), options.limit_cases, place)
        root = planning.volumes_root(grid, place)
        outlook = planning.outlook(grid, lacking, saved_volumes.saved(root) if root else None, place, hourly)
    if as_json:
        common.put_json(asdict(outlook))
        return
    _show_outlook(outlook)


@app.command(rich_help_panel=common.RUN)
@common.takes_job()
def run(
    options: common.JobOptions,
    dry_data: Annotated[
        Literal["phantom"] | None,
        typer.Option(help="Try the grid on small phantoms and untrained networks, under a minute."),
    ] = None,
    shard: common.Shard = None,
    force: common.Force = False,
    page: Annotated[bool, typer.Option("--page/--no-page", help="Write OUT/report.html at the end.")] = True,
    log: Annotated[
        Literal["tensorboard", "mlflow", "wandb"] | None,
        typer.Option(help="At the end, log each cell's settings, means and picture, below OUT."),
    ] = None,
) -> None:
    """Attack and score the rest of a job, and store the results; the same command goes on where it was stopped."""
    from freqbench.results import Shard

    if dry_data:  # into a store of its own
        options = replace(options, engine="serial", out=options.out and f"{options.out.rstrip('/')}-dry")
    part = Shard.parse(shard) if shard else None
    job = options.job()
    from freqbench.engine import run as runner
    from freqbench.job import rehearsal
    from freqbench.training import link

    if log:
        from freqbench.reporting import tracker

        tracker.require(log, options.place(job))
    with common.stoppable("networks were trained"):
        if dry_data:
            job = rehearsal.rehearsed(link.described(job))
        else:
            job = link.fulfilled(job, common.say, part, options.address)
    place = options.place(job)
    with common.stoppable("budgets were matched"):
        grid = common.grid_of(job, options.limit_cases, place, match=True)
    summary = runner.execute(grid, place, common.console(), options.engine, options.address, part, force)
    if log:
        try:
            common.say(f"logged: {tracker.log(log, place)}")
        except (UserError, OSError) as error:
            common.say(f"not logged: {one_line(error)}: all rows are in {place}, and the same command logs them later")
    finish(summary, place, page)


@app.command(rich_help_panel=common.RUN)
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
    from freqbench.job.effort import Effort, varied
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
        job = matching.matched(job, place, common.say)
    variants = varied(job, effort, cases)
    if variants.left_out:
        common.say(f"left out, as more steps add nothing to their drop: {', '.join(variants.left_out)}")
    units = list(variants.grid.units())
    passes = sum(unit.passes for unit in units)
    outlook = planning.outlook(variants.grid, (), None, place)
    cells = amount(len(variants.grid.cells), "cell")
    _show_outlook(outlook, f"{cells}, {amount(len(units), 'unit')}, {passes:,} window passes")
    summary = runner.execute(variants.grid, place, common.console(), options.engine, options.address)
    if summary.interrupted:
        finish(summary, place)
    _show_convergence(place, variants.entries)
    if summary.num_failed:
        common.say(f"{amount(summary.num_failed, 'record')} failed: the same command tries them again")
        raise typer.Exit(common.EXIT_FAILED)


@app.command(rich_help_panel=common.RUN)
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
        job = link.fulfilled(job, common.say, None, options.address)
    place = options.place(job)
    grid = common.grid_of(job, options.limit_cases, place)
    defences.require_certified(grid)
    _show_outlook(planning.outlook(grid, (), None, place))
    summary = runner.execute(grid, place, common.console(), options.engine, options.address)
    if not summary.interrupted:
        _show_bounds(place)
    finish(summary, place, page=False)


def _show_outlook(outlook: "Outlook", *notes: str) -> None:
    """Prints the table of cells that a run has ahead, notes, and the lines on passes and time."""
    from freqbench.job import plan as planning

    common.console().print(planning.table(outlook))
    for line in (*notes, *planning.lines(outlook)):
        common.say(line)


@app.command(rich_help_panel=common.START)
def schema(
    training: Annotated[bool, typer.Option("--training", help="Schema of a training job, not of a job file.")] = False,
) -> None:
    """Show the JSON Schema of a job file, for editors that complete and check YAML while it is typed."""
    from freqbench.job.json_schema import schema_of
    from freqbench.job.schema import JobSpec
    from freqbench.job.training import TrainJob

    common.put_json(schema_of(TrainJob if training else JobSpec))


@app.command(rich_help_panel=common.RUN)
def train(
    path: common.TrainingJob,
    out: common.RunOut = None,
    set_: common.Overrides = None,
    address: common.Address = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Network to train, with the one that it starts from; may be repeated.")
    ] = None,
) -> None:
    """Train the networks of a training job, clean or adversarially; the same command goes on where it was stopped."""
    from freqbench import training
    from freqbench.job import schema
    from freqbench.training import link

    try:
        job = schema.load_training(path, set_ or ())
        with link.ray_for(job, address):
            results = training.train(job, out, only=only or None)
    except KeyboardInterrupt:
        common.console().print("stopped: the same command goes on from here")
        raise typer.Exit(common.EXIT_INTERRUPTED) from None
    weights = Column("weights", overflow="fold")
    columns = ("model", "steps", "seconds", "select Dice", "attacked", "test Dice")
    table = Table(*columns, weights, title="foreground Dice")
    for result in results:
        dice = (result.dice_select, result.dice_attacked, result.dice_test)
        figures = ("" if value is None else f"{value:.3f}" for value in dice)
        table.add_row(result.name, str(result.steps), f"{result.seconds:.0f}", *figures, result.path)
    common.console().print(table)


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
    for line in convergence.failed(records, entries):
        common.say(line)
    table = convergence.settings(records, entries)
    if table.empty:
        raise UserError(f"{out}: expected a DSC of at least one setting, got none: see the errors of its records")
    common.put(render.terminal(render.in_words(convergence.sections(table))), None)
    advice = convergence.job_text(convergence.recommended(table), entries).encode()
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
