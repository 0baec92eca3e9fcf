"""The commands that show results: report, compare, serve."""

from typing import Annotated

import typer

from freqbench.cli import common
from freqbench.core.errors import UserError

app = typer.Typer()

Outs = Annotated[list[str], typer.Argument(help="One result store or several.", metavar="OUT...")]
Format = Annotated[str, typer.Option("--format", help="terminal, md, csv, latex or html.")]
To = Annotated[str | None, typer.Option("--to", help="File to write to [default: the terminal].")]


@app.command()
def report(
    outs: Outs,
    table: Annotated[
        str | None,
        typer.Option("--table", help="One table: vafa_table1, sa2_synapse, transfer, organs, ... or a recipe (YAML)."),
    ] = None,
    format: Format = "terminal",
    to: Annotated[
        str | None,
        typer.Option("--to", help="File to write to; of the page: OUT/report.html, with --volumes a folder."),
    ] = None,
    volumes: Annotated[
        bool, typer.Option("--volumes", help="html: a folder with the saved volumes, for the viewer.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask, though the data must not be passed on.")] = False,
    figures: Annotated[
        str | None, typer.Option("--figures", help="Folder for every picture that the results allow, PDF and PNG.")
    ] = None,
) -> None:
    """Show stores: their tables, one of the papers' tables, a page for a browser (--format html), pictures."""
    if figures:
        if table or to or volumes or format != "terminal":
            raise UserError("report: --figures: expected no other option beside it: run report twice")
        common.write_figures(outs, figures)
    elif format == "html" and not table:
        common.write_page(outs, to, volumes, yes)
    else:
        if volumes:
            raise UserError("report: --volumes: expected --format html without --table: the page is what shows them")
        common.put(common.report(outs, format, table), to)


@app.command()
def compare(
    first: Annotated[str, typer.Argument(help="A result store.", metavar="OUT_A")],
    second: Annotated[str, typer.Argument(help="Another one.", metavar="OUT_B")],
    format: Format = "terminal",
    to: To = None,
) -> None:
    """Compare two stores case by case: what made them first, then differences with intervals."""
    common.put(common.compare(first, second, format), to)


@app.command()
def serve(
    outs: Outs,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8760,
    host: Annotated[str, typer.Option(help="Address to listen on; whoever reaches it can read.")] = "127.0.0.1",
) -> None:
    """Show the page live over stores, also of runs that go on; read-only, until Ctrl-C."""
    common.serve(outs, host, port)
