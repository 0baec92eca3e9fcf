"""What classes that a job names take, for a job to be checked before they are imported: `python tests/job_keys.py`."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from freqbench.attacks import ATTACKS, Attack
from freqbench.attacks.core.parameters import EVERY
from freqbench.attacks.table import required_by
from freqbench.data import DATASETS
from freqbench.models import ModelEntry

DOCUMENT = Path(__file__).parents[1] / "freqbench" / "job" / "keys.json"


def of_attack(attack: type[Attack]) -> dict[str, Any]:
    """Each parameter with the name of what `EVERY` says of it, those without a default, and the budget."""
    constants = {id(parameter): name for name, parameter in EVERY.items()}
    taken = {field.name: attack.parameters.get(field.name) for field in fields(attack)}
    return {
        "takes": {name: constants[id(each)] if each else attack.variants for name, each in taken.items()},
        "required": required_by(attack),
        "budget": attack.budget_name,
    }


def found() -> dict[str, Any]:
    """The content of the document."""
    return {
        "attacks": {name: of_attack(attack) for name, attack in ATTACKS.items()},
        "datasets": {name: list(dataset.model_fields) for name, dataset in DATASETS.items()},
        "models": list(ModelEntry.model_fields),
    }


def written() -> str:
    """As JSON."""
    return json.dumps(found(), indent=1) + "\n"


if __name__ == "__main__":
    DOCUMENT.write_text(written())
