"""Sends jobs to a cluster and follows them: `cluster submit`, `status`, `logs`, `stop` and `list`."""

import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from freqbench.cli import common
from freqbench.core.errors import UserError, installing

if TYPE_CHECKING:
    from freqbench.job.training import TrainingEntry

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
    follow: Annotated[bool, typer.Option("--follow", help="Show the job's output until it has ended.")] = False,
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
    head = jobs.Dashboard.reach(address)
    options = {
        "--set": [*(set_ or ()), *packed.overrides, *_shared_places(job.training, head, path)],
        "--limit-cases": limit_cases,
        "--shard": part,
        "--force": force,
        "--fresh": fresh,
        "--trust-code": trust_code,
    }
    place, job_id = head.shared_place(out or f"runs/{job.name}", "--out"), jobs.new_id(job.name)
    size = sum(file.stat().st_size for file in packed.files.values()) / 2**20
    common.say(f"{job_id}; files that travel: {len(packed.files)} ({size:.1f} MiB), and freqbench itself")
    sent = jobs.Submission(job_id=job_id, name=job.name, out=place, options=words(options), variables=variables)
    send = partial(jobs.submit, head, sent, packed, follow)
    if not follow:
        send()
    common.say(f"freqbench cluster status {shlex.quote(place)}")
    common.say(f"freqbench cluster logs {job_id} --follow{jobs.hint(head)}")
    if follow:
        send()


@app.command()
def status(
    of: Annotated[
        str, typer.Argument(help="Result store, folder or URI.", metavar="OUT", autocompletion=common.stores)
    ],
    as_json: common.Json = False,
) -> None:
    """Show how far a store is: records done, failed and missing, and its runs."""
    from freqbench.results.status import facts, tables

    if re.fullmatch(r"(freqbench-|raysubmit_)[\w.-]+", of) and not os.path.lexists(of):
        raise UserError(
            f"{of}: expected a result store, got the id of a job: give the OUT that it was submitted with, or see its "
            f"output by freqbench cluster logs {of}"
        )
    of_store = facts(of)
    if as_json:
        common.put_json(of_store)
    else:
        common.console().print(*tables(of_store))


@app.command()
def logs(
    job_id: JobId,
    address: Address = None,
    follow: Annotated[bool, typer.Option("--follow", help="Until it has ended.")] = False,
) -> None:
    """Show all output of a job on a cluster, by `ray job logs`."""
    _jobs().Dashboard.reach(address).ray_job("logs", job_id, *(["--follow"] if follow else []))


@app.command()
def stop(job_id: JobId, address: Address = None) -> None:
    """Stop a job on a cluster, by `ray job stop`: it finishes and stores work in flight, in two minutes at most."""
    _jobs().Dashboard.reach(address).ray_job("stop", job_id)


@app.command("list")
def list_jobs(address: Address = None) -> None:
    """Show the jobs of a cluster, by `ray job list`."""
    _jobs().Dashboard.reach(address).ray_job("list")


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
    if not all(map(find_spec, ("ray", "aiohttp", "requests"))):
        raise UserError(f"expected Ray with its Jobs API, which jobs on a cluster need: {installing('cluster')}")
    from freqbench.remote import jobs

    return jobs
