"""Plans and runs a job, which attacks networks or trains them: the commands `plan` and `run`."""

import re
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Column, Table

from freqbench.cli import common
from freqbench.cli.common import more, option
from freqbench.cli.report import finish
from freqbench.core.errors import UserError, one_line

if TYPE_CHECKING:
    from freqbench.job.training import TrainJob

app = typer.Typer()


@app.command()
@common.takes_options
def plan(
    options: common.JobOptions,
    price: Annotated[str | None, more("Cost of one worker for an hour, such as 2.5/h: prices the rest.")] = None,
    as_json: common.Json = False,
) -> None:
    """Show what a job has left to do, and how long it may take.

    Its cells, cases, passes and finished work; nothing is computed.
    """
    if price is not None and not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?/h", price):
        raise UserError(f"--price: expected the cost of one worker for an hour, such as 2.5/h, got {price!r}")
    hourly = float(price.removesuffix("/h")) if price else None
    with common.aside(as_json):
        job = options.job()  # refuses a bad job before slow imports
        from freqbench.engine import saved_volumes
        from freqbench.job import plan as planning
        from freqbench.job import rehearsal
        from freqbench.training import link

        job, untrained = link.plan_training(job)
        lacking = (*untrained, *rehearsal.missing(job))
        place = options.place(job)
        grid = common.grid_of(rehearsal.add_stand_ins(job, lacking), options.limit_cases, place)
        root = planning.volumes_root(grid, place)
        outlook = planning.outlook(grid, lacking, saved_volumes.find_saved(root) if root else None, place, hourly)
    if as_json:
        common.put_json(asdict(outlook))
        return
    common.console().print(planning.table(outlook))
    for line in planning.lines(outlook):
        common.say(line)
    if any(cell.attack.name == "ball" for cell in grid.cells):
        from freqbench.reporting.views import defences

        try:
            defences.require_certified(grid)
        except UserError as error:
            common.say(f"note: no certificate: {error}")


@app.command()
@common.takes_options
def run(
    options: common.EngineOptions,
    part: common.PartOptions,
    dry_data: Annotated[Literal["phantom"] | None, option("Try the grid on phantoms, under a minute.")] = None,
    page: Annotated[bool, more("Write OUT/report.html at the end.", "--page/--no-page")] = True,
    log: Annotated[Literal["tensorboard", "mlflow", "wandb"] | None, more("Log each cell at the end.")] = None,
    only: Annotated[list[str] | None, more("Training: this network, and its first weights.")] = None,
) -> None:
    """Run a job that attacks or trains; called again, it goes on.

    A job with attacks stores the scores of every volume in OUT, a training job the networks that it trains, clean or
    adversarially. What is there is kept: the same command goes on where it was stopped.
    """
    from freqbench.job.training import TrainJob
    from freqbench.results import Shard

    fresh = part.fresh
    if dry_data:  # into a store of its own
        options = replace(options, engine="serial", out=options.out and f"{options.out.rstrip('/')}-dry")
    shard = Shard.parse(part.shard) if part.shard else None
    if isinstance(job := options.any_job(), TrainJob):
        of_attacks = {
            **{"--dry-data": dry_data, "--shard": shard, "--force": part.force, "--no-page": not page, "--log": log},
            **{"--engine": options.engine != "auto", "--limit-cases": options.limit_cases, "--fresh": fresh},
        }
        for option in (name for name, value in of_attacks.items() if value):
            raise UserError(f"{options.path}: {option}: expected a job with attacks, got a training job: leave it out")
        _train(job, options, only)
        return
    if only:
        raise UserError(f"{options.path}: --only: expected a training job, got a job with attacks: leave it out")
    from freqbench.core.files import node_cache, storage
    from freqbench.engine import matching
    from freqbench.engine import run as runner
    from freqbench.engine.ray import ray_cluster
    from freqbench.job import rehearsal
    from freqbench.training import link

    if log:
        from freqbench.reporting import tracker

        tracker.require(log, options.place(job))
    with ray_cluster.environment({node_cache.LIMIT: "0"} if fresh else {}):
        with common.stoppable("networks were trained"):
            if dry_data:
                job = rehearsal.shrink_job(link.describe_job(job))
            else:
                job = link.train_rest(job, common.say, shard, options.address)
        place = options.place(job)
        if fresh:
            storage.remove(storage.join(place, matching.FILE))
        with common.stoppable("budgets were matched"):
            grid = common.grid_of(job, options.limit_cases, place, match=True)
        how = runner.RunOptions(
            engine=options.engine, address=options.address, shard=shard, force=part.force, fresh=fresh
        )
        summary = runner.execute(grid, place, common.console(), how)
    if fresh and summary.interrupted:
        common.say("the rest are rows of earlier runs, which a run without --fresh keeps; --fresh begins again")
    if log:
        try:
            common.say(f"logged: {tracker.log(log, place)}")
        except (UserError, OSError) as error:
            common.say(f"not logged: {one_line(error)}: all rows are in {place}, and the same command logs them later")
    finish(summary, place, page)


def _train(job: "TrainJob", options: common.EngineOptions, only: list[str] | None) -> None:
    from freqbench import training
    from freqbench.training import link

    try:
        with link.ray_for(job, options.address):
            results = training.train(job, options.out, only=only or None)
    except KeyboardInterrupt:
        common.console().print("stopped: the same command goes on from here")
        raise typer.Exit(common.EXIT_INTERRUPTED) from None
    columns = ("model", "steps", "seconds", "select Dice", "attacked", "test Dice")
    table = Table(*columns, Column("weights", overflow="fold"), title="foreground Dice")
    for result in results:
        dice = (result.dice_select, result.dice_attacked, result.dice_test)
        figures = ("" if value is None else f"{value:.3f}" for value in dice)
        table.add_row(result.name, str(result.steps), f"{result.seconds:.0f}", *figures, result.path)
    common.console().print(table)
