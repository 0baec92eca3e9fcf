"""What the commands of the command line share: jobs read, stores reported, and each way to score."""

import gc
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Column, Table

from freqbench.core.errors import UserError
from freqbench.core.terminal import PlainConsole

EXIT_FAILED, EXIT_USER, EXIT_INTERRUPTED = 1, 2, 130
TAKES = {"--targets": (), "--predictions": ("--name", "--label-map"), "--adversarial": ("--source", "--name")}
FORMATS = {"md": "markdown"}
PAGE, PAGE_FOLDER = "report.html", "report"
NEEDS = {"--targets": (), "--predictions": ("--name",), "--adversarial": ("--source",)}


def console() -> Console:
    """Where a command speaks."""
    return PlainConsole()


def say(text: str) -> None:
    """A line as it is."""
    console().print(text, soft_wrap=True)


def check_score(given: Mapping[str, Any], further: Mapping[str, Any]) -> None:
    """Refuse `score` without one thing to score, or with options that belong to another.

    Raises:
        UserError: naming the options.
    """
    ways = [option for option, value in given.items() if value]
    if len(ways) != 1:
        got = " and ".join(ways) or "none"
        raise UserError(f"score: expected one of {', '.join(given)}, got {got}: see score --help")
    (way,) = ways
    for option, value in further.items():
        if value is None and option in NEEDS[way]:
            raise UserError(f"score: {way}: expected {option} too, got none: see score --help")
        if value is not None and option not in TAKES[way]:
            raise UserError(f"score: {way}: expected no {option}, got {value!r}: leave it out")


def score(out: str, job: str | None, trusted: bool, given: Mapping[str, Any], further: Mapping[str, Any]) -> Any:
    """Score in the one way that is asked for."""
    from freqbench.engine import run
    from freqbench.exchange import adversarial_volumes, predictions
    from freqbench.job.schema import expand, further_targets

    spec = spec_of(out, job, trusted)
    if given["--targets"]:
        spec, grid = further_targets(spec, given["--targets"])
        return run.rescore(spec, adversarial_volumes.joined(grid, out), out, console())
    grid = expand(spec, where=job or out)
    name, source = further["--name"], further["--source"]
    if folder := given["--adversarial"]:
        return adversarial_volumes.bring_in(
            spec, grid, out, folder, source, name or Path(folder).resolve().name, console()
        )
    grid = adversarial_volumes.joined(grid, out)
    return predictions.score(spec, grid, out, given["--predictions"], name, further["--label-map"], console())


def export(out: str, to: str | None, job: str | None, trusted: bool, yes: bool) -> None:
    """Export the saved volumes of a store; asks where the data must not be passed on.

    Raises:
        UserError: it cannot ask, and there is no `yes`.
    """
    from freqbench.core import names as paths
    from freqbench.core import storage
    from freqbench.exchange import adversarial_volumes, export
    from freqbench.job.schema import expand

    grid = adversarial_volumes.joined(expand(spec_of(out, job, trusted), where=job or out), out)
    _ask_for(export.restricted(grid), yes)
    if not to:
        to = storage.join(out, "export")
        paths.require_inside(out, to)
    export.export(grid, out, to, console())


def _ask_for(datasets: Sequence[str], yes: bool) -> None:
    """Go on only with leave to write volumes of datasets that must not be passed on."""
    names = ", ".join(datasets)
    if names and not yes:
        if not sys.stdin.isatty():
            raise UserError(f"{names}: expected leave to write volumes that must not be passed on: give --yes")
        typer.confirm(f"Volumes of {names} must not be passed on. Write them all the same?", abort=True)


