"""Links the `train://NAME` checkpoints of a benchmark job to the training jobs, by path or content, that make them.
`describe_job` adds their content and the facts of each network; `plan_training` and `train_rest` fill in trained
weights, so that scoring a store later needs neither training job nor data."""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from freqbench.core import config
from freqbench.core.documents import mapping_of
from freqbench.core.errors import MissingDataError, NoFileError, UserError, unknown
from freqbench.core.files import storage
from freqbench.core.limits import whole
from freqbench.core.plugins import trusting
from freqbench.job import sweep
from freqbench.job.rehearsal import Missing, name_of
from freqbench.job.schema import JobSpec
from freqbench.job.training import ModelRecipe, TrainingEntry, TrainJob
from freqbench.models import ModelEntry
from freqbench.models.checkpoints.files import weights_sha256
from freqbench.models.entry import TRAIN, Trained
from freqbench.results import Shard
from freqbench.training import finished_result, train
from freqbench.training.plan import prepare
from freqbench.training.run import Say
from freqbench.training.state import BEST


@dataclass(frozen=True, kw_only=True)
class _Training:
    place: str  # of the entry of `training` in the benchmark job
    job: TrainJob  # its content
    out: str  # the place of its networks

    def folder(self) -> str:
        return storage.filled_in(self.out, f"{self.place}.out")


@dataclass(frozen=True, kw_only=True)
class _Link:
    training: _Training
    recipe: ModelRecipe


def describe_job(job: JobSpec) -> JobSpec:
    """Adds to a job the content of its training jobs, and architecture, arguments and ROI of their networks; paths may
    be relative to its file. Raises UserError for an invalid training job, or a `train://` of none of its networks."""
    if not job.trains:
        return job
    trainings = _read(job)
    networks = _networks(job, trainings)
    return _update(job, trainings, {i: _fill_gaps(job.models[i], network.recipe) for i, network in networks.items()})


def plan_training(job: JobSpec) -> tuple[JobSpec, tuple[Missing, ...]]:
    """Describes a job with its trained weights, and lists networks to train; raises as `describe_job`, `prepare`."""
    resolved, todo, missing = _state(job)
    untrained = []
    for i, network in todo.items():
        training = network.training
        recipe = network.recipe
        steps = training.job.schedule(recipe).steps
        complaint = f"{recipe.name}, {steps} steps of {training.job.name}, into {training.out}"
        untrained.append(Missing(what=name_of(job.models[i]), complaint=complaint, source="", word="trained first"))
    return resolved, (*untrained, *missing)


def present(job: JobSpec) -> JobSpec:
    """Describes a job whose networks are all trained; raises UserError as `plan_training`, or if one of them is not."""
    job, lacking = plan_training(job)
    if lacking:
        where = job.where
        raise UserError(f"{where}: expected a trained network, got none of {lacking[0]}: freqbench run {where} first")
    return job


def train_rest(job: JobSpec, say: Say, shard: Shard | None = None, address: str | None = None) -> JobSpec:
    """Trains the missing networks of a job, and no others of their training jobs; returns the job with all weights.
    Raises UserError as `plan_training`, and if data are not on this machine or a training fails; after Ctrl-C the same
    call goes on.

    Args:
        job: the benchmark job.
        say: gets a line per training.
        shard: the part of the grid that the run is for; of several, only the first trains. None: all of it.
        address: as in `ray_for`.
    """
    resolved, todo, missing = _state(job)
    if missing:
        raise UserError(f"{job.where}: {missing[0]}; or give the trained file as its checkpoint")
    if not todo:
        return resolved
    if shard and shard.number > 1:
        names = ", ".join(dict.fromkeys(network.recipe.name for network in todo.values()))
        got = f"got some that are not ({names}): shard 1 trains them; start the others once it attacks"
        raise UserError(f"--shard {shard}: expected networks that are trained, {got}")
    for training in {network.training.place: network.training for network in todo.values()}.values():
        only = list(dict.fromkeys(network.recipe.name for network in todo.values() if network.training is training))
        say(f"{training.job.name}: training {', '.join(only)} first, into {training.out} (the same command goes on)")
        with ray_for(training.job, address):
            train(training.job, training.folder(), only=only)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # memory that this process keeps is lost to the run's workers
    return present(job)


@contextmanager
def ray_for(training: TrainJob, address: str | None) -> Iterator[None]:
    """Starts or joins a Ray for a training job that wants one, at `address` or RAY_ADDRESS; UserError if it fails."""
    if training.engine != "ray":
        yield
        return
    from freqbench.engine.ray import ray_cluster

    place = address or os.environ.get("RAY_ADDRESS")
    with ray_cluster.existing(place) if place else ray_cluster.own(training.workers):
        yield


def _state(job: JobSpec) -> tuple[JobSpec, dict[int, _Link], list[Missing]]:
    """Describes a job with trained weights, the models still to train, and those that lack the data to tell."""
    if not job.trains:
        return job, {}, []
    trainings = _read(job)
    states: dict[str, dict[str, Trained | None] | MissingDataError] = {}
    models: dict[int, ModelEntry] = {}
    todo: dict[int, _Link] = {}
    missing: list[Missing] = []
    networks = _networks(job, trainings)
    for i, network in networks.items():
        training = network.training
        entry = _fill_gaps(job.models[i], network.recipe)
        if training.place not in states:
            names = {each.recipe.name for each in networks.values() if each.training is training}
            with sweep.prefix_errors(training.place):
                try:
                    states[training.place] = _find_trained(training, names)
                except MissingDataError as error:
                    states[training.place] = error
        of_training = states[training.place]
        if isinstance(of_training, MissingDataError):
            complaint = f"expected the data of {training.job.name}, which trains it: {of_training}"
            missing.append(Missing(what=name_of(entry), complaint=complaint, source=entry.source or ""))
        elif weights := of_training[network.recipe.name]:
            entry = entry.model_copy(update={"trained": weights})
        else:
            todo[i] = network
        models[i] = entry
    return _update(job, trainings, models), todo, missing


