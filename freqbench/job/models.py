"""Resolves the models of a job for one dataset, refuses two identical ones, and finds surrogates."""

from collections.abc import Mapping, Sequence

from freqbench.attacks import Attack, SurrogateAttack
from freqbench.core.errors import UserError, unknown
from freqbench.data import Dataset
from freqbench.job import sweep
from freqbench.job.schema import models_for
from freqbench.models import ModelEntry, ModelSpec, resolve, resolve_ensemble
from freqbench.models.checkpoints.record import Origin, origin_of


def origins_of(given: Sequence[ModelEntry], dataset: Dataset, where: str) -> dict[str, Origin]:
    """Returns the origins of the weights of a dataset's models, before the first network is made.

    Raises:
        UserError: as `origin_of`.
    """
    origins = {}
    for i, entry in _members_first(given, dataset):
        if not entry.ensemble:
            with sweep.at(f"{where}: models[{i}]"):
                origins[entry.name] = origin_of(entry, dataset.class_names)
    return origins


def models_of(
    given: Sequence[ModelEntry], origins: Mapping[str, Origin], dataset: Dataset, where: str
) -> dict[str, ModelSpec]:
    """Resolves a job's models for one dataset, in the job's order; an ensemble may precede its members.

    Raises:
        UserError: as `resolve`, or the same network twice.
    """
    models: dict[str, ModelSpec] = {}
    for i, entry in _members_first(given, dataset):
        with sweep.at(f"{where}: models[{i}]"):
            if entry.ensemble:
                model = resolve_ensemble(entry, [models[name] for name in entry.ensemble])
            else:
                of_dataset = dataset.num_classes, dataset.num_channels, dataset.space
                model = resolve(entry, *of_dataset, origin=origins[entry.name])
            for other in models.values():
                if other.model_id == model.model_id:  # their records would replace each other
                    raise UserError(
                        f"{entry.name}: the same network with the same weights as {other.name}: give it once"
                    )
            models[entry.name] = model
    return {name: models[name] for name in models_for(given, dataset.name)}


def surrogates_of(attack: Attack, source: ModelSpec, models: Mapping[str, ModelSpec]) -> tuple[ModelSpec, ...]:
    """Returns the models whose gradients an attack on a source follows; empty if it needs no surrogates.

    The source and ensembles that contain it are left out.

    Raises:
        UserError: an unknown name, no model other than the source, or one with other classes, channels, window or
            space.
    """
    if not isinstance(attack, SurrogateAttack):
        return ()
    place = f"{attack.name}.surrogates"
    for name in attack.surrogates:
        if name not in models:
            raise UserError(f"{place}: {unknown('model', name, models)}")
    named = [models[name] for name in attack.surrogates]
    surrogates = [model for model in named if source.model_id not in {net.model_id for net in (model, *model.members)}]
    if not surrogates:
        got = ", ".join(attack.surrogates) or "none"
        raise UserError(
            f"{place}: expected other models of the job than {source.name}, which is attacked, got {got}: name some, "
            "or say in sources which models to attack"
        )
    for model in surrogates:
        for what in ("num_classes", "num_channels", "roi", "space"):
            ours, theirs = getattr(source, what), getattr(model, what)
            if ours != theirs:
                raise UserError(
                    f"{place}: expected models of the same {what} as {source.name}, {ours}, got {theirs} of "
                    f"{model.name}: state one for both, or leave it out"
                )
    return tuple(surrogates)


def _members_first(entries: Sequence[ModelEntry], dataset: Dataset) -> list[tuple[int, ModelEntry]]:
    """Returns the models for a dataset, each with its number in the job, ensembles last."""
    asked = [(i, entry) for i, entry in enumerate(entries) if dataset.name in (entry.datasets or [dataset.name])]
    return sorted(asked, key=lambda numbered: numbered[1].ensemble is not None)
