"""Finds a job's data and checkpoints that are missing here, and makes the same grid on stand-ins."""

from collections.abc import Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any

from freqbench.attacks import attack_class
from freqbench.attacks.core.ensemble import FEWEST_STEPS, Ensemble
from freqbench.core.errors import DataError, MissingDataError, StorageRefused, UserError
from freqbench.core.files import storage
from freqbench.core.names import ALIASES
from freqbench.core.plugins import trusting
from freqbench.data import listed_cases
from freqbench.data.loaders.phantom import REHEARSED
from freqbench.job.schema import JobSpec, build_dataset
from freqbench.job.sweep import AttackEntry, DatasetEntry, prefix_errors
from freqbench.models import MODELS, ModelEntry
from freqbench.models.entry import TRAIN, seed_of

SMALL = 32  # voxels per side of windows and volumes
STEPS = 2
ANY_ROI: Mapping[str, Any] = {"channels": [4, 8], "strides": [1], "num_res_units": 0}
"""Arguments of a UNet that takes a window of any sides."""
SMALL_ARGS: Mapping[str, Mapping[str, Any]] = {  # arguments that make each small; they fit windows of SMALL voxels
    "unet": {"channels": [4, 8, 16], "strides": [2, 2], "num_res_units": 0},
    "unetr": {"feature_size": 4, "hidden_size": 24, "mlp_dim": 48, "num_heads": 2},
    # Instance norm refuses the single voxel that such a window shrinks to.
    "swin_unetr": {"feature_size": 12, "depths": [1, 1, 1, 1], "norm_name": "batch"},
    "segresnet": {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]},
    "unetr_pp": {"feature_size": 4, "dims": [8, 16, 32, 64], "depths": [1, 1, 1, 1], "stem": [2, 2, 2]},
    "rog": {"strides": [[1, 1, 1], [1, 1, 1], [2, 2, 2]], "channels": 4},
    "slices": {"channels": [4, 8, 16], "strides": [2, 2], "num_res_units": 0},
}
EFFORT = ("steps", "queries", "num_spectra", "learn_cases")


@dataclass(frozen=True, kw_only=True)
class Missing:
    """One thing that a job needs and this machine does not have."""

    what: str  # a dataset or model, by its name in the job, and the dataset it is for
    complaint: str  # the expected file and its place
    source: str  # the place to get it from; empty if unknown
    word: str = "missing"  # word that `plan` prints before it

    def __str__(self) -> str:
        return f"{self.what}: {self.complaint}{f' (get it from {self.source})' if self.source else ''}"


def missing(job: JobSpec) -> tuple[Missing, ...]:
    """Lists what a job needs and this machine lacks, trained networks aside; raises UserError for a wrong job."""
    with trusting(job.trust_code):
        return tuple(_lacking(job))


def add_stand_ins(job: JobSpec, lacking: tuple[Missing, ...]) -> JobSpec:
    """Returns the job with stand-ins for missing things, `lacking`: all counts except the shapes of volumes stay
    exact."""
    names = {thing.what for thing in lacking}
    regions = _region_datasets(job)
    with trusting(job.trust_code):
        datasets = [_stand_in(entry) if f"dataset {entry.name}" in names else entry for entry in job.datasets]
    hidden = {"predictions": None} if lacking else {}  # of cases, or by networks, that are not here
    models = [entry.model_copy(update=hidden) for entry in job.models]
    for number, entry in enumerate(models):
        if name_of(entry) in names:
            models[number] = _untrained_entry(entry, number, entry.args if _own(entry) in MODELS else ANY_ROI, regions)
    untrained = any(entry.is_to_train and name_of(entry) in names for entry in job.models)
    training = () if untrained else job.training  # or the grid would say that they train nothing
    return job.model_copy(update={"datasets": datasets, "models": models, "training": training})


def shrink_job(job: JobSpec) -> JobSpec:
    """Returns the same grid on one small phantom per dataset and small untrained networks, with little effort. LPIPS is
    left out, as its weights may have to be fetched."""
    tiny = {"roi": (SMALL, SMALL, SMALL), "input": None, "preprocess": None, "inference": None}
    regions = _region_datasets(job)
    models = [
        each if each.ensemble else _untrained_entry(each, i, SMALL_ARGS[_arch(each)], regions).model_copy(update=tiny)
        for i, each in enumerate(job.models)
    ]
    with trusting(job.trust_code):
        datasets = [_stand_in(entry, shape=[SMALL] * 3, cases=1) for entry in job.datasets]
        changes: dict[str, Any] = {"name": f"{job.name}-dry", "datasets": datasets}
        changes["attacks"] = [*map(_easy, job.attacks)]
    metrics = tuple(metric for metric in job.metrics if metric != "lpips") or ("dsc",)
    changes |= {"models": models, "metrics": metrics, "resources": job.resources.model_copy(update={"threads": 1})}
    return job.model_copy(update=changes)