def _find_trained(training: _Training, names: Collection[str]) -> dict[str, Trained | None]:
    """Finds the trained weights of these networks of a training job, by name; None for one still to be trained."""
    folder = training.folder()
    weights = dict.fromkeys(names)
    with trusting(training.job.trust_code):
        trainings = prepare(training.job).trainings
    for network in trainings:
        if (name := network.model.name) in names and (result := finished_result(network, folder)):
            facts = {"identity": network.identity, "method": network.method, "weights": weights_sha256(result.path)}
            weights[name] = Trained(checkpoint=storage.join(training.out, name, BEST), **facts)
    return weights


def _update(job: JobSpec, trainings: Sequence[_Training], models: Mapping[int, ModelEntry]) -> JobSpec:
    read = tuple(TrainingEntry(job=each.job, out=each.out) for each in trainings)
    networks = [models.get(i, entry) for i, entry in enumerate(job.models)]
    return job.model_copy(update={"training": read, "models": networks})


def _fill_gaps(entry: ModelEntry, recipe: ModelRecipe) -> ModelEntry:
    """Fills gaps of an entry from its training's recipe; drops earlier trained weights."""
    shape = {"arch": entry.arch or recipe.arch, "roi": entry.roi or recipe.roi}
    return entry.model_copy(update={**shape, "args": {**(recipe.args or {}), **entry.args}, "trained": None})


def _read(job: JobSpec) -> list[_Training]:
    """Reads the training jobs that a job names, by path from it or from here; refuses two of one name or place."""
    trainings: list[_Training] = []
    for i, entry in enumerate(job.training):
        place = f"{job.where}: training[{i}]"
        training = entry.job
        if isinstance(training, str):
            path = storage.filled_in(training, place)
            beside = Path(job.where).parent / path
            path = str(beside) if "://" not in path and beside.is_file() else path
            try:
                content = mapping_of(storage.fetch(path).read_bytes(), f"{place}: {path}")
            except NoFileError:
                found = "found none: check the path"
                raise UserError(f"{place}: expected a training job (YAML) at {training}, {found}") from None
            training = config.validate(content, TrainJob, f"{place}: {path}")
        if training.trust_code != job.trust_code:  # a training job in a store must not run code here
            training = training.model_copy(update={"trust_code": job.trust_code})
        trainings.append(_Training(place=place, job=training, out=entry.out or storage.join("runs", training.name)))
    sweep.require_distinct(f"{job.where}: training", [each.job.name for each in trainings])
    taken: dict[tuple[str, str], str] = {}
    for each in trainings:
        for recipe in each.job.networks:
            first = taken.setdefault((each.out.rstrip("/"), recipe.name), each.job.name)
            if first != each.job.name:
                rest = f"which has a {recipe.name} too, got {each.out}: give one of them its own"
                raise UserError(f"{each.place}.out: expected another place than that of {first}, {rest}")
    return trainings


def _networks(job: JobSpec, trainings: Sequence[_Training]) -> dict[int, _Link]:
    """Finds the network of each model that is one of `training`, by its number in the job."""
    choices: list[_Link] = []
    for training in trainings:
        choices += [_Link(training=training, recipe=recipe) for recipe in training.job.networks]
    return {
        i: _named_network(str(entry.checkpoint), choices, f"{job.where}: models[{i}].checkpoint")
        for i, entry in enumerate(job.models)
        if entry.is_to_train
    }


def _named_network(checkpoint: str, networks: Sequence[_Link], place: str) -> _Link:
    if not networks:
        got = "got none: name the training job that makes it, training: [PATH]"
        raise UserError(f"{place}: expected `training` in the job for {checkpoint}, {got}")
    wanted = checkpoint.removeprefix(TRAIN)
    owner, slash, name = wanted.rpartition("/")
    candidates = [each for each in networks if owner in ("", each.training.job.name)]
    matching = [each for each in candidates if each.recipe.name == name]
    first, _, number = name.rpartition(".")
    replicate = None if matching else whole(number)
    for job in (each.training.job for each in candidates if each.recipe.name == first):
        if replicate is not None:
            several = sum(job.replicates_of(model) for model in job.models if model.name == first)
            got = f"got {name}, as its replicates are {several}: set replicates: {replicate + 1} there"
            raise UserError(f"{place}: expected a replicate that {job.name} trains, {got}")
    if not matching or (slash and not owner):
        names = {f"{each.training.job.name}/{each.recipe.name}" if slash else each.recipe.name for each in networks}
        raise UserError(f"{place}: {unknown('network to train', wanted, names)}")
    if len(matching) > 1:
        ways = " or ".join(f"{TRAIN}{each.training.job.name}/{name}" for each in matching)
        raise UserError(f"{place}: expected one network of {checkpoint}, got {len(matching)}: write {ways}")
    return matching[0]
