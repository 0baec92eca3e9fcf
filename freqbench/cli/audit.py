"""Checks whether numbers can be believed: the commands `audit`, `reproduce` and `verify`."""

from typing import Annotated

import typer

from freqbench.cli import common
from freqbench.core.errors import UserError
from freqbench.core.terminal import amount

app = typer.Typer()


@app.command(rich_help_panel=common.CHECK)
def audit(
    out: common.Out,
    run: Annotated[bool, typer.Option("--run", help="Compute the few cells that checks lack, into OUT/audit.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Show what --run would compute, and compute nothing.")] = False,
    cases: Annotated[
        int | None, typer.Option(min=1, help="With --run: the first N cases of each dataset.", show_default="5")
    ] = None,
    eps: Annotated[
        str | None, typer.Option(help="With --run: radius, such as 8/255.", show_default="the job's most usual")
    ] = None,
    job: common.Job = None,
    set_: common.Overrides = None,
    engine: common.Engine = "auto",
    address: common.Address = None,
    trust_code: common.Trust = False,
    format: common.Format = "terminal",
    to: common.To = None,
) -> None:
    """Check whether a store's numbers can be believed: a verdict and a sentence for each check and model."""
    failed: int | None = 0
    of_run = {"--cases": cases, "--eps": eps, "--job": job, "--set": set_, "--address": address}
    options = [name for name, value in of_run.items() if value is not None]
    if run and plan:
        raise UserError("audit: expected --run or --plan, got both")
    if plan and (to is not None or format != "terminal"):
        raise UserError("audit: expected --format and --to without --plan, which shows no table")
    if run or plan:
        from freqbench.audit import computing

        failed = computing.compute_missing(
            common.stored_job(out, job, trust_code, set_ or ()),
            out,
            common.console(),
            cases=cases,
            eps=eps,
            engine=engine,
            address=address,
            compute=not plan,
        )
        if failed is None:
            raise typer.Exit(common.EXIT_INTERRUPTED)
        if plan:
            return
    elif options:
        raise UserError(f"audit: {options[0]}: expected --run or --plan beside it, got neither")
    common.put(common.tables([out], format, "audit"), to, format)
    if failed:
        common.say(f"{amount(failed, 'record')} of the audit failed: the same command tries them again")
        raise typer.Exit(common.EXIT_FAILED)


@app.command(rich_help_panel=common.CHECK)
def reproduce(
    out: common.Out,
    row: Annotated[
        str | None, typer.Option(help="Id of a row, 6 digits or more: the page has it in a case's details.")
    ] = None,
    count: Annotated[int | None, typer.Option("--random", min=1, help="Number of rows to draw at random.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
    job: common.Job = None,
    trust_code: common.Trust = False,
) -> None:
    """Recompute rows of a store, compare them with the stored ones, and name the differences; store nothing."""
    from freqbench.audit import reproduce
    from freqbench.core.plugins import trusting

    spec = common.stored_job(out, job, trust_code) if job else None
    with trusting(trust_code or bool(spec and spec.trust_code)):
        counts = reproduce.reproduce(out, row, count, seed, spec, common.console())
    if counts["different"]:
        raise typer.Exit(common.EXIT_FAILED)


@app.command(rich_help_panel=common.CHECK)
def verify(
    out: common.Out,
    volumes: Annotated[bool, typer.Option("--volumes", help="Read every saved volume to its end, too.")] = False,
    reference: Annotated[
        int | None,
        typer.Option(min=1, help="Score N saved rows by MedPy, MONAI, scikit-image and lpips, too.", metavar="N"),
    ] = None,
) -> None:
    """Check a whole store: files, columns, values, doubles, holes, classes, identities; change nothing."""
    from freqbench.audit import verify
    from freqbench.results import Store

    console, store = common.console(), Store(out)
    is_sound = verify.shown(verify.verify(store, volumes), out, console)
    if reference:
        from freqbench.audit import reference as libraries

        is_sound &= libraries.shown(libraries.compare(store, reference), out, console)
    if not is_sound:
        raise typer.Exit(common.EXIT_FAILED)
