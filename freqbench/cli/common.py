"""Reads jobs, writes to the terminal and ends commands, for several commands."""

import inspect
import io
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass, is_dataclass
from functools import partial, wraps
from glob import escape, glob
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from freqbench.core import plugins
from freqbench.core.errors import UserError, installing, unknown
from freqbench.core.machine import pause_gc
from freqbench.core.names import job_file, packaged_jobs
from freqbench.core.terminal import PlainConsole

if TYPE_CHECKING:
    from freqbench.job.grid import Grid
    from freqbench.job.schema import JobSpec
    from freqbench.job.training import TrainJob

EXIT_FAILED = 1
EXIT_USER = 2
EXIT_DEFECT = 70
EXIT_INTERRUPTED = 130
console = PlainConsole
XLSX = "xlsx"
FORMATS = {"terminal": "terminal", "md": "markdown", "csv": "csv", "latex": "latex", "html": "html", XLSX: "csv"}


def jobs(incomplete: str) -> list[str]:
    """Lists packaged jobs, and YAML files here and one folder down, that begin with `incomplete`: for a shell."""
    packaged = [name for name in packaged_jobs() if name.startswith(incomplete)]
    return packaged + _beginning(incomplete, "*.yaml", "*/*.yaml")


def _beginning(incomplete: str, *ends: str) -> list[str]:
    """Lists the files with one of the ends whose paths begin with `incomplete`, sorted."""
    found: list[str] = []
    for end in ends:
        found += glob(escape(incomplete) + end)  # noqa: PTH207
    return sorted(found)


def stores(incomplete: str) -> list[str]:
    """Lists result stores whose paths begin with `incomplete`, like `jobs`."""
    return [path.removesuffix("/run.json") for path in _beginning(incomplete, "*/run.json", "*/*/run.json")]


def option(help: str, *names: str, **facts: Any) -> Any:
    """Returns an option of a command, with what the help says of it."""
    return typer.Option(*names, help=help, **facts)


more = partial(option, hidden=True)  # which only `--help-all` shows


def argument(help: str, metavar: str, **facts: Any) -> Any:
    """Returns an argument of a command, with what the `help` says of it, and its word there, `metavar`."""
    return typer.Argument(help=help, metavar=metavar, **facts)


JobFile = Annotated[str, argument("Job file, or a packaged job.", "JOB", callback=job_file, autocompletion=jobs)]
Engine = Annotated[Literal["auto", "ray", "serial"], more("auto: ray where more than one worker pays.")]
Out = Annotated[str, argument("Result store, a folder or URI.", "OUT", autocompletion=stores)]
Overrides = Annotated[list[str] | None, option("Override the job file: a.b=c, attacks.0.eps=4/255.", "--set")]
Trust = Annotated[bool, more("Let code of other packages and commands run: read it first.", "--trust-code")]
Address = Annotated[str | None, more("Ray cluster.", show_default="RAY_ADDRESS, else one of this machine's own")]
Yes = Annotated[bool, more("Do not ask, even if the data must not be passed on.", "--yes")]
Json = Annotated[bool, more("Print only JSON; everything else goes to stderr.", "--json")]


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """Options that commands with a job file share: the file, how to read it, and where results go."""

    path: JobFile
    out: Annotated[str | None, option("Where results go.", show_default="runs/NAME", autocompletion=stores)] = None
    set_: Overrides = None
    limit_cases: Annotated[int | None, option("Only the first N cases of each dataset.", "--limit-cases", min=1)] = None
    trust_code: Trust = False

    def job(self) -> "JobSpec":
        """Reads the job file like `any_job`; refuses a training job."""
        from freqbench.job import schema

        return schema.require_attacks(self.any_job(), self.path)

    def any_job(self) -> "JobSpec | TrainJob":
        """Reads the job file and checks it as far as possible before attacks and networks are imported."""
        with pause_gc():
            from freqbench.job import schema

            job = schema.load_any(self.path, self.set_ or ())
            if self.trust_code or job.trust_code:
                plugins.import_beside(self.path)
                job = job.model_copy(update={"trust_code": True})
            if isinstance(job, schema.JobSpec):
                schema.require_sound(job)
            return job

    def place(self, job: "JobSpec") -> str:
        """Returns the store of the job's results."""
        return self.out or f"runs/{job.name}"


