"""Defines the content of a job file and refuses a wrong one; imports no attacks and no networks."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, field_validator, model_validator

from freqbench.attacks.core.declared import declared
from freqbench.core import config, limits, names, plugins
from freqbench.core.config import FileName, Seed, Strict, Threads, Whole
from freqbench.core.errors import MissingDataError, UserError, unknown
from freqbench.core.types import ScoredOn
from freqbench.data import DATASETS, Dataset, listed_cases
from freqbench.job import sweep
from freqbench.job.sweep import AttackEntry, DatasetEntry, require_known
from freqbench.job.training import TrainingEntry, TrainJob, training_entry
from freqbench.models import ModelEntry
from freqbench.ops.classes import Classes

DEFAULT_METRICS = ("dsc", "hd95", "ssim", "psnr", "lpips")
Auto = Literal["auto"] | Annotated[Whole, Field(gt=0)]


def _metric(text: str) -> str:
    """Returns a metric's name; of one of an installed package the text by which rows name it."""
    if text in names.KNOWN["metrics"]:
        return text
    added_here = plugins.installed_names("metrics")
    if "@" not in text and text not in added_here:
        known = [*names.KNOWN["metrics"], *added_here]
        raise UserError(f"{unknown('metric', text, known)}; if a package adds it, install that")
    from freqbench.metrics import added  # imports torch, and so does the package
    from freqbench.results import require_free

    made = added.resolved(text)
    require_free(added.name_of(text))
    return made


Metric = Annotated[str, AfterValidator(_metric)]
_Link = Annotated[TrainingEntry, BeforeValidator(training_entry, json_schema_input_type=str | TrainJob | TrainingEntry)]


class Resources(Strict):
    """Resources of a worker; recorded with every row, in no identity.

    Attributes:
        workers: processes; `auto`: one per GPU share, or one per two cores and at least two; the serial engine has one.
        threads: CPU threads per worker; `auto`: cores / workers.
        gpus_per_worker: GPUs or a share of one, if there are any; 0: none.
    """

    workers: Auto = "auto"
    threads: Literal["auto"] | Threads = "auto"
    gpus_per_worker: Annotated[float, Field(ge=0)] = 1.0


def _require_known(entry: AttackEntry) -> AttackEntry:
    names.require_known("attacks", "attack", entry.name)
    return entry


