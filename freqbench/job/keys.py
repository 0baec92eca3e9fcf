"""Checks keys and values that a job gives to datasets, models and attacks, without their classes.

These take seconds to import: keys.json says which keys each class takes (`python tests/job_keys.py` writes it).
"""

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from freqbench.attacks.core.parameters import EVERY, variant_of, wrong_name
from freqbench.core.errors import UserError, unknown
from freqbench.job.outline import Outline
from freqbench.job.sweep import AttackEntry, parse_value

KEYS: Mapping[str, Any] = json.loads(Path(__file__).with_suffix(".json").read_bytes())
OF_CLASSES = ("organs", "target")  # whose names the dataset knows


def require_keys(job: Outline, where: str) -> None:
    """Refuse keys that a class does not take, lacking ones, and values of parameters out of their range.

    Classes of other packages are left out, as are rules that join several parameters: the classes have these.

    Raises:
        UserError: such a mistake; `where` begins the line.
    """
    for i, dataset in enumerate(job.datasets):
        if taken := KEYS["datasets"].get(dataset.class_name):
            _require_taken(dataset.own, taken, f"{where}: datasets[{i}]")
    for i, model in enumerate(job.models):
        _require_taken(model.model_extra or {}, KEYS["models"], f"{where}: models[{i}]")
    names = [dataset.name for dataset in job.datasets]
    for i, attack in enumerate(job.attacks):
        attack.only("datasets", names, f"{where}: attacks[{i}]")
        if keys := KEYS["attacks"].get(attack.class_name):
            _require_parameters(attack, f"{where}: attacks[{i}]", **keys)


def _require_taken(given: Iterable[str], taken: Collection[str], place: str) -> None:
    for key in given:
        if key not in taken:
            raise UserError(f"{place}: {unknown('key', key, taken)}")


def _require_parameters(
    attack: AttackEntry,
    place: str,
    takes: Mapping[str, str | Collection[str]],
    required: Collection[str],
    budget: str | None,
) -> None:
    known = {name: EVERY[key] if isinstance(key, str) else variant_of(key) for name, key in takes.items()}
    needed = [name for name in required if attack.match is None or name != budget]
    choices = attack.choices(place)
    if wrong := wrong_name(known, needed, choices):
        raise UserError(f"{place}.{wrong[0]}: {wrong[1]}")
    for name, values in choices.items():
        for value in map(parse_value, values if name not in OF_CLASSES else ()):
            if complaint := known[name].check(value):
                raise UserError(f"{place}.{name}: {complaint}")
