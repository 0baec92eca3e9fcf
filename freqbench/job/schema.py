"""Reads job files: YAML to a validated JobSpec, and from it to the grid of cells with all that they need resolved."""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator

from freqbench.attacks import Attack, attack_class, make, with_indices
from freqbench.core import config, names, plugins
from freqbench.core.config import FileName, Strict
from freqbench.core.errors import UserError, unknown
from freqbench.core.types import CaseRef
from freqbench.data import DATASETS, Dataset
from freqbench.job import sweep
from freqbench.job.grid import Cell, Grid
from freqbench.job.models import models_for, models_of, require_models
from freqbench.job.sweep import AttackEntry, DatasetEntry
from freqbench.metrics import METRICS
from freqbench.models import ModelEntry, ModelSpec
from freqbench.models.checkpoints import record

DEFAULT_METRICS = ("dsc", "hd95", "ssim", "psnr", "lpips")
COUPLED_WINDOWS = 4  # at once in the code released with SA2

Auto = Literal["auto"] | PositiveInt


class Resources(Strict):
    """What a worker may take; recorded with every row, in no identity.

    Attributes:
        workers: processes; `auto`: one a GPU share, or one for two cores and at least two; the serial engine has one.
        threads: CPU threads a worker; `auto`: cores / workers.
        gpus_per_worker: GPUs or a share of one, where there are any; 0: none.
    """

    workers: Auto = "auto"
    threads: Auto = "auto"
    gpus_per_worker: Annotated[float, Field(ge=0)] = 1.0


