"""The commands that say whether numbers can be believed: audit, reproduce, verify."""

from typing import Annotated

import typer

from freqbench import commands

app = typer.Typer()

# reproduce and verify

Out = Annotated[str, typer.Argument(help="Result store: a folder or URI that `run` wrote.", metavar="OUT")]


@app.command()
def reproduce(
    out: Out,
    row: Annotated[
        str | None, typer.Option("--row", help="Id of a row, 6 digits or more: the page has it in a case's details.")
    ] = None,
    count: Annotated[int | None, typer.Option("--random", min=1, help="So many rows, drawn at random.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the draw.")] = 0,
    job: Annotated[
        str | None, typer.Option("--job", help="Job file, where data lie elsewhere here [default: OUT's].")
    ] = None,
    trust_code: Annotated[
        bool, typer.Option("--trust-code", help="Let code of other packages and of frozen models run: read it first.")
    ] = False,
) -> None:
    """Compute rows of a store again, compare them with what is stored, and name what differs; stores nothing."""
    from freqbench.engine import account

    spec = commands.spec_of(out, job, trust_code) if job else None
    if not account.reproduce(out, row, count, seed, spec, trust_code, commands.console()):
        raise typer.Exit(commands.EXIT_FAILED)


@app.command()
def verify(
    out: Out,
    volumes: Annotated[bool, typer.Option("--volumes", help="Read every saved volume to its end, too.")] = False,
) -> None:
    """Check a whole store: files, columns, values, doubles, holes, classes, identities; changes nothing."""
    from freqbench.engine import account

    if not account.check(out, volumes, commands.console()):
        raise typer.Exit(commands.EXIT_FAILED)
