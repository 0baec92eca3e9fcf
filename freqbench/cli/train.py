"""Trains the networks of a training job: the command `train`."""

import typer
from rich.table import Column, Table

from freqbench.cli import common

app = typer.Typer()


@app.command()
def train(
    path: common.TrainingJob,
    out: common.RunOut = None,
    set_: common.Overrides = None,
    address: common.Address = None,
) -> None:
    """Train the networks of a training job, clean or adversarially; the same command goes on where it was stopped."""
    from freqbench import training
    from freqbench.core import config
    from freqbench.training import link

    try:
        job = config.load(path, training.TrainJob, set_ or ())
        with link.ray_for(job, address):
            results = training.train(job, out)
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