@contextmanager
def _uncollected() -> Iterator[None]:
    """What imports and a grid make stays: looking through it for garbage takes a second, here and at the exit again."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def job_of(job: str, overrides: list[str] | None, trusted: bool) -> Any:
    """A job file, nothing of it looked at yet."""
    with _uncollected():
        from freqbench.core import config
        from freqbench.job.schema import JobSpec

        return _trusting(config.load(job, JobSpec, overrides or ()), trusted)


def expanded(spec: Any, where: str, limit_cases: int | None, out: str | None, match: bool = False) -> Any:
    """A job with its budgets, and its grid."""
    spec = _with_budgets(spec, out or f"runs/{spec.name}", where, match)
    with _uncollected():
        from freqbench.job.schema import expand

        return spec, expand(spec, limit_cases, where=where)


def _trusting(spec: Any, trusted: bool) -> Any:
    return spec.model_copy(update={"trust_code": True}) if trusted else spec


def spec_of(out: str, job: str | None, trusted: bool) -> Any:
    """The job of a store, or of a file in its place."""
    from freqbench.core import config
    from freqbench.job.schema import JobSpec
    from freqbench.results import Store
    from freqbench.training import trained

    if job:
        spec = trained.present(_trusting(config.load(job, JobSpec), trusted), job)
        return _with_budgets(spec, out, job, match=False)
    # Whoever can write to a store must not be able to have code run here.
    stored = Store(out).job().get("spec")
    content = {**stored, "trust_code": trusted} if isinstance(stored, dict) else stored
    return config.validate(content, JobSpec, where=f"{out}/run.json")


def _with_budgets(spec: Any, out: str, where: str, match: bool) -> Any:
    """The job with the budgets that are matched, if any are; computed where asked for."""
    from freqbench.engine import matching

    return matching.matched(spec, out, say, where, match)


def train(job: str, out: str | None, overrides: list[str] | None, address: str | None) -> None:
    """Train the networks of a job, and show what became of them."""
    from freqbench import training
    from freqbench.core import config
    from freqbench.training import trained

    spec = config.load(job, training.TrainJob, overrides or ())
    with trained.ray_for(spec, address):
        results = training.train(spec, out)
    weights = Column("weights", overflow="fold")
    columns = ("model", "steps", "seconds", "select Dice", "attacked", "test Dice")
    table = Table(*columns, weights, title="foreground Dice")
    for result in results:
        dice = (result.dice_select, result.dice_attacked, result.dice_test)
        figures = ("" if value is None else f"{value:.3f}" for value in dice)
        table.add_row(result.name, str(result.steps), f"{result.seconds:.0f}", *figures, result.path)
    console().print(table)


def report(outs: list[str], format: str, table: str | None = None) -> str:
    """The tables of stores, or one; what a csv leaves out goes to stderr."""
    from freqbench.reporting.contents import keys_of
    from freqbench.reporting.report import report as render
    from freqbench.results import Store

    stores = [Store(out) for out in _unique(outs)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        text = render(stores, keys_of(store.job() for store in stores), FORMATS.get(format, format), table)
    for warning in caught:
        PlainConsole(stderr=True).print(str(warning.message), soft_wrap=True)
    return text.rstrip() + "\n"


def compare(first: str, second: str, format: str) -> str:
    """What differs between two stores."""
    from freqbench.analysis.groups import SCORES
    from freqbench.reporting.contents import contents
    from freqbench.reporting.report import renderer
    from freqbench.reporting.views import compare
    from freqbench.results import Store

    render = renderer(FORMATS.get(format, format))
    a, b = (contents([Store(out)], SCORES, with_classes=False) for out in (first, second))
    sections = compare(a.records, b.records, a.facts[0]["runs"], b.facts[0]["runs"])
    return render(sections).rstrip() + "\n"


def write_page(outs: list[str], to: str | None, with_volumes: bool, yes: bool) -> None:
    """The page of stores: one file, or a folder with the volumes that the stores hold.

    Raises:
        UserError: nothing to show, or volumes that must not be passed on, it cannot ask, and there is no `yes`.
    """
    from freqbench.audit import checks
    from freqbench.core import storage
    from freqbench.reporting import audit
    from freqbench.reporting.contents import contents, keys_of
    from freqbench.reporting.page import build_page, page_data, viewer_script
    from freqbench.reporting.page.manifest import write_volumes
    from freqbench.results import Store

    outs = _unique(outs)
    place = to or storage.join(outs[0], PAGE_FOLDER if with_volumes else PAGE)
    if not with_volumes:
        _require_file(place)
    stores = [Store(out) for out in outs]
    found = contents(stores)
    findings = checks.audited(checks.gathered(stores, keys_of(each["job"] for each in found.facts)))
    data = page_data(found.records, found.classes, found.facts, audit.page_part(findings))
    file, volumes, viewer = place, None, ""
    if with_volumes:
        _ask_for(found.restricted, yes)
        file, viewer = storage.join(place, "index.html"), viewer_script()
        volumes = write_volumes(found.records, found.classes, outs, place)
    page = build_page(data, viewer, volumes)
    storage.write_atomic(file, page.encode())
    say(f"written: {file} ({len(page) / 1e6:.1f} MB)")
    if volumes is not None:
        size = f"{volumes['bytes'] / 1e6:.0f} MB"
        say(f"{len(volumes['cases'])} attacked volumes beside it ({size}): keep the folder whole")


def write_figures(outs: list[str], folder: str) -> None:
    """Every picture that the stores allow, and why others are not there."""
    from freqbench.core import storage
    from freqbench.reporting.contents import contents
    from freqbench.reporting.figures import write_figures
    from freqbench.results import Store
    from freqbench.results import volumes as saved

    outs = _unique(outs)
    found = contents([Store(out) for out in outs])
    volumes = storage.join(outs[0], saved.VOLUMES) if len(outs) == 1 else None
    written = write_figures(found.records, found.classes, volumes, folder)
    for path in written.paths:
        say(path)
    for name, reason in written.reasons.items():
        say(f"no {name}: {reason}")


def serve(outs: list[str], host: str, port: int) -> None:
    """The page over stores that may still grow, until Ctrl-C."""
    try:
        from freqbench.reporting.page.serve import LOOPBACK, serve
    except ImportError as error:
        raise UserError(f"serve: expected the package {error.name}: pip install 'freqbench[serve]'") from None

    if host not in LOOPBACK:
        say(f"whoever reaches {host} can read these results: there is no login")
    serve(_unique(outs), host, port, lambda address: say(f"{address} (Ctrl-C ends it)"))


def _unique(outs: Sequence[str]) -> list[str]:
    """Each store once."""
    return list(dict.fromkeys(out.rstrip("/") or out for out in outs))


def put(text: str, to: str | None) -> None:
    """A text where it is wanted: in a file, whole or not at all, or on the terminal."""
    from freqbench.core import storage

    if to is None:
        sys.stdout.write(text)
        return
    _require_file(to)
    storage.write_atomic(to, text.encode())
    say(f"written: {to}")


def _require_file(to: str) -> None:
    """Refuse to write a file where a folder is."""
    if not to or Path(to).is_dir():
        raise UserError(f"--to: expected a file, got {to or 'nothing'!r}: name a file")


def finish(summary: Any, out: str) -> None:
    """Show the tables and leave with the exit code that the summary asks for."""
    from freqbench.core import storage

    if summary.interrupted:
        say(f"stopped: {summary.num_done + summary.num_new} records are stored in {out}; the same command goes on")
        raise typer.Exit(EXIT_INTERRUPTED)
    sys.stdout.write(report([out], "terminal"))
    say(
        f"{summary.num_new} records in {summary.seconds:.0f} s, {summary.num_done} were there before: "
        f"{storage.join(out, 'records')}"
    )
    if summary.num_failed:
        console().print(f"{summary.num_failed} records failed: the same command tries them again", style="red")
        raise typer.Exit(EXIT_FAILED)