@dataclass(frozen=True, kw_only=True)
class EngineOptions(JobOptions):
    """Options of a job that runs here: those of `JobOptions`, and its engine."""

    engine: Engine = "auto"
    address: Address = None

    def any_job(self) -> "JobSpec | TrainJob":
        """Reads the job file; refuses the address of a cluster where nothing runs on one."""
        if self.address and self.engine == "serial":
            advice = f"remove --address {self.address}"
            raise UserError(f"--address: --engine serial and --dry-data use no cluster: {advice}")
        return super().any_job()


@dataclass(frozen=True, kw_only=True)
class PartOptions:
    """Options that say which records of a job are computed."""

    shard: Annotated[str | None, more("2/8: the second of eight parts of the grid; each is a run of its own.")] = None
    force: Annotated[bool, more("Run even if another run works on the same cells.", "--force")] = False
    fresh: Annotated[bool, more("Compute all anew, but weights that the job trained.", "--fresh")] = False


@dataclass(frozen=True, kw_only=True)
class StoredOptions:
    """Options of commands that take the job of a store."""

    job: Annotated[str | None, more("Job to use instead of OUT's, for example as data are in another folder.")] = None
    set_: Annotated[list[str] | None, more("Override the job, as in run.", "--set")] = None
    trust_code: Trust = False

    def spec(self, out: str) -> "JobSpec":
        """Reads the job of a store, or of the file in its place."""
        from freqbench.engine import matching
        from freqbench.job import schema
        from freqbench.results import Store
        from freqbench.training import link

        if self.job:
            job = JobOptions(path=job_file(self.job), set_=self.set_, trust_code=self.trust_code).job()
            return matching.match_budgets(link.present(job), out, say, compute=False)
        if self.trust_code:
            plugins.import_beside()
        content = Store(out).job().get("spec")
        return schema.stored_job(content, self.trust_code, f"{out}/run.json", self.set_ or ()).copy_named(out)

    def grid(self, out: str) -> "Grid":
        """Expands a store's job to its grid, with the imported cells."""
        from freqbench.exchange.adversarial_volumes import join_imported
        from freqbench.job.grid import expand

        return join_imported(expand(self.spec(out)), out)


def _formats(incomplete: str) -> list[str]:
    return [name for name in FORMATS if name.startswith(incomplete)]


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """Options of commands that print tables."""

    format: Annotated[str, option(f"{', '.join(FORMATS)} (with --to).", autocompletion=_formats)] = "terminal"
    to: Annotated[str | None, option("File to write to.", show_default="terminal; of the page OUT/report.html")] = None

    @property
    def is_usual(self) -> bool:
        """True if the terminal gets the text as it is shown there."""
        return self.to is None and self.format == "terminal"

    def put(self, text: str) -> None:
        """Writes a text to the file, or to the terminal."""
        put(text, self.to, self.format)


