"""Makes, verifies and shows entries of a leaderboard: the commands `board entry`, `board verify` and `board build`."""

from pathlib import Path
from typing import Annotated

import typer

from freqbench.cli import common
from freqbench.core.errors import UserError

SHARE = 0.1

app = typer.Typer(name="board", help="Make, verify and rank entries of a leaderboard.", no_args_is_help=True)


@app.command()
def entry(
    out: common.Out,
    models: Annotated[
        list[str] | None, typer.Argument(help="Networks of its job.", show_default="all", metavar="[MODEL]...")
    ] = None,
    to: Annotated[str, typer.Option(help="Folder of entries, one folder each.")] = "entries",
) -> None:
    """Make entries of a store's networks: first a card to fill in, then, called again, the whole entry."""
    from freqbench.job.schema import JobSpec
    from freqbench.reporting.leaderboard.make import make_entry

    job: JobSpec = common.stored_job(out, None, trusted=False)
    for name in common.unique(models or [each.name for each in job.models]):
        folder = Path(to) / name
        is_whole = make_entry(out, name, folder)
        common.say(f"written: {folder}" if is_whole else f"{folder}/card.yaml: fill it in, then run this command again")


@app.command()
def verify(
    entry: Annotated[str, typer.Argument(help="Folder of an entry.", metavar="ENTRY")],
    checkpoint: Annotated[
        str | None, typer.Option(help="Its weights, a file or folder.", show_default="the card's address")
    ] = None,
    job: common.Job = None,
    share: Annotated[float, typer.Option(help="Share of the rows to compute again beside its worst cases.")] = SHARE,
    rows: Annotated[
        int | None,
        typer.Option(min=1, help="A spot check: N random rows alone, without the audit.", show_default="all"),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of their draw.", show_default="random")] = None,
    cases: Annotated[
        int | None,
        typer.Option(
            min=1, help="Audit the first N cases of each dataset.", show_default="as many as the entry's own audit"
        ),
    ] = None,
    engine: common.Engine = "auto",
    trust_code: common.Trust = False,
) -> None:
    """Verify an entry: its files and rows; its worst cases, other rows and its audit's cells computed again."""
    from freqbench.audit.verify import show_checks
    from freqbench.reporting.leaderboard.entry_checks import Recomputation, examine, reasons, recompute
    from freqbench.reporting.leaderboard.entry_folder import read_entry

    if not 0 < share <= 1:
        raise UserError(f"--share: expected a number in (0, 1], got {share:g}: 0.1 is a tenth of the rows")
    if rows is not None and (cases is not None or share != SHARE):
        raise UserError(
            "--rows: expected neither --share nor --cases beside it: a spot check has no audit and no share"
        )
    read = read_entry(Path(entry))
    results = examine(read, trust_code)
    if not reasons(results):
        spec = common.stored_job("", job, trust_code) if job else None
        results += recompute(
            read,
            common.console(),
            Recomputation(
                checkpoint=checkpoint,
                share=share,
                cases=cases,
                rows=rows,
                engine=engine,
                trust_code=trust_code,
                job=spec,
                seed=seed,
            ),
        )
    if not show_checks(results, entry, common.console()):
        common.say(f"{entry}: refused: {reasons(results)[0]}")
        raise typer.Exit(common.EXIT_FAILED)
    if results[-1].verdict == "not checked":
        common.say(f"{entry}: not verified, as its data are missing here, with no sign against it: {results[-1].text}")
        raise typer.Exit(common.EXIT_FAILED)
    common.say(f"{entry}: verified" if rows is None else f"{entry}: these rows agree; without --rows all is verified")


@app.command()
def build(
    entries: Annotated[str, typer.Argument(help="Folder of entries.", metavar="DIR")],
    to: Annotated[str, typer.Option(help="Folder of the site.")] = "site",
    trust_code: Annotated[
        bool, typer.Option("--trust-code", help="Rank networks with code of other packages too; none of it runs.")
    ] = False,
) -> None:
    """Build a static site that ranks the entries of a folder; leave out refused entries and say why."""
    from freqbench.reporting.leaderboard.site import build_site

    if not build_site(Path(entries), Path(to), common.say, trust_code):
        raise typer.Exit(common.EXIT_FAILED)
