"""The commands that say whether numbers can be believed: audit, reproduce, verify."""

import typer

app = typer.Typer()
