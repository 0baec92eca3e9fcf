"""Makes, verifies and shows entries of a leaderboard: the commands `board entry`, `board verify` and `board build`."""

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from freqbench.cli import common
from freqbench.cli.common import argument, more, option
from freqbench.core.errors import UserError

SHARE = 0.1
app = typer.Typer(name="board", help="Make, verify and rank entries of a leaderboard.", no_args_is_help=True)


@app.command()
def entry(
    out: common.Out,
    models: Annotated[list[str] | None, argument("Its networks.", "[MODEL]...", show_default="all")] = None,
    to: Annotated[str, more("Folder of entries, one folder each.")] = "entries",
) -> None:
    """Make entries of a store's networks: first a card to fill in, then, called again, the whole entry."""
    from freqbench.job.schema import JobSpec
    from freqbench.reporting.leaderboard.make import make_entry

    job: JobSpec = common.StoredOptions().spec(out)
    for name in common.unique(models or [each.name for each in job.models]):
        folder = Path(to) / name
        is_whole = make_entry(out, name, folder)
        common.say(f"written: {folder}" if is_whole else f"{folder}/card.yaml: fill it in, then run this command again")


@dataclass(frozen=True, kw_only=True)
class Again:
    """Options that say how much of an entry is computed again."""

    share: Annotated[float, more("Share of the rows to compute again beside its worst cases.")] = SHARE
    rows: Annotated[int | None, more("A spot check: N random rows, no audit.", min=1, show_default="all")] = None
    seed: Annotated[int | None, more("Seed of their draw.", show_default="random")] = None
    cases: Annotated[int | None, more("Cases of its audit.", min=1, show_default="the entry's own")] = None
    engine: common.Engine = "auto"


@app.command()
@common.takes_options
def verify(
    entry: Annotated[str, argument("Folder of an entry.", "ENTRY")],
    again: Again,
    stored: common.StoredOptions,
    checkpoint: Annotated[str | None, option("Its weights.", show_default="the card's address")] = None,
) -> None:
    """Verify an entry: its audit; its worst cases, other rows and its audit's cells computed again."""
    from freqbench.audit.verify import show_checks
    from freqbench.reporting.leaderboard.entry_checks import Recomputation, examine, reasons, recompute
    from freqbench.reporting.leaderboard.entry_folder import read_entry

    share = again.share
    if not 0 < share <= 1:
        raise UserError(f"--share: expected a number in (0, 1], got {share:g}: 0.1 is a tenth of the rows")
    if again.rows is not None and (again.cases is not None or share != SHARE):
        raise UserError("--rows: expected neither --share nor --cases beside it: a spot check has no audit or share")
    read = read_entry(Path(entry))
    results = examine(read.told)
    if not reasons(results):
        place: dict[str, Any] = {"checkpoint": checkpoint, "job": stored.spec("") if stored.job else None}
        asked = Recomputation(**place, trust_code=stored.trust_code, **asdict(again))
        results += recompute(read, common.console(), asked)
    if not show_checks(results, entry, common.console()):
        common.say(f"{entry}: refused: {reasons(results)[0]}")
        raise typer.Exit(common.EXIT_FAILED)
    if results[-1].verdict == "not checked":
        common.say(f"{entry}: not verified, as its data are missing here, with no sign against it: {results[-1].text}")
        raise typer.Exit(common.EXIT_FAILED)
    common.say(f"{entry}: {'verified' if again.rows is None else 'these rows agree; without --rows all is verified'}")


@app.command()
def build(
    entries: Annotated[str, argument("Folder of entries.", "DIR")],
    to: Annotated[str, more("Folder of the site.")] = "site",
) -> None:
    """Build a static site that ranks the entries of a folder; leave out refused entries and say why."""
    from rich.progress import track

    from freqbench.reporting.leaderboard.site import build_site

    console = common.console()
    over = partial(track, console=console, transient=True, disable=not console.is_terminal)
    if not build_site(Path(entries), Path(to), common.say, over):
        raise typer.Exit(common.EXIT_FAILED)
