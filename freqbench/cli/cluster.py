"""Sends jobs to a cluster and follows them: `cluster submit`, `status`, `logs`, `stop` and `list`."""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from freqbench.cli import common
from freqbench.cli.common import EXIT_FAILED, EXIT_INTERRUPTED
from freqbench.core.errors import UserError, installing, one_line

if TYPE_CHECKING:
    from freqbench.job.training import TrainingEntry

LAST_LINES = 10

app = typer.Typer(name="cluster", help="Send jobs to a Ray cluster, and follow or stop them.", no_args_is_help=True)

Address = Annotated[
    str | None, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="Dashboard of the cluster's head, http://HEAD:8265.")
]
JobId = Annotated[str, typer.Argument(help="Id that `cluster submit` gave.", metavar="JOB_ID")]


@app.command()
def submit(
    path: common.JobFile,
    address: Address = None,
    out: Annotated[
        str | None, typer.Option(help="Where results go: a URI, or file:///path that all nodes share.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Show the job's output, and end with its exit code.")
    ] = False,
    set_: common.Overrides = None,
    limit_cases: common.Limit = None,
    shard: common.Shard = None,
    force: common.Force = False,
    fresh: common.Fresh = False,
    trust_code: Annotated[
        bool, typer.Option("--trust-code", help="Let code of other packages and of frozen models run there.")
    ] = False,
    env: Annotated[
        list[str] | None, typer.Option(help="Environment variable to pass to the job. Do not pass secrets.")
    ] = None,
) -> None:
    """Send a job to a cluster; the same job with the same --out goes on where the store ends."""
    job = common.job_of(path, set_, trust_code)
    jobs = _jobs()
    from freqbench.remote import working_directory
    from freqbench.results import Shard
    from freqbench.training import link

    job = link.describe_job(job)
    for text in (Path(path).read_text(encoding="utf-8"), *(set_ or ()), str(job.training)):
        working_directory.refuse_credentials(text, path)
    working_directory.require_zoo(job)
    variables = working_directory.environment(env or ())
    part = Shard.parse(shard) if shard else None
    packed = working_directory.pack(job)
    head = jobs.Dashboard(address)
    options = {
        "--set": [*(set_ or ()), *packed.overrides, *_shared_places(job.training, head, path)],
        "--limit-cases": limit_cases,
        "--shard": part,
        "--force": force,
        "--fresh": fresh,
        "--trust-code": trust_code,
    }
    job_id = head.submit(job.name, packed, out or f"runs/{job.name}", words(options), variables)
    size = sum(file.stat().st_size for file in packed.files.values()) / 2**20
    common.say(f"submitted {job_id}; files that travel: {len(packed.files)} ({size:.1f} MiB), and freqbench itself")
    if follow:
        _follow(jobs, head, job_id)
    else:
        common.say(f"freqbench cluster status {job_id}{_hint(head)}")


@app.command()
def status(
    of: Annotated[
        str,
        typer.Argument(
            help="Result store, folder or URI, or the id of a job.", metavar="OUT|JOB_ID", autocompletion=common.stores
        ),
    ],
    address: Address = None,
    as_json: common.Json = False,
) -> None:
    """Show how far a store or a job on a cluster is: records done, failed and missing, and its runs."""
    from freqbench.results.status import facts, tables

    if not re.fullmatch(r"(freqbench-|raysubmit_)[\w.-]+", of) or Path(of).is_dir():
        if re.fullmatch(r"[\w.-]+", of) and not os.path.lexists(of):
            raise UserError(
                f"{of}: expected a result store, or a job's id such as freqbench-NAME-20260131-120000-1a2b, found "
                "neither: freqbench cluster list shows the ids"
            )
        of_store = facts(of)
        if as_json:
            common.put_json(of_store)
        else:
            common.console().print(*tables(of_store))
        return
    head = _jobs().Dashboard(address)
    details = head.details(of)
    of_job = _facts(details)
    store: dict[str, Any] | None = None
    if not as_json:
        table = Table(show_header=False, title=of)
        for name, value in of_job.items():
            table.add_row(name, value)
        common.console().print(table)
        for line in head.log(of).splitlines()[-LAST_LINES:]:
            common.say(line)
    if out := of_job.get("out"):
        try:
            store = facts(out)
            if not as_json:
                common.console().print(*tables(store))
        except Exception as error:  # noqa: BLE001 (any error of a file system that only nodes reach)
            with common.aside(as_json):
                common.say(f"{out} cannot be read from here: {one_line(error, 200)}")
    if as_json:
        named = {name.removesuffix(" (UTC)"): value for name, value in of_job.items()}
        common.put_json({"id": of, **named, "store": store})


