"""Says what a job file may hold, and makes the datasets of its entries; attacks and networks are not imported."""

from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PositiveFloat, field_validator

from freqbench.core import config, limits, names, plugins
from freqbench.core.config import FileName, Seed, Strict, Threads, Whole
from freqbench.core.errors import UserError
from freqbench.data import DATASETS, Dataset
from freqbench.job import sweep
from freqbench.job.recipe import TrainingEntry, TrainJob, training_entry
from freqbench.job.sweep import AttackEntry, DatasetEntry
from freqbench.models import ModelEntry

DEFAULT_METRICS = ("dsc", "hd95", "ssim", "psnr", "lpips")

Auto = Literal["auto"] | Annotated[Whole, Field(gt=0)]
Metric = Annotated[str, AfterValidator(partial(names.known, "metrics", "metric"))]
_Training = Annotated[
    TrainingEntry, BeforeValidator(training_entry, json_schema_input_type=str | TrainJob | TrainingEntry)
]


class Resources(Strict):
    """What a worker may take; recorded with every row, in no identity.

    Attributes:
        workers: processes; `auto`: one a GPU share, or one for two cores and at least two; the serial engine has one.
        threads: CPU threads a worker; `auto`: cores / workers.
        gpus_per_worker: GPUs or a share of one, where there are any; 0: none.
    """

    workers: Auto = "auto"
    threads: Literal["auto"] | Threads = "auto"
    gpus_per_worker: Annotated[float, Field(ge=0)] = 1.0


def _known(entry: AttackEntry) -> AttackEntry:
    names.known("attacks", "attack", entry.name)
    return entry


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
    attacks: Annotated[list[Annotated[AttackEntry, AfterValidator(_known)]], Field(min_length=1)]
    training: tuple[_Training, ...] = ()
    targets: Literal["all", "source"] | Annotated[list[str], Field(min_length=1)] = "all"
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    metrics: Annotated[tuple[Metric, ...], Field(min_length=1)] = DEFAULT_METRICS
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
        limits.require(sum(entry.replicates for entry in given), limits.MODELS, "models")
        return [network for entry in given for network in entry.networks()]

    @field_validator("attacks")
    @classmethod
    def _can_be_made(cls, given: list[AttackEntry]) -> list[AttackEntry]:
        limits.require(sum(entry.count() for entry in given), limits.CELLS, "attacks")
        return given

    @field_validator("seeds", "metrics")
    @classmethod
    def _each_once(cls, given: tuple[Any, ...]) -> tuple[Any, ...]:
        for value, count in Counter(given).items():
            if count > 1:
                raise UserError(f"expected each once, got {value!r} {count} times: leave one")
        return given


def stored_job(content: Any, trusted: bool, where: str) -> JobSpec:
    """The job that a store holds, with `trusted` for its `trust_code`: who writes to a store must not run code here."""
    stored = {**content, "trust_code": trusted} if isinstance(content, dict) else content
    return config.validate(stored, JobSpec, where)


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
    return config.validate(content, DATASETS[loader], where)
