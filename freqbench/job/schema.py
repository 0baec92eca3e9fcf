"""Says what a job file may hold, and makes the datasets and attacks of its entries."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator

from freqbench.attacks import Attack, attack_class, make, with_indices
from freqbench.core import config, names, plugins
from freqbench.core.config import FileName, Strict
from freqbench.core.errors import UserError, unknown
from freqbench.data import DATASETS, Dataset
from freqbench.job import sweep
from freqbench.job.sweep import AttackEntry, DatasetEntry
from freqbench.metrics import METRICS
from freqbench.models import ModelEntry

DEFAULT_METRICS = ("dsc", "hd95", "ssim", "psnr", "lpips")

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
