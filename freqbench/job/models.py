"""Resolves the models of a job for one dataset, and refuses two that cannot be told apart."""

from collections.abc import Sequence

from freqbench.core.errors import UserError, unknown
from freqbench.data import Dataset
from freqbench.job import sweep
from freqbench.models import ModelEntry, ModelSpec, resolve, resolve_ensemble
from freqbench.models.resolve import examined


def models_for(given: Sequence[ModelEntry], dataset: str) -> list[str]:
    """Names of the models that a job has for a dataset."""
    return [entry.name for entry in given if dataset in (entry.datasets or [dataset])]


def require_models(given: Sequence[ModelEntry], datasets: Sequence[str], where: str) -> None:
    """Every dataset has models, each of its own name.

    Raises:
        UserError: one has none, two have one name, or a model is for a dataset that the job does not have.
    """
    for i, entry in enumerate(given):
        for name in entry.datasets or ():
            if name not in datasets:
                raise UserError(f"{where}: models[{i}].datasets: {unknown('dataset', name, datasets)}")
    for dataset in datasets:
        sweep.require_distinct("models", models_for(given, dataset), where)
        if not models_for(given, dataset):
            raise UserError(f"{where}: models: expected one for {dataset}, got none: give one without `datasets`")


def require_checkpoints(given: Sequence[ModelEntry], dataset: Dataset, where: str) -> None:
    """Every model for a dataset can be looked for: names and files, before the first network is made.

    Raises:
        UserError: as `examined`, or an ensemble of a model that is not there.
    """
    known: list[str] = []
    for i, entry in _members_first(given, dataset):
        with sweep.at(f"{where}: models[{i}]"):
            for name in entry.ensemble or ():
                if name not in known:
                    raise UserError(f"{entry.name}: ensemble: {unknown('model', name, known)}")
            if not entry.ensemble:
                examined(entry, dataset.class_names)
        known.append(entry.name)


def models_of(given: Sequence[ModelEntry], dataset: Dataset, where: str) -> dict[str, ModelSpec]:
    """Of all models of a job those for one dataset, in the job's order; an ensemble may stand before its members.

    Raises:
        UserError: as `resolve`, or the same network twice; `require_checkpoints` was asked before.
    """
    models: dict[str, ModelSpec] = {}
    for i, entry in _members_first(given, dataset):
        with sweep.at(f"{where}: models[{i}]"):
            if entry.ensemble:
                model = resolve_ensemble(entry, [models[name] for name in entry.ensemble])
            else:
                model = resolve(entry, dataset.num_classes, dataset.num_channels, dataset.space, dataset.class_names)
            for other in models.values():
                if other.model_id == model.model_id:  # their records would replace each other
                    raise UserError(
                        f"{entry.name}: the same network with the same weights as {other.name}: give it once"
                    )
            models[entry.name] = model
    return {name: models[name] for name in models_for(given, dataset.name)}


def _members_first(given: Sequence[ModelEntry], dataset: Dataset) -> list[tuple[int, ModelEntry]]:
    """The models for a dataset, each with its number in the job, ensembles last."""
    asked = [(i, entry) for i, entry in enumerate(given) if dataset.name in (entry.datasets or [dataset.name])]
    return sorted(asked, key=lambda each: each[1].ensemble is not None)
