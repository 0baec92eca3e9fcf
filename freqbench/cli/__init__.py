"""The command line: plan, run, score, export, train, doctor, cache.

The others are in `remote`, `present`, `trust` and `converge`.
"""

import signal
import sys
from typing import Annotated, Any, Literal, NoReturn

import typer

from freqbench.cli import audit, cluster, common, converge, report
from freqbench.cli.common import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USER
from freqbench.core.errors import StorageUnavailable, UserError
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

cache = typer.Typer(
    help="Preprocessed volumes that are kept on this machine, FREQBENCH_CACHE_GB gigabytes at most (20; 0: none).",
    no_args_is_help=True,
)
app.add_typer(cache, name="cache")
app.add_typer(cluster.app)
app.add_typer(report.app)
app.add_typer(audit.app)
app.add_typer(converge.app)

Job = Annotated[str, typer.Argument(help="Job file (YAML).", metavar="JOB")]
Out = Annotated[str, typer.Argument(help="Result store: a folder or URI that `run` wrote.", metavar="OUT")]
OutOption = Annotated[str | None, typer.Option("--out", help="Where results go [default: runs/NAME of the job].")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Override the job file: a.b=c, attacks.0.eps=4/255.")]
Trust = Annotated[
    bool, typer.Option("--trust-code", help="Let code of other packages and of frozen models run: read it first.")
]
Limit = Annotated[int | None, typer.Option("--limit-cases", min=1, help="Only the first N cases of each dataset.")]
ShardOption = Annotated[
    str | None,
    typer.Option("--shard", help="2/8: the second of eight parts of the grid; each is a run of its own."),
]
Address = Annotated[
    str | None, typer.Option(help="Ray cluster [default: RAY_ADDRESS, else one of this machine's own].")
]
Force = Annotated[bool, typer.Option("--force", help="Run though another run works on the same cells.")]


def main() -> None:
    """Run the command line; a user's mistake is one line and exit code 2, Ctrl-C is 130."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app(standalone_mode=True)
    except (UserError, StorageUnavailable) as error:
        PlainConsole(stderr=True).print(f"error: {' '.join(str(error).split())}", soft_wrap=True)
        sys.exit(EXIT_USER)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        text = f"error: {place}{error.strerror or error}: check the path and its permissions"
        PlainConsole(stderr=True).print(text, soft_wrap=True)
        sys.exit(EXIT_USER)


def _interrupt(*_: Any) -> NoReturn:
    raise KeyboardInterrupt


@app.command()
def plan(
    job: Job, out: OutOption = None, set_: Set = None, limit_cases: Limit = None, trust_code: Trust = False
) -> None:
    """Show cells, cases, passes, what is done already and how long the rest may take; computes nothing."""
    from freqbench.engine import saved_volumes
    from freqbench.job import plan as planning
    from freqbench.job import rehearsal, remaining
    from freqbench.training import trained

    console = common.console()
    spec, untrained = trained.planned(common.job_of(job, set_, trust_code), job)
    lacking = (*untrained, *rehearsal.missing(spec, where=job))
    spec, grid = common.expanded(rehearsal.counted(spec, lacking), job, limit_cases, out)
    console.print(planning.overview(spec, grid))
    place = out or f"runs/{spec.name}"
    root = remaining.volumes_root(spec, place)
    for line in planning.lines(grid, lacking, saved_volumes.saved(root) if root else None, place):
        common.say(line)


@app.command()
def run(
    job: Job,
    out: OutOption = None,
    engine: Annotated[
        Literal["auto", "ray", "serial"], typer.Option(help="auto: ray where more than one worker pays.")
    ] = "auto",
    address: Address = None,
    set_: Set = None,
    limit_cases: Limit = None,
    trust_code: Trust = False,
    dry_data: Annotated[
        Literal["phantom"] | None,
        typer.Option("--dry-data", help="Try the grid on small phantoms and untrained networks, under a minute."),
    ] = None,
    shard: ShardOption = None,
    force: Force = False,
) -> None:
    """Attack, score and store what is left of a job; the same command goes on where it was stopped."""
    from freqbench.engine import run as runner
    from freqbench.job import rehearsal
    from freqbench.results import Shard
    from freqbench.training import trained

    part = Shard.parse(shard) if shard else None
    spec = common.job_of(job, set_, trust_code)
    doing = "networks were trained"
    try:
        if dry_data:
            spec, engine = rehearsal.rehearsed(trained.described(spec, job)), "serial"
        else:
            spec = trained.fulfilled(spec, job, common.say, part, address)
        doing = "budgets were matched"
        spec, grid = common.expanded(spec, job, limit_cases, out, match=True)
    except KeyboardInterrupt:
        text = f"stopped while {doing}: what was found is kept, and the same command goes on"
        common.console().print(text, soft_wrap=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    place = out or f"runs/{spec.name}"
    common.finish(runner.execute(spec, grid, place, common.console(), engine, address, part, force), place)


@app.command()
def score(
    out: Out,
    targets: Annotated[
        list[str] | None, typer.Option("--targets", help="Model of the job, or a checkpoint that names itself.")
    ] = None,
    predictions: Annotated[
        str | None, typer.Option("--predictions", help="Folder of label maps that a tool made of exported volumes.")
    ] = None,
    adversarial: Annotated[
        str | None, typer.Option("--adversarial", help="Folder of adversarial volumes that others made (adv_CASE).")
    ] = None,
    job: Annotated[str | None, typer.Option("--job", help="Job file that knows the targets [default: OUT's].")] = None,
    name: Annotated[str | None, typer.Option("--name", help="What tables call the tool, or the volumes.")] = None,
    label_map: Annotated[
        str | None, typer.Option("--label-map", help="YAML of the tool's labels: `1: spleen`; others are background.")
    ] = None,
    source: Annotated[
        str | None, typer.Option("--source", help="The job's model whose gradients made the volumes.")
    ] = None,
    trust_code: Trust = False,
) -> None:
    """Score without attacking: saved volumes on --targets, label maps that tools made of them, volumes of others."""
    given = {"--targets": targets, "--predictions": predictions, "--adversarial": adversarial}
    further = {"--name": name, "--label-map": label_map, "--source": source}
    common.check_score(given, further)
    common.finish(common.score(out, job, trust_code, given, further), out)


@app.command()
def export(
    out: Out,
    to: Annotated[str | None, typer.Option("--to", help="Folder to write to [default: OUT/export].")] = None,
    space: Annotated[
        Literal["native"], typer.Option(help="native: the files' own grid. OUT/volumes has the networks' grid.")
    ] = "native",
    units: Annotated[Literal["HU"], typer.Option(help="HU: the data's own unit, whichever it is.")] = "HU",
    job: Annotated[str | None, typer.Option("--job", help="Job file of the volumes [default: OUT's].")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask, though the data must not be passed on.")] = False,
    trust_code: Trust = False,
) -> None:
    """Write each saved adversarial volume in its file's own grid and unit (int16), for tools of others."""
    common.export(out, to, job, trust_code, yes)


@app.command()
def train(
    job: Annotated[str, typer.Argument(help="Training job (YAML).", metavar="JOB")],
    out: OutOption = None,
    set_: Set = None,
    address: Address = None,
) -> None:
    """Train the networks of a training job, clean or adversarially; the same command goes on where it was stopped."""
    try:
        common.train(job, out, set_, address)
    except KeyboardInterrupt:
        common.console().print("stopped: the same command goes on from here")
        raise typer.Exit(EXIT_INTERRUPTED) from None


@app.command()
def doctor(
    data: Annotated[str | None, typer.Option("--data", help="A dataset's folder: its loader, what it lacks.")] = None,
    checkpoint: Annotated[str | None, typer.Option("--checkpoint", help="Its file, or a model of --job.")] = None,
    job: Annotated[str | None, typer.Option("--job", help="Job file: the checkpoint's Dice on its first case.")] = None,
    trust_code: Trust = False,
) -> None:
    """Show what works here: devices, versions, datasets; or what a dataset's folder or a checkpoint is."""
    from freqbench.cli import checkups
    from freqbench.core.plugins import trusting
    from freqbench.training import trained

    spec = trained.planned(common.job_of(job, None, trust_code), job)[0] if job else None
    with trusting(trust_code or bool(spec and spec.trust_code)):
        lines, is_sound = checkups.findings(data, checkpoint, spec, str(job))
        for name, finding in lines:
            common.say(f"{name + ':':<16} {finding}")
    if not is_sound:
        raise typer.Exit(EXIT_FAILED)


@cache.command("show")
def cache_show() -> None:
    """Show how many volumes and copies of remote files are kept, where, and how much room they take."""
    from freqbench.core import downloads
    from freqbench.data import cache

    if copies := downloads.total():
        common.say(f"{copies / 1e9:.2f} GB of files fetched from URIs: {downloads.root()}")
    text = f"{len(cache.entries())} volumes, {cache.total() / 1e9:.2f} of {cache.limit() / 1e9:g} GB: {cache.folder()}"
    common.say(text)


@cache.command("clear")
def cache_clear() -> None:
    """Remove all volumes and copies of remote files; they are made, or fetched, anew when they are wanted."""
    from freqbench.core import downloads
    from freqbench.data import cache

    if copies := downloads.clear():
        common.say(f"{copies / 1e9:.2f} GB freed: {downloads.root()}")
    text = f"{cache.clear() / 1e9:.2f} GB freed: {cache.folder()}"
    common.say(text)