@app.command()
def logs(
    job_id: JobId,
    address: Address = None,
    follow: Annotated[bool, typer.Option("--follow", help="Until it has ended; then exit with its code.")] = False,
) -> None:
    """Show all output of a job on a cluster."""
    jobs = _jobs()
    head = jobs.Dashboard(address)
    if follow:
        _follow(jobs, head, job_id)
    elif text := head.log(job_id):
        common.put(text, None)
    else:
        common.say(
            f"{job_id}: no output: it has written none yet, or its node is gone: freqbench cluster status {job_id}"
        )


@app.command()
def stop(job_id: JobId, address: Address = None) -> None:
    """Stop a job on a cluster: it finishes and stores work in flight, in two minutes at most."""
    head = _jobs().Dashboard(address)
    if (before := head.details(job_id)).status.is_terminal():
        common.say(f"{job_id} had already ended: {before.status.value}")
        return
    common.say(f"stopping {job_id}: it stores work in flight first")
    try:
        details = head.stop(job_id)
    except KeyboardInterrupt:
        common.say(
            f"{job_id} was told to stop, and may still be running: freqbench cluster status {job_id}{_hint(head)}"
        )
        raise typer.Exit(EXIT_INTERRUPTED) from None
    for line in head.log(job_id).splitlines()[-1:]:
        common.say(line)
    common.say(f"{job_id}: {details.status.value}")
    if not details.status.is_terminal():
        common.say(f"it takes longer than it should: freqbench cluster status {job_id}{_hint(head)}")
        raise typer.Exit(EXIT_FAILED)


@app.command("list")
def list_jobs(address: Address = None) -> None:
    """Show the jobs of a cluster, the latest last."""
    head = _jobs().Dashboard(address)
    common.say(head.url)
    listed = head.jobs()
    width = max((len(each.submission_id) for each in listed), default=0)
    for each in listed:  # a line each, in which an id is never broken
        out = (each.metadata or {}).get("out") or ""
        common.say(
            f"{each.submission_id:<{width}}  {each.status.value:<9}  {_time(each.start_time):<19}  {out}".rstrip()
        )


def words(options: Mapping[str, Any]) -> list[str]:
    """Turns options of a command into words: lists repeat theirs, True stands alone, None and False are left out.

    >>> words({"--set": ["a=1", "b=2"], "--force": True, "--shard": None})
    ['--set', 'a=1', '--set', 'b=2', '--force']
    """
    parts: list[str] = []
    for name, value in options.items():
        for each in value if isinstance(value, list) else [value]:
            if each is not None and each is not False:
                parts += [name] if each is True else [name, str(each)]
    return parts


def _shared_places(training: Sequence["TrainingEntry"], head: Any, where: str) -> Iterator[str]:
    """Yields values for `--set`: places that all nodes share for the networks that a described job trains."""
    for i, entry in enumerate(training):
        out = str(entry.out)
        if "$" not in out:  # a variable is the nodes' to fill in
            yield f"training.{i}.out={json.dumps(head.shared_place(out, f'{where}: training[{i}].out'))}"


def _jobs() -> Any:
    try:
        from freqbench.remote import jobs as jobs
    except ImportError:
        raise UserError(
            f"expected Ray with its Jobs API, which jobs on a cluster need: {installing('cluster')}"
        ) from None
    return jobs


def _follow(jobs: Any, head: Any, job_id: str) -> None:
    import asyncio

    try:
        details = asyncio.run(head.follow(job_id, partial(print, end="", flush=True)))
    except KeyboardInterrupt:
        common.say(f"{job_id} goes on: freqbench cluster status {job_id}{_hint(head)}, or cluster stop")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    common.say(f"{job_id}: {details.status.value}")
    raise typer.Exit(jobs.exit_code(details))


def _hint(head: Any) -> str:
    """Completes a command so that it finds the head."""
    return "" if os.environ.get("RAY_API_SERVER_ADDRESS", "").rstrip("/") == head.url else f" --address {head.url}"


def _facts(details: Any) -> dict[str, str]:
    metadata = details.metadata or {}
    message = " ".join((details.message or "").partition("last available logs")[0].split()).rstrip(", ")
    facts = {
        "status": details.status.value,
        "message": message,
        "job": metadata.get("name"),
        "out": metadata.get("out"),
        "freqbench": metadata.get("version"),
        "started (UTC)": _time(details.start_time),
        "ended (UTC)": _time(details.end_time),
    }
    return {name: value for name, value in facts.items() if value}


def _time(milliseconds: int | None) -> str:
    if not milliseconds:
        return ""
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M:%S}"