class JobSpec(Strict):
    """A job file.

    Attributes:
        name: of the job; results go to `runs/<name>` unless told otherwise.
        datasets: see DatasetEntry; further keys are the loader's own.
        models: sources and targets; `datasets` of an entry says which it is for. An entry with `replicates` stands for
            as many models.
        attacks: see AttackEntry; further keys are the attack's parameters. A list of values multiplies into cells, a
            value that is a list itself stands in one more. Names of classes in `organs` and `target` are each dataset's
            own.
        training: jobs that train the networks of `train://NAME` checkpoints (`train://JOB/NAME` where two train one of
            that name): paths of training jobs, their content, or `{job: either, out: where its networks are}`, by
            default `runs/<name>`; `freqbench.training.link` reads them.
        targets: which models score a volume: `all`, the `source` that made it, or names.
        seeds: one cell each, for attacks that draw.
        metrics: names of METRICS.
        precision: arithmetic of the networks; in the identity.
        compile: run networks through `torch.compile`; in the identity.
        resources: see Resources.
        window_batch: windows attacked at once; `auto`: 1 on a CPU, as many as its memory holds on a GPU. Attacks that
            couple the windows of a batch have it in their identity; `auto` is 4 for them, wherever they run.
        case_timeout: seconds that a unit may take before its worker is killed and the unit tried again; none: for ever.
            The serial engine cannot stop a unit.
        save_adversarial: `nifti` writes volumes and predictions under `OUT/volumes/`.
        trust_code: code of other packages and of frozen models may run, as `--trust-code` says too. Never taken from a
            store.
    """

    name: Annotated[FileName, Field(pattern=r"^[\w.-]+$")]
    datasets: Annotated[list[DatasetEntry], Field(min_length=1)]
    models: Annotated[list[ModelEntry], Field(min_length=1)]
    attacks: Annotated[list[AttackEntry], Field(min_length=1)]
    training: tuple[Annotated[str, Field(min_length=1)] | dict[str, Any], ...] = ()
    targets: Literal["all", "source"] | Annotated[list[str], Field(min_length=1)] = "all"
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    metrics: tuple[str, ...] = DEFAULT_METRICS
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    compile: bool = False
    resources: Resources = Resources()
    window_batch: Auto = "auto"
    case_timeout: PositiveFloat | None = None
    save_adversarial: Literal["none", "nifti"] = "none"
    trust_code: bool = False

    @property
    def trains(self) -> bool:
        """Whether it has to do with training: see `freqbench.training.link`."""
        return bool(self.training) or any(entry.is_to_train for entry in self.models)

    @field_validator("models")
    @classmethod
    def _a_model_each(cls, given: list[ModelEntry]) -> list[ModelEntry]:
        return [network for entry in given for network in entry.networks()]

    @field_validator("metrics")
    @classmethod
    def _known_metrics(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in METRICS:
                raise UserError(unknown("metric", name, METRICS))
        return names


def expand(job: JobSpec, limit_cases: int | None = None, where: str = "job") -> Grid:
    """The grid of a job: datasets built and listed, models resolved and checked, lists multiplied into cells.

    Raises:
        UserError: one line that begins with `where` and the place.
    """
    with plugins.trusting(job.trust_code):
        return _expanded(job, limit_cases, where)


def _expanded(job: JobSpec, limit_cases: int | None, where: str) -> Grid:
    sweep.require_distinct("datasets", [entry.name for entry in job.datasets], where)
    datasets = [build_dataset(entry, f"{where}: datasets[{i}]") for i, entry in enumerate(job.datasets)]
    coupled = COUPLED_WINDOWS if job.window_batch == "auto" else job.window_batch
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        attacks = {dataset.name: list(_attacks(job, i, dataset, where)) for i, dataset in enumerate(datasets)}
    require_models(job.models, [dataset.name for dataset in datasets], where)
    said = [str(warning.message) for warning in caught]
    cells: dict[tuple[str, str], Cell] = {}
    cases: dict[str, tuple[CaseRef, ...]] = {}
    for i, dataset in enumerate(datasets):
        with sweep.at(f"{where}: datasets[{i}]"):
            cases[dataset.name] = sweep.with_own_files(dataset.refs()[:limit_cases])
            if any(attack.needs_reference for attack, _ in attacks[dataset.name]):
                dataset.other(cases[dataset.name][0], seed=0)  # refuses a split of one case
        models = models_of(job.models, dataset, where)
        for model in models.values():
            said += record.concerns(model, dataset.name, dataset.class_names, cases[dataset.name])
        for source, (attack, only) in product(models.values(), attacks[dataset.name]):
            if source.name not in only:
                continue
            for seed in job.seeds if attack.is_stochastic else [None]:
                cell = Cell(
                    dataset=dataset,
                    source=source,
                    attack=attack,
                    seed=seed,
                    precision=job.precision,
                    compile=job.compile,
                    targets=_targets(job, models, source, where),
                    window_batch=coupled if attack.couples_batch else None,
                )
                cells.setdefault((dataset.name, cell.cell_id), cell)
    return Grid(cells=tuple(cells.values()), cases=cases, metrics=job.metrics, warnings=tuple(dict.fromkeys(said)))


def further_targets(job: JobSpec, names: Sequence[str]) -> tuple[JobSpec, Grid]:
    """A job whose cells are scored on other targets: for volumes that are there already.

    Args:
        job: that made the volumes.
        names: models of the job, or checkpoints that say their own architecture (`zoo://...`, safetensors); a
            checkpoint is called by its file name, or as `NAME=CHECKPOINT` says.

    Raises:
        UserError: neither a model of the job nor such a checkpoint.
    """
    own = {entry.name: entry for entry in job.models}
    by_checkpoint = {entry.checkpoint: entry.name for entry in job.models if entry.defence is None}
    targets: list[str] = []
    added: list[ModelEntry] = []
    for text in dict.fromkeys(names):
        name, _, checkpoint = text.rpartition("=")
        if checkpoint in own or checkpoint in by_checkpoint:
            targets.append(checkpoint if checkpoint in own else by_checkpoint[checkpoint])
            continue
        if re.fullmatch(r"\w*", checkpoint):  # a word without dot or slash is no checkpoint
            raise UserError(f"targets: {unknown('model', checkpoint, own)}; or give a checkpoint's path")
        name = name or PurePath(checkpoint).stem
        added.append(config.validate({"name": name, "checkpoint": checkpoint}, ModelEntry, "targets"))
        if name in own:
            raise UserError(f"targets: {name!r} is a model of the job already: write NAME={checkpoint}")
        targets.append(name)
    extended = job.model_copy(update={"models": [*job.models, *added], "targets": targets})
    grid = expand(extended, where="targets")
    sources = tuple(cell for cell in grid.cells if cell.source.name in own)
    return job, replace(grid, cells=sources)


def build_dataset(entry: DatasetEntry | Mapping[str, Any], where: str) -> Dataset:
    """The dataset of a job file's entry, read or not; `where` begins the line of an error.

    Raises:
        UserError: unknown loader, or keys that it does not take.
    """
    entry = config.validate(entry, DatasetEntry, where)
    loader, content = entry.class_name, {"name": entry.name, **entry.own}
    if plugins.names_class(loader):
        with sweep.at(f"{where}.loader"):
            found: type[Dataset] = plugins.load_class(loader, Dataset)
        return config.validate(content, found, where)
    if loader not in DATASETS:
        raise UserError(f"{where}.loader: {unknown('loader', loader, DATASETS)}")
    return config.validate(content, DATASETS[loader], where)


def _targets(job: JobSpec, models: Mapping[str, ModelSpec], source: ModelSpec, where: str) -> tuple[ModelSpec, ...]:
    if job.targets == "all":
        return tuple(models.values())
    if job.targets == "source":
        return (source,)
    known = [entry.name for entry in job.models]
    for i, name in enumerate(job.targets):
        if name not in known:
            raise UserError(f"{where}: targets[{i}]: {unknown('model', name, known)}")
    return tuple(models[name] for name in dict.fromkeys(job.targets) if name in models)


def _attacks(job: JobSpec, number: int, dataset: Dataset, where: str) -> Iterator[tuple[Attack, Sequence[str]]]:
    """The attacks on one dataset, each with the sources that it is for.

    Names of the dataset's classes become their indices, and it has classes enough for the attacks.
    """
    with sweep.at(f"{where}: datasets[{number}]"):
        dataset.class_names, dataset.num_channels  # noqa: B018 (their refusals are the dataset's, not the attack's)
    names = [entry.name for entry in job.datasets]
    sources, models = models_for(job.models, dataset.name), [model.name for model in job.models]
    for i, entry in enumerate(job.attacks):
        place = f"{where}: attacks[{i}]"
        if dataset.name in entry.only("datasets", names, place):
            for written, only in entry.on(dataset.name, sources, models, place):
                yield attack_of(entry.class_name, written, dataset, place), only


def attack_of(name: str, written: Mapping[str, Any], dataset: Dataset, place: str) -> Attack:
    """An attack with the parameters that a job file writes, for a dataset.

    Args:
        name: of ATTACKS, or `package.module:Class`.
        written: its parameters as the file gives them.
        dataset: whose classes and channels it is to take.
        place: begins the line of an error.

    Raises:
        UserError: no such attack, or parameters that it or the dataset does not take.
    """
    parameters = {key: sweep.parse_value(value) for key, value in written.items()}
    if parameters.get("targeted"):
        raise UserError(
            f"{place}.targeted: expected false, got true: a job knows the true labels alone, and towards them "
            "no attack hurts: use target: least-likely, next-class, {swap: {a: b}} or {erase: a}"
        )
    owner = names.ALIASES["attacks"].get(name, name)
    with sweep.at_parameter(place, f"{dataset.name}: "):
        parameters = with_indices(owner, parameters, dataset.class_names)
    with sweep.at_parameter(place):
        attack = make(attack_class(owner), **parameters)
    with sweep.at_parameter(place, f"{dataset.name}: "):
        attack.check_classes(dataset.num_classes)
        attack.check_channels(dataset.num_channels)
    return attack
