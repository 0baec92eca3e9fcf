"""Refuses a wrong job as early as possible, before importing attacks and networks, which takes seconds."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from freqbench.attacks.core.declared import declared
from freqbench.attacks.core.parameters import TOGETHER, Parameter, variant_of, wrong_name
from freqbench.attacks.core.targets import with_indices
from freqbench.core import plugins
from freqbench.core.errors import MissingDataError, UserError, unknown
from freqbench.data import Dataset
from freqbench.job import sweep
from freqbench.job.schema import JobSpec, build_dataset
from freqbench.job.sweep import AttackEntry
from freqbench.models import ModelEntry

OF_CLASSES = ("organs", "target")  # parameters with class names, which the dataset knows


def require_sound(job: JobSpec, where: str) -> None:
    """Refuses wrong names, keys and values of datasets, splits that do not exist, and wrong parameters of attacks.

    Skips classes of other packages, and rules that need an attack's defaults, which only the classes know.

    Raises:
        UserError: such a mistake; `where` begins the line.
    """
    require_names(job, where)
    classes: dict[str, Sequence[str] | None] = {}
    for i, entry in enumerate(job.datasets):
        place = f"{where}: datasets[{i}]"
        dataset = None if plugins.names_class(entry.class_name) else build_dataset(entry, place)
        with sweep.at(place):
            classes[entry.name] = _classes(dataset) if dataset else None
    for i, attack in enumerate(job.attacks):
        if outline := declared(attack.class_name):
            place = f"{where}: attacks[{i}]"
            class_names = {name: classes[name] for name in attack.only("datasets", list(classes), place)}
            _require_parameters(attack, outline, place, class_names)


def require_names(job: JobSpec, where: str) -> None:
    """Refuses two datasets, or two models of a dataset, with one name, a dataset without a model, and unknown names.

    Raises:
        UserError: such a mistake; `where` begins the line.
    """
    datasets, models = [entry.name for entry in job.datasets], [entry.name for entry in job.models]
    sweep.require_distinct("datasets", datasets, where)
    for i, model in enumerate(job.models):
        _require_known("dataset", model.datasets or (), datasets, f"{where}: models[{i}].datasets")
    for dataset in datasets:
        available = models_for(job.models, dataset)
        sweep.require_distinct("models", available, where)
        if not available:
            raise UserError(f"{where}: models: expected one for {dataset}, got none: give one without `datasets`")
        single = [model.name for model in job.models if model.name in available and not model.ensemble]
        for i, model in enumerate(job.models):
            if model.name in available:
                _require_known("model", model.ensemble or (), single, f"{where}: models[{i}]: {model.name}: ensemble")
    for i, target in enumerate(job.targets if isinstance(job.targets, list) else ()):
        _require_known("model", [target], models, f"{where}: targets[{i}]")
    for i, attack in enumerate(job.attacks):
        attack.only("datasets", datasets, f"{where}: attacks[{i}]")
        attack.only("sources", models, f"{where}: attacks[{i}]")
        if hasattr(declared(attack.class_name), "surrogates"):
            place = f"{where}: attacks[{i}]"
            for names in attack.choices(place).get("surrogates", ()):
                _require_known("model", names if isinstance(names, list) else (), models, f"{place}.surrogates")


def models_for(given: Sequence[ModelEntry], dataset: str) -> list[str]:
    """Returns the names of the models that a job has for a dataset."""
    return [entry.name for entry in given if dataset in (entry.datasets or [dataset])]


def require_untargeted(value: Any, place: str) -> None:
    """Refuses `targeted: true`, as a job has no labels but the true ones."""
    if value:
        raise UserError(
            f"{place}.targeted: expected false, got true: a job knows the true labels alone, and towards them "
            "no attack hurts: use target: least-likely, next-class, {swap: {a: b}} or {erase: a}"
        )


def _require_known(kind: str, wanted: Sequence[str], known: Sequence[str], place: str) -> None:
    for name in wanted:
        if name not in known:
            raise UserError(f"{place}: {unknown(kind, str(name), known)}")


def _classes(dataset: Dataset) -> Sequence[str] | None:
    """Returns a dataset's class names, None if its files are missing; raises DataError for an unknown split."""
    dataset.listed_cases()
    try:
        return dataset.class_names
    except MissingDataError:
        return None


def _require_parameters(
    attack: AttackEntry, outline: Any, place: str, classes: Mapping[str, Sequence[str] | None]
) -> None:
    parameters = {**outline.parameters, "variant": variant_of(outline.variants)}
    choices = attack.choices(place)
    if wrong := wrong_name(outline, choices, None if attack.match is None else outline.budget_name):
        raise UserError(f"{place}.{wrong[0]}: {wrong[1]}")
    for value in choices.get("targeted", ()):
        require_untargeted(value, place)
    for dataset, class_names in classes.items():
        checkable = {
            name: values for name, values in choices.items() if class_names is not None or name not in OF_CLASSES
        }
        spelled = {}
        for name, values in checkable.items():
            with sweep.at_parameter(place, f"{dataset}: "):
                parsed = [{name: sweep.parse_value(value)} for value in values]
                meant = [with_indices("", parsed_value, class_names or ())[name] for parsed_value in parsed]
            spelled[name] = [_spelled(parameters.get(name), value, f"{place}.{name}") for value in meant]
        for parameter, (names, check) in TOGETHER.items():
            joined = product(*(spelled[name] for name in names)) if spelled.keys() >= set(names) else ()
            for together in joined:
                if complaint := check(*together):
                    raise UserError(f"{place}.{parameter}: {complaint}")


def _spelled(parameter: Parameter | None, value: Any, place: str) -> Any:
    if parameter and (complaint := parameter.check(value)):
        raise UserError(f"{place}: {complaint}")
    return parameter.spelled(value) if parameter and value is not None else value
