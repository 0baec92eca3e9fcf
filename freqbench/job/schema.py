"""Says what a job file may hold, and makes the datasets and attacks of its entries."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator

from freqbench.attacks import Attack, attack_class, make, with_indices
from freqbench.core import config, limits, names, plugins
from freqbench.core.errors import UserError
from freqbench.data import DATASETS, Dataset
from freqbench.job import sweep
from freqbench.job.outline import Outline
from freqbench.job.recipe import TrainingEntry, TrainJob, training_entry
from freqbench.job.sweep import DatasetEntry
from freqbench.models import ModelEntry

_Training = Annotated[
    TrainingEntry, BeforeValidator(training_entry, json_schema_input_type=str | TrainJob | TrainingEntry)
]


class JobSpec(Outline):
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

    models: Annotated[list[ModelEntry], Field(min_length=1)]  # type: ignore[assignment]  # all of them now
    training: tuple[_Training, ...] = ()  # type: ignore[assignment]

    @property
    def trains(self) -> bool:
        """Whether it has to do with training: see `freqbench.training.link`."""
        return bool(self.training) or any(entry.is_to_train for entry in self.models)

    @field_validator("models")
    @classmethod
    def _a_model_each(cls, given: list[ModelEntry]) -> list[ModelEntry]:
        limits.require(sum(entry.replicates for entry in given), limits.MODELS, "models")
        return [network for entry in given for network in entry.networks()]


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


def attack_of(name: str | type[Attack], written: Mapping[str, Any], dataset: Dataset, place: str) -> Attack:
    """An attack with the parameters that a job file writes, for a dataset.

    Args:
        name: of ATTACKS, `package.module:Class`, or the class itself.
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
    with sweep.at_parameter(place):
        owner = attack_class(names.ALIASES["attacks"].get(name, name)) if isinstance(name, str) else name
    with sweep.at_parameter(place, f"{dataset.name}: "):
        parameters = with_indices(owner.name, parameters, dataset.class_names)
    with sweep.at_parameter(place):
        attack = make(owner, **parameters)
    with sweep.at_parameter(place, f"{dataset.name}: "):
        attack.check_classes(dataset.num_classes)
        attack.check_channels(dataset.num_channels)
    return attack
