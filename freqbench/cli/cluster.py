"""Sends jobs to a cluster, shows how far they are, and stops them: `cluster submit`, `status` and `stop`."""

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
from freqbench.cli.common import argument, more, option
from freqbench.core.errors import UserError, installing, unknown

if TYPE_CHECKING:
    from freqbench.job.training import TrainingEntry

app = typer.Typer(name="cluster", help="Send jobs to a Ray cluster, and follow or stop them.", no_args_is_help=True)
Address = Annotated[str | None, more("The head, http://HEAD:8265.", envvar="RAY_API_SERVER_ADDRESS")]


@app.command()
@common.takes_options
def submit(
    options: common.JobOptions,
    part: common.PartOptions,
    address: Address = None,
    follow: Annotated[bool, option("Show the job's output until it has ended.", "--follow")] = False,
    env: Annotated[list[str] | None, more("Variable of this shell for the job; no secrets.")] = None,
) -> None:
    """Send a job to a cluster; the same job with the same --out goes on where the store ends.

    Results go to a URI, or to file:///path of a file system that all nodes share.
    """
    path = options.path
    job = options.job()
    jobs = _jobs()
    from freqbench.remote import working_directory
    from freqbench.results import Shard
    from freqbench.training import link

    job = link.describe_job(job)
    for text in (Path(path).read_text(encoding="utf-8"), *(options.set_ or ()), str(job.training)):
        working_directory.refuse_credentials(text, path)
    working_directory.require_zoo(job)
    variables = working_directory.environment(env or ())
    packed = working_directory.pack(job)
    head = jobs.Dashboard.reach(address)
    place = head.shared_place(options.place(job), "--out")
    job_id = jobs.new_id(job.name)
    shared = _shared_places(job.training, head, path)
    of_run = {
        "--out": place,
        "--set": [*(options.set_ or ()), *packed.overrides, *shared],
        "--limit-cases": options.limit_cases,
        "--shard": Shard.parse(part.shard) if part.shard else None,
        "--force": part.force,
        "--fresh": part.fresh,
        "--trust-code": options.trust_code,
    }
    size = sum(file.stat().st_size for file in packed.files.values()) / 2**20
    common.say(f"{job_id}; files that travel: {len(packed.files)} ({size:.1f} MiB), and freqbench itself")
    about = {"id": job_id, "name": job.name, "out": place}
    send = partial(jobs.submit, head, about, words(of_run), packed, variables, follow)
    if not follow:
        send()
    common.say(f"next: freqbench cluster status {shlex.quote(place)}")
    common.say(f"      freqbench cluster status {job_id} --follow{jobs.hint(head)}")
    if follow:
        send()


@app.command()
def status(
    of: Annotated[str | None, argument("A store, or a job's id.", "OUT|JOB_ID", autocompletion=common.stores)] = None,
    address: Address = None,
    follow: Annotated[bool, option("Show a job's output until it has ended.", "--follow")] = False,
    as_json: common.Json = False,
) -> None:
    """Show how far a store or a job is; without either, all jobs of the cluster.

    Of a store, records done, failed and missing, and its runs; of a job, its state, then its output.
    """
    from freqbench.results.status import facts, tables

    if of and (os.path.lexists(of) or not re.fullmatch(r"(freqbench-|raysubmit_)[\w.-]+", of)):
        of_store = facts(of)
        if as_json:
            common.put_json(of_store)
        else:
            common.console().print(*tables(of_store))
        return
    if as_json:
        raise UserError("--json: expected a result store beside it, got none: give the job's OUT")
    head = _jobs().Dashboard.reach(address)
    told = head.job_lines()
    if of and of not in told:
        raise UserError(unknown("job", of, told))
    for line in [told[of]] if of else told.values():
        common.say(line)
    if of:
        head.ray_job("logs", of, *(["--follow"] if follow else []))


@app.command()
def stop(job_id: Annotated[str, argument("Id that `submit` gave.", "JOB_ID")], address: Address = None) -> None:
    """Stop a job on a cluster: it finishes and stores work in flight, in two minutes at most."""
    head = _jobs().Dashboard.reach(address)
    head.ray_job("stop", job_id)
    common.say(head.job_lines().get(job_id, job_id))


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
