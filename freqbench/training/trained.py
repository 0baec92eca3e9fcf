"""The networks that a benchmark job trains itself: `checkpoint: train://NAME` and the training jobs that it names.

A job of theirs goes through three states. As written, it names training jobs by path, or has their content; `described`
has the content in it, and what each `train://` network is; `planned` and `fulfilled` fill in what was trained, so that
the grid, a store's own job and whoever scores it later need neither the training job nor its data. A job that trains
nothing stays as it is, and what trains, which takes seconds to import, is not imported for it.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from freqbench.core.errors import UserError
from freqbench.job.rehearsal import Missing, name_of
from freqbench.job.schema import JobSpec
from freqbench.results import Shard

TRAINED_FIRST = "trained first"


def described(job: JobSpec, where: str) -> JobSpec:
    """A job with the content of its training jobs in it, and architecture, arguments and ROI of the networks to train.

    Args:
        job: as written.
        where: the job's file, which paths may be relative to; begins the line of an error.

    Raises:
        UserError: a training job that cannot be, or a `train://` that names none of its networks.
    """
    if not job.trains:
        return job
    from freqbench.training import link

    return link.described(job, where)


def planned(job: JobSpec, where: str) -> tuple[JobSpec, tuple[Missing, ...]]:
    """A described job in which the networks that are trained stand with their weights, and those that are not.

    Raises:
        UserError: as `described`; lists of a training job that share cases.
    """
    if not job.trains:
        return job, ()
    from freqbench.training import link

    found = link.stand(job, where)
    untrained = [
        Missing(what=name_of(job.models[i]), complaint=str(network), source="", word=TRAINED_FIRST)
        for i, network in found.todo.items()
    ]
    return found.job, (*untrained, *found.missing)


def present(job: JobSpec, where: str) -> JobSpec:
    """A job whose networks are all trained.

    Raises:
        UserError: as `planned`, or one of them is not.
    """
    job, lacking = planned(job, where)
    if lacking:
        raise UserError(f"{where}: expected a trained network, got none of {lacking[0]}: bench.py run {where} first")
    return job


@contextmanager
def ray_for(training: Any, address: str | None) -> Iterator[None]:
    """A Ray for a training job that wants one: the cluster at an address or of RAY_ADDRESS, else one of its own.

    Raises:
        UserError: the cluster cannot be reached.
    """
    if training.engine != "ray":
        yield
        return
    from freqbench.engine import ray_cluster

    place = address or os.environ.get("RAY_ADDRESS")
    with ray_cluster.existing(place) if place else ray_cluster.own(training.workers):
        yield


def fulfilled(
    job: JobSpec, where: str, say: Callable[[str], None], shard: Shard | None = None, address: str | None = None
) -> JobSpec:
    """A job whose networks are all trained: those that are missing now, and no other of their training jobs.

    Args:
        job: as written.
        where: its file; begins the line of an error.
        say: told of what is trained.
        shard: the part of the grid that this run is for: of several, the first trains.
        address: see `ray_for`.

    Raises:
        UserError: as `planned`, the data of a training are not on this machine, or a training fails.
        KeyboardInterrupt: Ctrl-C; the same call goes on from there.
    """
    if not job.trains:
        return job
    from freqbench.training import link, train

    found = link.stand(job, where)
    if found.missing:
        raise UserError(f"{where}: {found.missing[0]}; or give the trained file as its checkpoint")
    if not found.todo:
        return found.job
    wanted: dict[str, list[str]] = {}
    for network in found.todo.values():
        wanted.setdefault(network.training.place, []).append(network.recipe.name)
    if shard and shard.number > 1:
        names = ", ".join(name for each in wanted.values() for name in dict.fromkeys(each))
        raise UserError(
            f"--shard {shard}: expected networks that are trained, got some that are not ({names}): shard 1 trains "
            "them; start the others once it attacks"
        )
    by_place = {network.training.place: network.training for network in found.todo.values()}
    for place, training in by_place.items():
        only = list(dict.fromkeys(wanted[place]))
        say(f"{training.job.name}: training {', '.join(only)} first, into {training.out} (the same command goes on)")
        with ray_for(training.job, address):
            train(training.job, training.folder(), only=only)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # what this process keeps, the run's workers lack
    return present(job, where)