class JobSpec(Strict):
    """A job file.

    Attributes:
        name: name of the job; results go to `runs/<name>` by default.
        datasets: see DatasetEntry; further keys are the loader's own.
        models: sources and targets; `datasets` of an entry names those that it is for. An entry with `replicates`
            becomes that many models.
        attacks: see AttackEntry; further keys are the attack's parameters. A list of values multiplies into cells; a
            value that is a list itself needs an outer list. Names of classes in `organs` and `target` are those of each
            dataset.
        training: jobs that train the networks of `train://NAME` checkpoints (`train://JOB/NAME` if two jobs train one
            of that name): paths of training jobs, their content, or `{job: either, out: folder of its networks}`, by
            default `runs/<name>`; `freqbench.training.link` reads them.
        targets: models that score a volume: `all`, the `source` that made it, or names.
        seeds: one cell each, for attacks that draw.
        metrics: names of METRICS, or of metrics that installed packages add.
        score_on: the grid on which predictions are held against labels: `grid`, the one that is attacked, as in the
            papers; `file`, that of each file, as nnU-Net and challenges do: logits are interpolated there, voxels
            outside the crop are background, and the label map is the file's own. Distances between volumes stay on the
            attacked grid. Part of the identity where it is not `grid`. None: `file` where the pipelines of all targets
            lead back there (nnU-Net's, MONAI's), else `grid`, so that stored rows keep theirs; `init` writes `file`.
        precision: arithmetic of the networks; part of the identity.
        compile: run networks through `torch.compile`; part of the identity.
        resources: see Resources.
        window_batch: windows attacked at once; `auto`: 1 on a CPU, as many as the memory holds on a GPU. It is part of
            the identity of attacks that couple the windows of a batch; `auto` is 4 for them on any machine.
        case_timeout: seconds after which a unit's worker is killed and the unit tried again; None: no limit. The serial
            engine cannot stop a unit, and tells of one that makes no pass for a minute.
        save_adversarial: `nifti` writes volumes and predictions under `OUT/volumes/`; rows that lack their volume are
            computed anew with it.
        save_only: names of the attacks whose volumes `save_adversarial` saves; default: all.
        trust_code: allow code of other packages and commands to run, as `--trust-code` does. Never read from a store.
    """

    name: Annotated[FileName, Field(pattern=r"^[\w.-]+$")]
    datasets: Annotated[list[DatasetEntry], Field(min_length=1)]
    models: Annotated[list[ModelEntry], Field(min_length=1)]
    attacks: Annotated[list[Annotated[AttackEntry, AfterValidator(_require_known)]], Field(min_length=1)]
    training: tuple[_Link, ...] = ()
    targets: Literal["all", "source"] | Annotated[list[str], Field(min_length=1)] = "all"
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    metrics: Annotated[tuple[Metric, ...], Field(min_length=1)] = DEFAULT_METRICS
    score_on: ScoredOn | None = None
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    compile: bool = False
    resources: Resources = Resources()
    window_batch: Auto = "auto"
    case_timeout: Annotated[float, Field(gt=0)] | None = None
    save_adversarial: Literal["none", "nifti"] = "none"
    save_only: tuple[Annotated[str, AfterValidator(partial(names.meant_name, "attacks"))], ...] = ()
    trust_code: bool = False
    _where: str = PrivateAttr(default="job")

    def model_post_init(self, context: Mapping[str, Any] | None) -> None:
        """Remembers the file that the job is read from, as `config.validate` names it."""
        self._where = (context or {}).get("where", self._where)

    @property
    def where(self) -> str:
        """File that the job was read from, which begins the line of an error; `job` if it was made in Python."""
        return self._where

    def copy_named(self, where: str) -> "JobSpec":
        """Returns the same job, whose errors begin with `where`."""
        job = self.model_copy()
        job._where = where
        return job

    @property
    def trains(self) -> bool:
        """True if the job trains networks or uses trained ones: see `freqbench.training.link`."""
        return bool(self.training) or any(entry.is_to_train for entry in self.models)

    @field_validator("models")
    @classmethod
    def _a_model_each(cls, given: list[ModelEntry]) -> list[ModelEntry]:
        limits.require(sum(entry.replicates for entry in given), limits.MODELS, "models")
        networks: list[ModelEntry] = []
        for entry in given:
            networks += entry.networks()
        return networks

    @field_validator("attacks")
    @classmethod
    def _can_be_made(cls, given: list[AttackEntry]) -> list[AttackEntry]:
        limits.require(sum(entry.count() for entry in given), limits.CELLS, "attacks")
        return given

    @model_validator(mode="after")
    def _has_known_names(self) -> "JobSpec":
        return require_names(self)

    @field_validator("seeds", "metrics")
    @classmethod
    def _each_once(cls, given: tuple[Any, ...]) -> tuple[Any, ...]:
        for value, count in Counter(given).items():
            if count > 1:
                raise UserError(f"expected each once, got {value!r} {count} times: leave one")
        return given


def load_any(path: str, overrides: Sequence[str] = ()) -> JobSpec | TrainJob:
    """Reads a job file of either kind, at `path` and with `overrides`, as `config.load` does: a training job has
    splits, and no attacks."""
    content = config.read(path, overrides)
    if "splits" in content and "attacks" not in content:
        return config.validate(content, TrainJob, where=path)
    return config.validate(content, JobSpec, where=path)


def load(path: str, overrides: Sequence[str] = ()) -> JobSpec:
    """Reads a job with attacks, at `path` and with `overrides`, as `load_any` does; refuses a training job
    (`require_attacks`)."""
    return require_attacks(load_any(path, overrides), path)


