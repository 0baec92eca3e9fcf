"""Builds the command line and its one page of help, and turns errors and signals into exit codes."""

import errno
import os
import re
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Mapping, Sequence
from itertools import chain, pairwise
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from freqbench.cli import audit, board, catalogue, cluster, common, doctor, init, report, run, volumes
from freqbench.cli.common import EXIT_DEFECT, EXIT_FAILED, EXIT_USER, option
from freqbench.core import __version__
from freqbench.core.errors import EngineLost, StorageUnavailable, UserError, one_line, shortened
from freqbench.core.machine import settle_threads, versions
from freqbench.core.terminal import PlainConsole, amount

PANELS: Mapping[str, tuple[str, ...]] = {  # in the order in which one needs them
    "Commands": ("init", "list", "doctor", "plan", "run", "report", "audit", "board", "cluster"),
    "More": ("compare", "export", "score"),
}
EVERY = "--help-all"


class Front(TyperGroup):
    """Group of all commands, in the order of PANELS."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Lists the commands as the help has them."""
        return [*chain.from_iterable(PANELS.values())]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Writes all commands on one screen, without boxes."""
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        for title, names in PANELS.items():
            with formatter.section(title):
                texts = {name: self.commands[name].get_short_help_str(formatter.width) for name in names}
                formatter.write_dl([(f"{name:<9}", text) for name, text in texts.items()])
        with formatter.section("Options"):
            formatter.write_text(f"--version, --install-completion, --show-completion; COMMAND --help or {EVERY}")

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Takes `--help-all`, the help with the options that `--help` leaves out; says where there are some."""
        show_hidden(self, EVERY in args)
        return super().parse_args(ctx, ["--help" if word == EVERY else word for word in args])


def show_hidden(command: Any, wanted: bool = True) -> None:
    """Makes the help of a command, and of those below it, show hidden options, or say that there are some."""
    if hidden := [option for option in command.params if option.hidden]:
        for option in hidden:
            option.hidden = not wanted
        command.epilog = None if wanted else f"{amount(len(hidden), 'more option')}: {EVERY}"
    for below in getattr(command, "commands", {}).values():
        show_hidden(below, wanted)


app = typer.Typer(
    name="freqbench",
    cls=Front,
    help="Attacks volumetric segmentation models (CT, MR) and measures how much of their accuracy survives. "
    "Begin with: freqbench run quickstart",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show(wanted: bool) -> None:
    if wanted:
        common.say(f"freqbench {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[bool, option("Show the version and exit.", "--version", callback=_show, is_eager=True)] = False,
) -> None:
    """Takes options that stand before a command; without one, shows the help."""
    if not context.invoked_subcommand:
        common.say(context.get_help())
        raise typer.Exit(EXIT_USER)


for group in (init, catalogue, doctor, run, volumes, report, audit, board, cluster):
    app.add_typer(group.app)


def main() -> None:
    """Runs the command line. Exit codes: 2 after a user's mistake (one line), 70 after a defect, 130 after Ctrl-C."""
    if sys.getfilesystemencoding() == "ascii" and os.environ.get("PYTHONUTF8") != "1":
        # Python starts so in the C locale, in which it could neither write nor print paths outside ASCII.
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, "PYTHONUTF8": "1"})
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _open_streams()
    if not sys.warnoptions:  # libraries warn their callers; users get lines
        warnings.simplefilter("ignore")
    try:
        try:
            _require_values(sys.argv[1:])
            settle_threads()
            app(standalone_mode=True)
        finally:
            sys.stdout.flush()
    except SystemExit as error:  # of a command, unless code of others ends the process
        packages = [frame.f_globals["__name__"] for frame in _frames(error)]
        place = [name for name in packages if name.partition(".")[0] not in sys.stdlib_module_names][-1]
        if place.partition(".")[0] in ("freqbench", "click", "typer", "rich"):
            raise
        _refuse(f"{place}: expected code that returns or raises an error, got SystemExit: {one_line(error)}: mend it")
    except EngineLost as error:
        _refuse(str(error), EXIT_FAILED)
    except (UserError, StorageUnavailable) as error:
        _refuse(one_line(error))
    except BrokenPipeError:  # the reader has ended, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the rest is flushed at exit
        sys.exit(EXIT_FAILED)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        advice = "make room there, or write elsewhere" if is_full else "check the path and its permissions"
        _refuse(f"{place}{error.strerror or error}: {advice}")
    except Exception as error:  # noqa: BLE001 (a defect if any comes this far)
        if name := _refused_variable(error):
            got = f"expected a value that libraries take, got {os.environ[name]!r:.80} ({one_line(error, 200)})"
            _refuse(f"{name}: {got}: correct it, or unset it")
        _confess(error)


def _open_streams() -> None:
    """Makes streams take every text: an unknown letter becomes a question mark, and a closed stream swallows all."""
    for name in ("stdout", "stderr"):
        if (stream := getattr(sys, name)) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 (as long as the process)
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _require_values(arguments: Sequence[str]) -> None:
    """Refuses an argument that is no UTF-8, and an empty one, as a shell makes it of a variable without value."""
    for before, argument in pairwise(("", *arguments)):
        if not argument.strip() or re.fullmatch(r"--[\w-]+=\s*", argument):
            option = argument.strip().rstrip("=") or before
            raise UserError(f"{option}: expected a value, got an empty one: give one, or leave it out")
        if not argument.isascii() and os.fsencode(argument) != argument.encode(errors="replace"):
            raise UserError(f"{os.fsencode(argument)!r}: expected UTF-8, got other bytes: rename the file or folder")


def _frames(error: BaseException) -> list[FrameType]:
    return [frame for frame, _ in traceback.walk_tb(error.__traceback__)]


def _refused_variable(error: Exception) -> str | None:
    """Returns the environment variable whose value a library refused while it was imported; None: another error."""
    modules = [frame.f_globals["__name__"] for frame in _frames(error) if frame.f_code.co_name == "<module>"]
    if all(module == "__main__" or module.startswith("freqbench") for module in modules):
        return None
    return next((name for name, value in os.environ.items() if value and repr(value) in str(error)), None)


def _refuse(text: str, code: int = EXIT_USER) -> NoReturn:
    PlainConsole(stderr=True).print(f"error: {shortened(text)}", soft_wrap=True)
    sys.exit(code)


def _confess(error: Exception) -> NoReturn:
    """Reports an unforeseen error in one line, with a log file for the bug report."""
    used = ", ".join(f"{name} {version}" for name, version in versions().items())
    with tempfile.NamedTemporaryFile("w", prefix="freqbench-", suffix=".log", delete=False, errors="replace") as log:
        log.write(f"{' '.join(sys.argv)}\n{used}\n{''.join(traceback.format_exception(error))}")
    what = one_line(f"{type(error).__name__}: {error}", 300)
    _refuse(f"this is a defect, please report it: {what} ({used}; log: {log.name})", EXIT_DEFECT)
