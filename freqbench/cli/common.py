"""Reads jobs, writes to the terminal and ends commands, for several commands."""

import inspect
import io
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from functools import wraps
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

EXIT_FAILED, EXIT_USER, EXIT_DEFECT, EXIT_INTERRUPTED = 1, 2, 70, 130
console = PlainConsole
XLSX = "xlsx"
FORMATS = {"terminal": "terminal", "md": "markdown", "csv": "csv", "latex": "latex", "html": "html", XLSX: "csv"}


def jobs(incomplete: str) -> list[str]:
    """Lists packaged jobs, and YAML files here and one folder down, that begin with `incomplete`: for a shell."""
    packaged = [name for name in packaged_jobs() if name.startswith(incomplete)]
    return packaged + _beginning(incomplete, "*.yaml", "*/*.yaml")


def stores(incomplete: str) -> list[str]:
    """Lists result stores whose paths begin with `incomplete`, like `jobs`."""
    return [path.removesuffix("/run.json") for path in _beginning(incomplete, "*/run.json", "*/*/run.json")]


def _beginning(incomplete: str, *endings: str) -> list[str]:
    return sorted(path for ending in endings for path in glob(escape(incomplete) + ending))  # noqa: PTH207


JobFile = Annotated[
    str,
    typer.Argument(
        help="Job file (YAML), or a packaged job's name: hippocampus/suite.",
        metavar="JOB",
        callback=job_file,
        autocompletion=jobs,
    ),
]
Job = Annotated[
    str | None, typer.Option(help="Job to use instead of OUT's, for example because data are in another folder.")
]
Engine = Annotated[Literal["auto", "ray", "serial"], typer.Option(help="auto: ray where more than one worker pays.")]
Shard = Annotated[
    str | None, typer.Option(help="2/8: the second of eight parts of the grid; each is a run of its own.")
]
Force = Annotated[bool, typer.Option("--force", help="Run even if another run works on the same cells.")]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Compute all anew, but weights that the job trained: remove their folder.")
]
Out = Annotated[
    str, typer.Argument(help="Result store: a folder or URI that `run` wrote.", metavar="OUT", autocompletion=stores)
]
RunOut = Annotated[
    str | None, typer.Option(help="Where results go.", show_default="runs/NAME of the job", autocompletion=stores)
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override the job file: a.b=c, attacks.0.eps=4/255.")
]
Trust = Annotated[
    bool, typer.Option("--trust-code", help="Let code of other packages and of frozen models run: read it first.")
]
Limit = Annotated[int | None, typer.Option("--limit-cases", min=1, help="Only the first N cases of each dataset.")]
Address = Annotated[
    str | None, typer.Option(help="Ray cluster.", show_default="RAY_ADDRESS, else one of this machine's own")
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask, even if the data must not be passed on.")]
Format = Annotated[
    str,
    typer.Option(
        help=f"{', '.join(FORMATS)} (with --to).",
        autocompletion=lambda incomplete: [name for name in FORMATS if name.startswith(incomplete)],
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print only JSON; everything else goes to stderr.")]
To = Annotated[str | None, typer.Option(help="File to write to.", show_default="the terminal")]


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """Options that commands with a job file share: the file, how to read it, where it runs, and where results go."""

    path: JobFile
    out: RunOut = None
    engine: Engine = "auto"
    address: Address = None
    set_: Overrides = None
    limit_cases: Limit = None
    trust_code: Trust = False

    def job(self) -> "JobSpec":
        """Reads the job file like `any_job`; refuses a training job."""
        from freqbench.job import schema

        return schema.require_attacks(self.any_job(), self.path)

    def any_job(self) -> "JobSpec | TrainJob":
        """Reads the job file (see `any_job_of`); refuses the address of a cluster where nothing runs on one."""
        if self.address and self.engine == "serial":
            raise UserError(
                f"--address: --engine serial and --dry-data do not use a cluster: remove --address {self.address}"
            )
        return any_job_of(self.path, self.set_, self.trust_code)

    def place(self, job: "JobSpec") -> str:
        """Returns the store of the job's results."""
        return self.out or f"runs/{job.name}"


def takes_job(*without: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command the options of JobOptions but those `without`, in the place of its parameter `options`."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        shared = {n: p for n, p in inspect.signature(JobOptions).parameters.items() if n not in without}
        listed: list[inspect.Parameter] = []
        for name, parameter in inspect.signature(command).parameters.items():
            listed += shared.values() if name == "options" else [parameter.replace(kind=parameter.KEYWORD_ONLY)]

        @wraps(command)
        def run_command(**given: Any) -> None:
            command(options=JobOptions(**{name: given.pop(name) for name in shared}), **given)

        run_command.__signature__ = inspect.Signature(listed)  # type: ignore[attr-defined]
        run_command.__annotations__ = {each.name: each.annotation for each in listed}
        return run_command

    return decorate


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
    names = ", ".join(datasets)
    if names and not yes:
        if not sys.stdin.isatty():
            raise UserError(f"{names}: expected permission to write volumes that must not be passed on: give --yes")
        typer.confirm(f"Volumes of {names} must not be passed on. Write them all the same?", abort=True)


def aside(as_json: bool) -> AbstractContextManager[object]:
    """Redirects all output to stderr if stdout is for `put_json`."""
    return redirect_stdout(sys.stderr) if as_json else nullcontext()


@contextmanager
def stoppable(doing: str) -> Iterator[None]:
    """Exits with code 130 at Ctrl-C during work that the same command continues."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"stopped while {doing}: results are kept, and the same command goes on")
        raise typer.Exit(EXIT_INTERRUPTED) from None


def job_of(path: str, overrides: list[str] | None, trusted: bool) -> "JobSpec":
    """Reads a job file like `any_job_of`; refuses a training job."""
    from freqbench.job import schema

    return schema.require_attacks(any_job_of(path, overrides, trusted), path)


def any_job_of(path: str, overrides: list[str] | None, trusted: bool) -> "JobSpec | TrainJob":
    """Reads a job file and checks it as far as possible before attacks and networks are imported."""
    with pause_gc():
        from freqbench.job import schema

        job = schema.load_any(path, overrides or ())
        if trusted or job.trust_code:
            plugins.import_beside(path)
            job = job.model_copy(update={"trust_code": True})
        if isinstance(job, schema.JobSpec):
            schema.require_sound(job)
        return job


def grid_of(job: "JobSpec", limit_cases: int | None, out: str, match: bool = False) -> "Grid":
    """Expands a job to its grid; `match` computes budgets that are not known yet."""
    from freqbench.engine import matching

    return matching.matched_grid(job, out, say, match, limit_cases)


def stored_job(out: str, path: str | None, trusted: bool, overrides: Sequence[str] = ()) -> "JobSpec":
    """Reads the job of a store, or of a file in its place, with overrides as `--set` gives them."""
    from freqbench.engine import matching
    from freqbench.job import schema
    from freqbench.results import Store
    from freqbench.training import link

    if path:
        job = job_of(job_file(path), list(overrides), trusted)
        return matching.match_budgets(link.present(job), out, say, compute=False)
    if trusted:
        plugins.import_beside()
    return schema.stored_job(Store(out).job().get("spec"), trusted, f"{out}/run.json", overrides).copy_named(out)


def stored_grid(out: str, path: str | None, trusted: bool) -> "Grid":
    """Expands a store's job to its grid, with the imported cells."""
    from freqbench.exchange.adversarial_volumes import join_imported
    from freqbench.job.grid import expand

    return join_imported(expand(stored_job(out, path, trusted)), out)


def unique(outs: Sequence[str]) -> list[str]:
    """Lists each store once."""
    return list(dict.fromkeys(out.rstrip("/") or out for out in outs))


def tables(outs: Sequence[str], format: str, table: str | None = None) -> str:
    """Renders all tables of stores, or one; warnings go to stderr."""
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
