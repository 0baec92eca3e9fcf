"""The training jobs that a benchmark job names, the networks of theirs that it is after, and how far these are."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Annotated, Any

from pydantic import Field

from freqbench.core import config, storage
from freqbench.core.config import Strict
from freqbench.core.documents import yaml_of
from freqbench.core.errors import MissingDataError, NoFileError, UserError, unknown
from freqbench.job import sweep
from freqbench.job.rehearsal import Missing, name_of
from freqbench.job.schema import JobSpec
from freqbench.models import ModelEntry
from freqbench.models.checkpoints.files import TRAIN, weights_sha256
from freqbench.models.spec import Trained
from freqbench.training import TrainJob, finished
from freqbench.training.plan import prepare
from freqbench.training.recipe import ModelRecipe


class _Kept(Strict):
    """An entry of `training` that says where its networks are kept."""

    job: str | dict[str, Any]
    out: Annotated[str, Field(min_length=1)] | None = None


@dataclass(frozen=True, kw_only=True)
class Training:
    """An entry of `training`, read.

    Attributes:
        place: in the benchmark job, to begin the line of an error.
        job: what it says.
        out: where its networks are, as written.
    """

    place: str
    job: TrainJob
    out: str

    def content(self) -> dict[str, Any]:
        """The entry with all that it says in it."""
        return {"job": self.job.model_dump(mode="json", exclude_unset=True), "out": self.out}

    def folder(self) -> str:
        """`out` with variables filled in."""
        return storage.filled_in(self.out, f"{self.place}.out")


@dataclass(frozen=True, kw_only=True)
class Network:
    """What one `train://` checkpoint names."""

    training: Training
    recipe: ModelRecipe

    def __str__(self) -> str:
        job = self.training.job
        return f"{self.recipe.name}, {job.schedule(self.recipe).steps} steps of {job.name}, into {self.training.out}"


@dataclass(frozen=True, kw_only=True)
class _Standing:
    """How far a training job is: identity and method of each network, and the file of each that is trained."""

    identities: Mapping[str, str]
    methods: Mapping[str, str]
    files: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Stand:
    """A benchmark job and how far its networks are.

    Attributes:
        job: described, with the weights of the networks that are trained.
        todo: those that are not, by the number of their model.
        missing: those of which that cannot be told, as their training's data are not on this machine.
    """

    job: JobSpec
    todo: Mapping[int, Network]
    missing: tuple[Missing, ...]


def described(job: JobSpec, where: str) -> JobSpec:
    """See `freqbench.training.trained.described`."""
    trainings = _read(job, where)
    networks = _networks(job, trainings, where)
    return _with(job, trainings, {i: _shaped(job.models[i], network.recipe) for i, network in networks.items()})


def stand(job: JobSpec, where: str) -> Stand:
    """How far the networks of a job are; nothing is trained.

    Raises:
        UserError: as `described`; lists of a training job that share cases.
    """
    trainings = _read(job, where)
    standings: dict[str, _Standing | MissingDataError] = {}
    models, todo, missing = {}, {}, []
    for i, network in _networks(job, trainings, where).items():
        training, name, entry = network.training, network.recipe.name, _shaped(job.models[i], network.recipe)
        if training.place not in standings:
            standings[training.place] = _standing(training)
        standing = standings[training.place]
        if isinstance(standing, MissingDataError):
            reason = str(standing).removeprefix(f"{training.place}: ")
            complaint = f"expected the data of {training.job.name}, which trains it: {reason}"
            missing.append(Missing(what=name_of(entry), complaint=complaint, source=entry.source or ""))
        elif name not in standing.files:
            todo[i] = network
        else:
            file = standing.files[name]
            written = storage.join(training.out, name, PurePath(file).name)
            found = Trained(
                checkpoint=written,
                identity=standing.identities[name],
                method=standing.methods[name],
                weights=weights_sha256(file),
            )
            entry = entry.model_copy(update={"trained": found})
        models[i] = entry
    return Stand(job=_with(job, trainings, models), todo=todo, missing=tuple(missing))


def _standing(training: Training) -> _Standing | MissingDataError:
    try:
        with sweep.at(training.place):
            found = finished(training.job, training.folder())
            networks = {each.model.name: each for each in prepare(training.job).trainings}
            return _Standing(
                identities={name: each.identity for name, each in networks.items()},
                methods={name: each.method for name, each in networks.items()},
                files={name: result.path for name, result in found.items()},
            )
    except MissingDataError as error:
        return error


def _with(job: JobSpec, trainings: Sequence[Training], models: Mapping[int, ModelEntry]) -> JobSpec:
    return job.model_copy(
        update={
            "training": tuple(training.content() for training in trainings),
            "models": [models.get(i, entry) for i, entry in enumerate(job.models)],
        }
    )


def _shaped(entry: ModelEntry, recipe: ModelRecipe) -> ModelEntry:
    """An entry with what its training says, as far as it says nothing else itself; nothing that was trained before."""
    return entry.model_copy(
        update={
            "arch": entry.arch or recipe.arch,
            "args": {**(recipe.args or {}), **entry.args},
            "roi": entry.roi or recipe.roi,
            "trained": None,
        }
    )


def _read(job: JobSpec, where: str) -> list[Training]:
    """The training jobs of a job.

    Raises:
        UserError: one cannot be read, or two have one name or write to one place.
    """
    found: list[Training] = []
    for i, entry in enumerate(job.training):
        place = f"{where}: training[{i}]"
        kept = config.validate(entry, _Kept, place) if isinstance(entry, dict) and "job" in entry else _Kept(job=entry)
        content, source = _content(kept.job, where, place)
        training = config.validate(content, TrainJob, source)
        found.append(Training(place=place, job=training, out=kept.out or storage.join("runs", training.name)))
    sweep.require_distinct("training", [each.job.name for each in found], where)
    taken: dict[tuple[str, str], str] = {}
    for each in found:
        for recipe in each.job.networks:
            first = taken.setdefault((each.out.rstrip("/"), recipe.name), each.job.name)
            if first != each.job.name:
                raise UserError(
                    f"{each.place}.out: expected another place than that of {first}, which has a {recipe.name} too, "
                    f"got {each.out}: give one of them its own"
                )
    return found


def _networks(job: JobSpec, trainings: Sequence[Training], where: str) -> dict[int, Network]:
    """The network of each model of the job that is one of `training`, by its number in the job."""
    known = [Network(training=training, recipe=recipe) for training in trainings for recipe in training.job.networks]
    return {
        i: _named(str(entry.checkpoint), known, f"{where}: models[{i}].checkpoint")
        for i, entry in enumerate(job.models)
        if entry.is_to_train
    }


def _named(checkpoint: str, known: Sequence[Network], place: str) -> Network:
    if not known:
        raise UserError(
            f"{place}: expected `training` in the job for {checkpoint}, got none: name the training job that makes it, "
            "training: [PATH]"
        )
    wanted = checkpoint.removeprefix(TRAIN)
    owner, slash, name = wanted.rpartition("/")
    found = [each for each in known if each.recipe.name == name and owner in ("", each.training.job.name)]
    if not found:
        _refuse_replicate(name, [each for each in known if owner in ("", each.training.job.name)], place)
    if not found or (slash and not owner):
        names = {f"{each.training.job.name}/{each.recipe.name}" if slash else each.recipe.name for each in known}
        raise UserError(f"{place}: {unknown('network to train', wanted, names)}")
    if len(found) > 1:
        ways = " or ".join(f"{TRAIN}{each.training.job.name}/{name}" for each in found)
        raise UserError(f"{place}: expected one network of {checkpoint}, got {len(found)}: write {ways}")
    return found[0]


def _refuse_replicate(name: str, known: Sequence[Network], place: str) -> None:
    """Refuse a replicate that a network's training job does not train."""
    first, _, number = name.rpartition(".")
    for each in known:
        if each.recipe.name == first and number.isdecimal():
            job = each.training.job
            raise UserError(
                f"{place}: expected a replicate that {job.name} trains, got {name}, as its replicates are "
                f"{job.replicates}: say replicates: {int(number) + 1} there"
            )


def _content(written: str | dict[str, Any], where: str, place: str) -> tuple[dict[str, Any], str]:
    """What a training job says, and where it says it."""
    if isinstance(written, dict):
        return written, place
    path = next(_candidates(storage.filled_in(written, place), where))
    try:
        content = yaml_of(storage.fetch(path).read_bytes(), path)
    except NoFileError:
        raise UserError(f"{place}: expected a training job (YAML) at {written}, found none: check the path") from None
    if not isinstance(content, dict):
        raise UserError(f"{place}: {path}: expected keys and values at the top, got {type(content).__name__}")
    return content, f"{place}: {path}"


def _candidates(path: str, where: str) -> Iterator[str]:
    """A path as it is below the job file's folder, where it is there, else as given."""
    beside = Path(where).parent / path
    if "://" not in path and beside.is_file():
        yield str(beside)
    yield path
