"""The command line: plan, run, score, status, report, train, doctor, cache."""

import gc
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal, NoReturn

import typer
from rich.console import Console
from rich.table import Column, Table

from freqbench.errors import UserError

EXIT_FAILED, EXIT_USER, EXIT_INTERRUPTED = 1, 2, 130

app = typer.Typer(
    name="freqbench",
    help="Attacks volumetric segmentation models (CT, MR) and measures what is left of them.\n\n"
    "Begin with: python bench.py run jobs/quickstart.yaml",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

cache = typer.Typer(
    help="Preprocessed volumes that are kept on this machine, FREQBENCH_CACHE_GB gigabytes at most (20; 0: none).",
    no_args_is_help=True,
)
app.add_typer(cache, name="cache")

Job = Annotated[str, typer.Argument(help="Job file (YAML).", metavar="JOB")]
Out = Annotated[str, typer.Argument(help="Result store: a folder or URI that `run` wrote.", metavar="OUT")]
OutOption = Annotated[str | None, typer.Option("--out", help="Where results go [default: runs/NAME of the job].")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Override the job file: a.b=c, attacks.0.eps=4/255.")]
Trust = Annotated[
    bool, typer.Option("--trust-code", help="Let code of other packages and of frozen models run: read it first.")
]
Limit = Annotated[int | None, typer.Option("--limit-cases", min=1, help="Only the first N cases of each dataset.")]


def main() -> None:
    """Run the command line; a user's mistake is one line and exit code 2, Ctrl-C is 130."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app(standalone_mode=True)
    except UserError as error:
        Console(stderr=True).print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(EXIT_USER)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        text = f"error: {place}{error.strerror or error}: check the path and its permissions"
        Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)
        sys.exit(EXIT_USER)


def _interrupt(*_: Any) -> NoReturn:
    raise KeyboardInterrupt


def _console() -> Console:
    return Console()


def _say(text: str) -> None:
    """A line as it is."""
    _console().print(text, highlight=False, markup=False, soft_wrap=True)


@app.command()
def plan(
    job: Job, out: OutOption = None, set_: Set = None, limit_cases: Limit = None, trust_code: Trust = False
) -> None:
    """Show cells, cases, passes, what is done already and how long the rest may take; computes nothing."""
    from freqbench.engine import planning, rehearsal, runner

    console = _console()
    spec = _job(job, set_, trust_code)
    lacking = rehearsal.missing(spec)
    spec, grid = _expanded(rehearsal.counted(spec, lacking), job, limit_cases, out)
    console.print(planning.overview(spec, grid))
    place = out or f"runs/{spec.name}"
    for line in planning.lines(grid, lacking, runner.volumes_root(spec, place), place):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


@app.command()
def run(
    job: Job,
    out: OutOption = None,
    engine: Annotated[
        Literal["auto", "ray", "serial"], typer.Option(help="auto: ray where more than one worker pays.")
    ] = "auto",
    address: Annotated[
        str | None, typer.Option(help="Ray cluster [default: RAY_ADDRESS, else one of this machine's own].")
    ] = None,
    set_: Set = None,
    limit_cases: Limit = None,
    trust_code: Trust = False,
    dry_data: Annotated[
        Literal["phantom"] | None,
        typer.Option("--dry-data", help="Try the grid on small phantoms and untrained networks, under a minute."),
    ] = None,
) -> None:
    """Attack, score and store what is left of a job; the same command goes on where it was stopped."""
    from freqbench.engine import rehearsal, runner

    spec = _job(job, set_, trust_code)
    if dry_data:
        spec, engine = rehearsal.rehearsed(spec), "serial"
    try:
        spec, grid = _expanded(spec, job, limit_cases, out, match=True)
    except KeyboardInterrupt:
        text = "stopped while budgets were matched: what was found is kept, and the same command goes on"
        _console().print(text, soft_wrap=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    place = out or f"runs/{spec.name}"
    _finish(runner.execute(spec, grid, place, _console(), engine, address), place)


@app.command()
def score(
    out: Out,
    targets: Annotated[
        list[str], typer.Option("--targets", help="Model of the job, or a checkpoint that names itself.")
    ],
    job: Annotated[str | None, typer.Option("--job", help="Job file that knows the targets [default: OUT's].")] = None,
    trust_code: Trust = False,
) -> None:
    """Score the saved adversarial volumes of a store on further models, without attacking again."""
    from freqbench.engine import runner
    from freqbench.job import further_targets

    spec, grid = further_targets(_spec_of(out, job, trust_code), targets)
    _finish(runner.rescore(spec, grid, out, _console()), out)


@app.command()
def status(out: Out) -> None:
    """Show how far a store is: records done, failed and missing of its job, and its runs."""
    from freqbench.engine.status import of_store

    for table in of_store(out):
        _console().print(table)


@app.command()
def report(
    out: Annotated[list[str], typer.Argument(help="One result store or several.", metavar="OUT...")],
    format: Annotated[str, typer.Option(help="terminal, md or csv.")] = "terminal",
) -> None:
    """Show the tables of one or several stores: attack x model, and transfer source x target."""
    sys.stdout.write(_report(out, format))


@app.command()
def train(
    job: Annotated[str, typer.Argument(help="Training job (YAML).", metavar="JOB")],
    out: OutOption = None,
    set_: Set = None,
) -> None:
    """Train the networks of a training job; the same command goes on where it was stopped."""
    from freqbench import config, training

    try:
        results = training.train(config.load(job, training.TrainJob, set_ or ()), out)
    except KeyboardInterrupt:
        _console().print("stopped: the same command goes on from here")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    weights = Column("weights", overflow="fold")
    table = Table("model", "steps", "seconds", "select Dice", "test Dice", weights, title="foreground Dice")
    for result in results:
        dice = (f"{value:.3f}" for value in (result.dice_select, result.dice_test))
        table.add_row(result.name, str(result.steps), f"{result.seconds:.0f}", *dice, str(result.path))
    _console().print(table)


@app.command()
def doctor(
    data: Annotated[str | None, typer.Option("--data", help="A dataset's folder: its loader, what it lacks.")] = None,
    checkpoint: Annotated[str | None, typer.Option("--checkpoint", help="Its file, or a model of --job.")] = None,
    job: Annotated[str | None, typer.Option("--job", help="Job file: the checkpoint's Dice on its first case.")] = None,
    trust_code: Trust = False,
) -> None:
    """Show what works here: devices, versions, datasets; or what a dataset's folder or a checkpoint is."""
    from freqbench.engine import checkups

    spec = _job(job, None, trust_code) if job else None
    lines, is_sound = checkups.findings(data, checkpoint, spec, str(job))
    for name, finding in lines:
        _say(f"{name + ':':<16} {finding}")
    if not is_sound:
        raise typer.Exit(EXIT_FAILED)


@cache.command("show")
def cache_show() -> None:
    """Show how many volumes are kept, where, and how much room they take."""
    from freqbench.data import cache

    text = f"{len(cache.entries())} volumes, {cache.total() / 1e9:.2f} of {cache.limit() / 1e9:g} GB: {cache.folder()}"
    _say(text)


@cache.command("clear")
def cache_clear() -> None:
    """Remove all volumes that are kept; they are made anew when they are wanted."""
    from freqbench.data import cache

    text = f"{cache.clear() / 1e9:.2f} GB freed: {cache.folder()}"
    _say(text)


@contextmanager
def _uncollected() -> Iterator[None]:
    """What imports and a grid make stays: looking through it for garbage takes a second, here and at the exit again."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _job(job: str, overrides: list[str] | None, trusted: bool) -> Any:
    """A job file, nothing of it looked at yet."""
    with _uncollected():
        from freqbench import config
        from freqbench.job import JobSpec

        return _trusting(config.load(job, JobSpec, overrides or ()), trusted)


def _expanded(spec: Any, where: str, limit_cases: int | None, out: str | None, match: bool = False) -> Any:
    """A job with its budgets, and its grid."""
    spec = _with_budgets(spec, out or f"runs/{spec.name}", where, match)
    with _uncollected():
        from freqbench.job import expand

        return spec, expand(spec, limit_cases, where=where)


def _trusting(spec: Any, trusted: bool) -> Any:
    return spec.model_copy(update={"trust_code": True}) if trusted else spec


def _spec_of(out: str, job: str | None, trusted: bool) -> Any:
    from freqbench import config
    from freqbench.job import JobSpec
    from freqbench.results import Store

    if job:
        return _with_budgets(_trusting(config.load(job, JobSpec), trusted), out, job, match=False)
    # Whoever can write to a store must not be able to have code run here.
    content = {**Store(out).job()["spec"], "trust_code": trusted}
    return config.validate(content, JobSpec, where=f"{out}/run.json")


def _with_budgets(spec: Any, out: str, where: str, match: bool) -> Any:
    """The job with the budgets that are matched, if any are; computed where asked for."""
    from freqbench.engine import matching

    return matching.matched(spec, out, _say, where, match)


def _report(outs: list[str], format: str) -> str:
    from freqbench.reporting.report import report as render
    from freqbench.results import Store, index_keys

    stores = [Store(out) for out in outs]
    keys = set().union(*(index_keys(store.job()["index"]) for store in stores))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        text = render(stores, keys, {"md": "markdown"}.get(format, format)).rstrip() + "\n"
    for warning in caught:
        Console(stderr=True).print(str(warning.message), markup=False, highlight=False, soft_wrap=True)
    return text


def _finish(summary: Any, out: str) -> None:
    """Show the tables and leave with the exit code that the summary asks for."""
    from freqbench import storage

    if summary.interrupted:
        _say(f"stopped: {summary.num_done + summary.num_new} records are stored in {out}; the same command goes on")
        raise typer.Exit(EXIT_INTERRUPTED)
    sys.stdout.write(_report([out], "terminal"))
    _say(
        f"{summary.num_new} records in {summary.seconds:.0f} s, {summary.num_done} were there before: "
        f"{storage.join(out, 'records')}"
    )
    if summary.num_failed:
        _console().print(f"{summary.num_failed} records failed: the same command tries them again", style="red")
        raise typer.Exit(EXIT_FAILED)
