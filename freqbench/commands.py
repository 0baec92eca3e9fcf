"""What the commands of the command line share: jobs read, stores reported, and each way to score."""

import gc
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from freqbench.errors import UserError

EXIT_FAILED, EXIT_USER, EXIT_INTERRUPTED = 1, 2, 130
TAKES = {"--targets": (), "--predictions": ("--name", "--label-map"), "--adversarial": ("--source", "--name")}
NEEDS = {"--targets": (), "--predictions": ("--name",), "--adversarial": ("--source",)}


def console() -> Console:
    """Where a command speaks."""
    return Console()


def say(text: str) -> None:
    """A line as it is."""
    console().print(text, highlight=False, markup=False, soft_wrap=True)


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
    from freqbench.engine import imported, predictions, runner
    from freqbench.job import expand, further_targets

    spec = spec_of(out, job, trusted)
    if given["--targets"]:
        spec, grid = further_targets(spec, given["--targets"])
        return runner.rescore(spec, imported.joined(grid, out), out, console())
    grid = expand(spec, where=job or out)
    name, source = further["--name"], further["--source"]
    if folder := given["--adversarial"]:
        return imported.bring_in(spec, grid, out, folder, source, name or Path(folder).resolve().name, console())
    grid = imported.joined(grid, out)
    return predictions.score(spec, grid, out, given["--predictions"], name, further["--label-map"], console())


def export(out: str, to: str | None, job: str | None, trusted: bool, yes: bool) -> None:
    """Export the saved volumes of a store; asks where the data must not be passed on.

    Raises:
        UserError: it cannot ask, and there is no `yes`.
    """
    from freqbench import storage
    from freqbench.engine import export, imported
    from freqbench.job import expand

    grid = imported.joined(expand(spec_of(out, job, trusted), where=job or out), out)
    names = ", ".join(export.restricted(grid))
    if names and not yes:
        if not sys.stdin.isatty():
            raise UserError(f"{names}: expected leave to write volumes that must not be passed on: give --yes")
        typer.confirm(f"Volumes of {names} must not be passed on. Write them all the same?", abort=True)
    export.export(grid, out, to or storage.join(out, "export"), console())


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
        from freqbench import config
        from freqbench.job import JobSpec

        return _trusting(config.load(job, JobSpec, overrides or ()), trusted)


def expanded(spec: Any, where: str, limit_cases: int | None, out: str | None, match: bool = False) -> Any:
    """A job with its budgets, and its grid."""
    spec = _with_budgets(spec, out or f"runs/{spec.name}", where, match)
    with _uncollected():
        from freqbench.job import expand

        return spec, expand(spec, limit_cases, where=where)


def _trusting(spec: Any, trusted: bool) -> Any:
    return spec.model_copy(update={"trust_code": True}) if trusted else spec


def spec_of(out: str, job: str | None, trusted: bool) -> Any:
    """The job of a store, or of a file in its place."""
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

    return matching.matched(spec, out, say, where, match)


def report(outs: list[str], format: str) -> str:
    """The tables of stores; what a csv leaves out goes to stderr."""
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


def finish(summary: Any, out: str) -> None:
    """Show the tables and leave with the exit code that the summary asks for."""
    from freqbench import storage

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