def require_attacks(job: JobSpec | TrainJob, path: str) -> JobSpec:
    """Returns a job with attacks; refuses a training job, from `path`, with the command that takes it."""
    if isinstance(job, TrainJob):
        raise UserError(f"{path}: expected a job with attacks, got a training job: freqbench run {path} trains it")
    return job


def require_sound(job: JobSpec) -> None:
    """Refuses wrong keys, values, splits, parameters and class maps, and commands without trust. It imports no attacks
    and no networks, and so skips classes of other packages, and rules that need an attack's defaults."""
    where = job.where
    classes: dict[str, Classes | None] = {}
    for i, entry in enumerate(job.datasets):
        place = f"{where}: datasets[{i}]"
        dataset = build_dataset(entry, place) if entry.class_name in DATASETS else None
        classes[entry.name] = None
        if dataset:
            with sweep.prefix_errors(place), suppress(MissingDataError):  # then they are not known
                listed_cases(dataset)  # refuses an unknown split
                classes[entry.name] = dataset.classes
    for i, model in enumerate(job.models):
        with sweep.prefix_errors(f"{where}: models[{i}]"):
            for name in model.datasets or classes:
                if known := classes[name]:
                    model.merged_classes(len(known), model.classes, known.head)
            if model.command and not job.trust_code:
                plugins.require_trust(str(model.path))
    named = {name: known.names if known else None for name, known in classes.items()}
    for i, attack in enumerate(job.attacks):
        place = f"{where}: attacks[{i}]"
        attack.check(place, {name: named[name] for name in attack.only("datasets", list(classes), place)})


def require_names(job: JobSpec) -> JobSpec:
    """Refuses two datasets, or two models of a dataset, with one name, a dataset without a model, and unknown names."""
    datasets = [entry.name for entry in job.datasets]
    entries = job.models
    models = [entry.name for entry in entries]
    sweep.require_distinct("datasets", datasets)
    for i, model in enumerate(entries):
        require_known("dataset", model.datasets or (), datasets, f"models[{i}].datasets")
    for dataset in datasets:
        available = sweep.models_for(entries, dataset)
        sweep.require_distinct("models", available)
        if not available:
            raise UserError(f"models: expected one for {dataset}, got none: give one without `datasets`")
        single = [model.name for model in entries if model.name in available and not model.ensemble]
        for i, (name, model) in enumerate(zip(models, entries, strict=True)):
            if name in available:
                require_known("model", model.ensemble or (), single, f"models[{i}]: {name}: ensemble")
    for i, target in enumerate(job.targets if isinstance(job.targets, list) else ()):
        require_known("model", [target], models, f"targets[{i}]")
    if job.save_adversarial != "none":
        require_known("attack", job.save_only, [attack.class_name for attack in job.attacks], "save_only")
    for i, attack in enumerate(job.attacks):
        place = f"attacks[{i}]"
        attack.only("datasets", datasets, place)
        attack.only("sources", models, place)
        if hasattr(declared(attack.class_name), "surrogates"):
            for names in attack.choices(place).get("surrogates", ()):
                require_known("model", names if isinstance(names, list) else (), models, f"{place}.surrogates")
    return job


def stored_job(content: Any, trusted: bool, where: str, overrides: Sequence[str] = ()) -> JobSpec:
    """Reads the job in a store, its JSON `content` after `overrides`, with `trusted` as its `trust_code`: a store's
    writer must not run code here. A UserError's line begins with `where`."""
    stored = {**content, "trust_code": trusted} if isinstance(content, dict) else content
    if isinstance(stored, dict):
        config.override(stored, overrides)
    return config.validate(stored, JobSpec, where)


def build_dataset(entry: DatasetEntry | Mapping[str, Any], where: str) -> Dataset:
    """Builds the dataset of an entry; `where` begins the line of a UserError for a wrong loader or key."""
    entry = config.validate(entry, DatasetEntry, where)
    cls: type[Dataset] | None = DATASETS.get(entry.class_name)
    if cls is None:
        with sweep.prefix_errors(f"{where}.loader"):
            cls = plugins.load_class(entry.class_name, Dataset)
    return config.validate({"name": entry.name, **entry.own}, cls, where)
