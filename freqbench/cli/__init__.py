"""Builds the command line from its groups of commands, and turns errors and signals into exit codes."""

import signal
import sys
from typing import Any, NoReturn

import typer

from freqbench.cli import audit, cluster, doctor, report, run, train, volumes
from freqbench.cli.common import EXIT_FAILED, EXIT_USER
from freqbench.core.errors import EngineLost, StorageUnavailable, UserError
from freqbench.core.terminal import PlainConsole

app = typer.Typer(
    name="freqbench",
    help="Attacks volumetric segmentation models (CT, MR) and measures what is left of them.\n\n"
    "Begin with: python bench.py run jobs/quickstart.yaml",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for group in (run, volumes, train, doctor, cluster, report, audit):
    app.add_typer(group.app)


def main() -> None:
    """Run the command line; a user's mistake is one line and exit code 2, Ctrl-C is 130."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app(standalone_mode=True)
    except EngineLost as error:
        _refuse(str(error), EXIT_FAILED)
    except (UserError, StorageUnavailable) as error:
        _refuse(" ".join(str(error).split()))
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _refuse(f"{place}{error.strerror or error}: check the path and its permissions")


def _interrupt(*_: Any) -> NoReturn:
    raise KeyboardInterrupt


def _refuse(text: str, code: int = EXIT_USER) -> NoReturn:
    PlainConsole(stderr=True).print(f"error: {text}", soft_wrap=True)
    sys.exit(code)