def _lacking(job: JobSpec) -> Iterator[Missing]:
    for i, entry in enumerate(job.datasets):
        place = f"{job.where}: datasets[{i}]"
        dataset = build_dataset(entry, place)
        with prefix_errors(place):
            try:
                dataset.refs()
            except MissingDataError as error:
                complaint = str(error).removeprefix(f"{dataset.name}: ")
                yield Missing(what=f"dataset {entry.name}", complaint=complaint, source=dataset.homepage)
    for model in job.models:
        path = model.path
        if path is None or model.command or path.startswith(("zoo://", TRAIN)) or seed_of(path) is not None:
            continue
        try:
            exists = storage.exists(storage.filled_in(path, model.name))
            complaint = f"expected a checkpoint at {path}, found none"
        except StorageRefused:
            raise
        except UserError as error:
            exists = False
            complaint = str(error).removeprefix(f"{model.name}: ")
        if not exists:
            yield Missing(what=name_of(model), complaint=complaint, source=model.source or "")


def name_of(entry: ModelEntry) -> str:
    """Returns the name of a missing model in messages."""
    return f"model {entry.name}{f' of {entry.datasets[0]}' if entry.datasets else ''}"


def _region_datasets(job: JobSpec) -> set[str]:
    """Returns the names of the datasets whose classes are regions, as far as that is known without their files."""
    named = set()
    for entry in job.datasets:
        with trusting(job.trust_code), suppress(DataError):
            named |= {entry.name} if build_dataset(entry, "datasets").classes.overlap else set()
    return named


def _stand_in(entry: DatasetEntry, **changes: Any) -> DatasetEntry:
    """Returns a phantom with a dataset's name, classes, channels and number of cases (1 if unknown)."""
    dataset = build_dataset(entry, "datasets")
    facts: dict[str, Any] = {"shape": list(dataset.typical_shape)}
    with suppress(DataError):
        facts["classes"] = list(dataset.class_names)
    with suppress(DataError):
        facts["regions"] = dataset.classes.overlap
    with suppress(DataError):
        facts["channels"] = dataset.num_channels
    facts |= {"split": REHEARSED, "reference": dataset.reference}
    asked = dataset.cases
    facts["cases"] = len(asked) if isinstance(asked, tuple) else asked or listed_cases(dataset) or 1
    return DatasetEntry(name=entry.name, loader="stand_in", **{**facts, **changes})


def _untrained_entry(entry: ModelEntry, number: int, args: Mapping[str, Any], regions: Set[str]) -> ModelEntry:
    """Returns a model with untrained weights, a UNet for a stranger; `regions` name datasets of sigmoid outputs."""
    names = ("name", "roi", "datasets", "input", "preprocess", "inference", "defence", "adaptive")
    fields = {key: getattr(entry, key) for key in names}
    outputs = entry.outputs or ("sigmoid" if regions and regions >= set(entry.datasets or regions) else None)
    return ModelEntry(**fields, arch=_arch(entry), args=dict(args), checkpoint=f"random:{number}", outputs=outputs)


def _arch(entry: ModelEntry) -> str:
    return _own(entry) if _own(entry) in MODELS else "unet"


def _own(entry: ModelEntry) -> str:
    return ALIASES["models"].get(str(entry.arch), str(entry.arch))


def _easy(entry: AttackEntry) -> AttackEntry:
    """Returns an attack with few steps, and as many different numbers of steps as before."""
    attack = attack_class(entry.class_name)
    parameters = entry.own
    least = FEWEST_STEPS if issubclass(attack, Ensemble) or "eps_schedule" in parameters else 1
    easy = {}
    for name in {field.name for field in fields(attack)} & set(EFFORT):
        values = parameters.get(name, STEPS)
        easy[name] = [least + rank for rank in range(len(values))] if isinstance(values, list) else max(STEPS, least)
    return entry.model_copy(update=easy)
