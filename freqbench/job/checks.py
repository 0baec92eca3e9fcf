"""Refuses a wrong job, as far as that can be told before attacks and networks are imported, which takes seconds.

parameters.json says which parameters each attack takes (`python tests/job_parameters.py` writes it).
"""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from freqbench.attacks.core.parameters import EVERY, variant_of, wrong_name
from freqbench.attacks.core.targets import with_indices
from freqbench.core import plugins
from freqbench.core.errors import MissingDataError, UserError, unknown
from freqbench.data import Dataset
from freqbench.job import sweep
from freqbench.job.schema import JobSpec, build_dataset
from freqbench.job.sweep import AttackEntry
from freqbench.models import ModelEntry

ATTACKS: Mapping[str, Any] = json.loads(Path(__file__).with_name("parameters.json").read_bytes())
OF_CLASSES = ("organs", "target")  # whose names the dataset knows


def require_sound(job: JobSpec, where: str) -> None:
    """Refuse wrong names, keys and values of datasets, splits that are not there, and values of attacks' parameters.

    Classes of other packages are left out, as are rules that join several parameters: the classes have these.

    Raises:
        UserError: such a mistake; `where` begins the line.
    """
    require_names(job, where)
    class_names: dict[str, Sequence[str]] = {}
    for i, entry in enumerate(job.datasets):
        if not plugins.names_class(entry.class_name):
            dataset = build_dataset(entry, f"{where}: datasets[{i}]")
            with sweep.at(f"{where}: datasets[{i}]"):
                class_names.update(_classes(dataset))
    names = [dataset.name for dataset in job.datasets]
    for i, attack in enumerate(job.attacks):
        if keys := ATTACKS.get(attack.class_name):
            place = f"{where}: attacks[{i}]"
            classes = {name: class_names[name] for name in attack.only("datasets", names, place) if name in class_names}
            _require_parameters(attack, place, classes, **keys)


def require_names(job: JobSpec, where: str) -> None:
    """Refuse two datasets, or two models of a dataset, of one name, a dataset without a model, and unknown names.

    Raises:
        UserError: such a mistake; `where` begins the line.
    """
    datasets, models = [entry.name for entry in job.datasets], [entry.name for entry in job.models]
    sweep.require_distinct("datasets", datasets, where)
    for i, model in enumerate(job.models):
        _require_known("dataset", model.datasets or (), datasets, f"{where}: models[{i}].datasets")
    for dataset in datasets:
        own = models_for(job.models, dataset)
        sweep.require_distinct("models", own, where)
        if not own:
            raise UserError(f"{where}: models: expected one for {dataset}, got none: give one without `datasets`")
        single = [model.name for model in job.models if model.name in own and not model.ensemble]
        for i, model in enumerate(job.models):
            if model.name in own:
                _require_known("model", model.ensemble or (), single, f"{where}: models[{i}]: {model.name}: ensemble")
    for i, target in enumerate(job.targets if isinstance(job.targets, list) else ()):
        _require_known("model", [target], models, f"{where}: targets[{i}]")
    for i, attack in enumerate(job.attacks):
        attack.only("datasets", datasets, f"{where}: attacks[{i}]")
        attack.only("sources", models, f"{where}: attacks[{i}]")


def models_for(given: Sequence[ModelEntry], dataset: str) -> list[str]:
    """Names of the models that a job has for a dataset."""
    return [entry.name for entry in given if dataset in (entry.datasets or [dataset])]


def require_untargeted(value: Any, place: str) -> None:
    """Refuse `targeted: true`, as a job has no other labels than the true ones."""
    if value:
        raise UserError(
            f"{place}.targeted: expected false, got true: a job knows the true labels alone, and towards them "
            "no attack hurts: use target: least-likely, next-class, {swap: {a: b}} or {erase: a}"
        )


def _require_known(kind: str, given: Sequence[str], known: Sequence[str], place: str) -> None:
    for name in given:
        if name not in known:
            raise UserError(f"{place}: {unknown(kind, name, known)}")


def _classes(dataset: Dataset) -> dict[str, Sequence[str]]:
    """The names of a dataset's classes by its name, nothing where its files are not here; its split is one it has."""
    dataset.listed_cases()
    try:
        return {dataset.name: dataset.class_names}
    except MissingDataError:
        return {}


def _require_parameters(
    attack: AttackEntry,
    place: str,
    classes: Mapping[str, Sequence[str]],
    takes: Mapping[str, str],
    variants: Collection[str],
    required: Collection[str],
    budget: str | None,
) -> None:
    known = {name: variant_of(variants) if name == "variant" else EVERY[key] for name, key in takes.items()}
    needed = [name for name in required if attack.match is None or name != budget]
    choices = attack.choices(place)
    if wrong := wrong_name(known, needed, choices):
        raise UserError(f"{place}.{wrong[0]}: {wrong[1]}")
    for name, values in choices.items():
        for value in map(sweep.parse_value, values):
            if name == "targeted":
                require_untargeted(value, place)
            for meant in _indices(name, value, classes, place) if name in OF_CLASSES else [value]:
                if complaint := known[name].check(meant):
                    raise UserError(f"{place}.{name}: {complaint}")


def _indices(name: str, value: Any, classes: Mapping[str, Sequence[str]], place: str) -> Sequence[Any]:
    """A value with the indices of the classes that it names, for each dataset."""
    found = []
    for dataset, class_names in classes.items():
        with sweep.at_parameter(place, f"{dataset}: "):
            found.append(with_indices("", {name: value}, class_names)[name])
    return found