def takes_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the fields of each parameter that is a class of options, in its place."""
    groups: dict[str, tuple[Any, list[str]]] = {}
    listed: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        options: Any = parameter.annotation
        if is_dataclass(options):
            fields = inspect.signature(parameter.annotation).parameters
            groups[name] = options, [*fields]
            listed += fields.values()
        else:
            listed.append(parameter.replace(kind=parameter.KEYWORD_ONLY))

    @wraps(command)
    def run_command(**given: Any) -> None:
        made: dict[str, Any] = {}
        for name, (cls, fields) in groups.items():
            made[name] = cls(**{field: given.pop(field) for field in fields})
        command(**made, **given)

    run_command.__signature__ = inspect.Signature(listed)  # type: ignore[attr-defined]
    run_command.__annotations__ = {each.name: each.annotation for each in listed}
    return run_command


def chosen_way(command: str, ways: Mapping[str, object], given: Mapping[str, object], takes: Mapping[str, str]) -> str:
    """Returns the one way of a `command`, by its values in `ways`, or ''. Refuses two, and options of `given` that a
    way does not take, by the words in `takes`."""
    if len(chosen := [way for way, value in ways.items() if value]) > 1:
        raise UserError(f"{command}: expected one of {', '.join(ways)}, got {' and '.join(chosen)}: leave one")
    way = "".join(chosen)
    for option in (name for name, value in given.items() if value is not None and value is not False):
        if option not in takes.get(way, "").split():
            fitting = " or ".join(each for each, options in takes.items() if each and option in options.split())
            got = f"got {way or 'none'}: see {command} --help-all"
            raise UserError(f"{command}: {option}: expected {fitting} beside it, {got}")
    return way


def say(text: str) -> None:
    """Prints one line unwrapped."""
    console().print(text, soft_wrap=True)


def put(text: str, to: str | None, format: str = "") -> None:
    """Writes a text to a file in one step, or to the terminal; in format XLSX a csv becomes a sheet."""
    from freqbench.core.files import storage

    if format == XLSX and (to is None or not text.strip()):
        raise UserError(f"--format {XLSX}: expected {'a table' if to else '--to'}, got none: see report --help")
    if to is None:
        sys.stdout.write(text)
        return
    require_file(to)
    storage.write_atomic(to, _sheet(text) if format == XLSX else text.encode())
    say(f"written: {to}")


def _sheet(csv: str) -> bytes:
    import pandas as pd

    content = io.BytesIO()
    try:
        pd.read_csv(io.StringIO(csv)).to_excel(content, index=False)
    except ModuleNotFoundError as error:
        raise UserError(f"--format {XLSX}: expected the package {error.name}, got none: {installing(XLSX)}") from None
    return content.getvalue()


def put_json(content: Mapping[str, Any]) -> None:
    """Prints a mapping as JSON."""
    put(json.dumps(content, indent=1) + "\n", None)


def require_file(to: str) -> None:
    """Refuses to write a file where a folder is."""
    if not to or Path(to).is_dir():
        raise UserError(f"--to: expected a file, got {to or 'nothing'!r}: name a file")


def ask_to_write(datasets: Sequence[str], yes: bool) -> None:
    """Asks before it writes volumes of datasets that must not be passed on; without a terminal, it takes a `yes`."""
    if (names := ", ".join(datasets)) and not yes:
        if not sys.stdin.isatty():
            raise UserError(f"{names}: expected permission to write volumes that must not be passed on: give --yes")
        typer.confirm(f"Volumes of {names} must not be passed on. Write them all the same?", abort=True)


def aside(as_json: bool) -> AbstractContextManager[object]:
    """Redirects all output to stderr if stdout is for `put_json`, `as_json`."""
    return redirect_stdout(sys.stderr) if as_json else nullcontext()


@contextmanager
def stoppable(doing: str) -> Iterator[None]:
    """Exits with code 130 at Ctrl-C during work, called `doing`, that the same command continues."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"stopped while {doing}: results are kept, and the same command goes on")
        raise typer.Exit(EXIT_INTERRUPTED) from None


def grid_of(job: "JobSpec", limit_cases: int | None, out: str, match: bool = False) -> "Grid":
    """Expands a job to its grid, of `limit_cases` a dataset (None: all), for a store at `out`; `match` computes budgets
    that are not known yet."""
    from freqbench.engine import matching

    return matching.matched_grid(job, out, say, match, limit_cases)


def unique(outs: Sequence[str]) -> list[str]:
    """Lists each store of `outs` once."""
    return list(dict.fromkeys(out.rstrip("/") or out for out in outs))


def tables(outs: Sequence[str], format: str, table: str | None = None) -> str:
    """Renders all tables of the stores `outs`, or the one that `table` names, in a `format` of FORMATS; warnings go to
    stderr."""
    from freqbench.reporting.contents import keys_of
    from freqbench.reporting.report import report
    from freqbench.results import Store

    stores = [Store(out) for out in unique(outs)]
    with print_warnings():
        text = report(stores, keys_of(store.job() for store in stores), format_name(format), table)
    return text.rstrip() + "\n"


def format_name(format: str) -> str:
    """Returns reporting's name of a format; refuses an unknown one."""
    if format not in FORMATS:
        raise UserError(unknown("format", format, FORMATS))
    return FORMATS[format]


@contextmanager
def print_warnings() -> Iterator[None]:
    """Context that prints its warnings on stderr, each line once."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            yield
        finally:
            for text in dict.fromkeys(str(warning.message) for warning in caught):
                PlainConsole(stderr=True).print(text, soft_wrap=True)
