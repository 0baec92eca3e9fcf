"""What attacks take, for a job to be checked before they are imported: `python tests/job_parameters.py` writes it."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from freqbench.attacks import ATTACKS, Attack
from freqbench.attacks.core.parameters import EVERY
from freqbench.attacks.table import required_by

DOCUMENT = Path(__file__).parents[1] / "freqbench" / "job" / "parameters.json"


def of_attack(attack: type[Attack]) -> dict[str, Any]:
    """Each parameter with the name of what `EVERY` says of it, variants, what has no default, and the budget."""
    constants = {id(parameter): name for name, parameter in EVERY.items()}
    taken = {field.name: attack.parameters.get(field.name) for field in fields(attack)}
    return {
        "takes": {name: constants[id(each)] if each else name for name, each in taken.items()},
        "variants": attack.variants,
        "required": required_by(attack),
        "budget": attack.budget_name,
    }


def written() -> str:
    """As JSON, an attack a line."""
    lines = (f' "{name}": {json.dumps(of_attack(attack))}' for name, attack in ATTACKS.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    DOCUMENT.write_text(written())
