"""Refuses a wrong job as early as possible, before importing attacks and networks, which takes seconds."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from freqbench.attacks.core.declared import declared
from freqbench.attacks.core.parameters import TOGETHER, require_names, require_together, spelled
from freqbench.attacks.core.targets import with_indices
from freqbench.core import plugins
from freqbench.core.errors import MissingDataError, UserError
from freqbench.data import Dataset
from freqbench.job import sweep
from freqbench.job.schema import JobSpec, build_dataset
from freqbench.job.sweep import AttackEntry

OF_CLASSES = ("organs", "target")  # parameters with class names, which the dataset knows


def require_sound(job: JobSpec, where: str) -> None:
    """Refuses wrong keys and values of datasets, splits that do not exist, and wrong parameters of attacks.

    Skips classes of other packages, and rules that need an attack's defaults, which only the classes know.

    Raises:
        UserError: such a mistake; `where` begins the line.
    """
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


def require_untargeted(value: Any, place: str) -> None:
    """Refuses `targeted: true`, as a job has no labels but the true ones."""
    if value:
        raise UserError(
            f"{place}.targeted: expected false, got true: a job knows the true labels alone, and towards them "
            "no attack hurts: use target: least-likely, next-class, {swap: {a: b}} or {erase: a}"
        )


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
    choices = attack.choices(place)
    with sweep.at_parameter(place):
        require_names(outline, choices, None if attack.match is None else outline.budget_name)
    for value in choices.get("targeted", ()):
        require_untargeted(value, place)
    for dataset, class_names in classes.items():
        settings: dict[str, list[Any]] = {}
        for name, values in choices.items():
            if class_names is None and name in OF_CLASSES:
                continue
            with sweep.at_parameter(place, f"{dataset}: "):
                meant = [with_indices("", {name: sweep.parse_value(value)}, class_names or ()) for value in values]
            with sweep.at_parameter(place):
                settings[name] = [spelled(outline, name, value[name]) for value in meant]
        for names, _ in TOGETHER.values():
            for together in product(*(settings.get(name, ()) for name in names)):
                with sweep.at_parameter(place):
                    require_together(outline.name, dict(zip(names, together, strict=True)))
