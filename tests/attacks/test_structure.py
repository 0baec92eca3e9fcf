"""Classes of the attacks stay small, and an attack that is made stays as it is."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
from attacks.examples import every_attack, example

import freqbench.attacks
from freqbench.attacks import ATTACKS, make
from freqbench.core.errors import ParameterError

FILES = sorted(Path(freqbench.attacks.__file__).parent.rglob("*.py"))


@every_attack
def test_an_attack_holds_its_parameters_and_nothing_else(name: str) -> None:
    attack = example(name)
    attack = getattr(attack, "_attack", attack)
    assert set(vars(attack)) == {field.name for field in fields(attack)}


def test_other_rooms_read_declarations_not_classes_of_attacks() -> None:
    """Code outside asks no `isinstance(attack, ...)`, so that an attack of another package is treated alike."""
    room = FILES[0].parent
    asking = re.compile(r"(isinstance|issubclass)\([\w.]*attack, [A-Z]\w+\)")
    files = [path for path in room.parent.rglob("*.py") if not path.is_relative_to(room)]
    asked = [(path.name, line.group()) for path in files for line in asking.finditer(path.read_text())]
    assert len(asked) <= 4, asked


def test_parameter_of_base_assigned_without_type_is_constant() -> None:
    assert "random_start" not in {field.name for field in fields(ATTACKS["bim"])}
    assert make("bim", eps=0.1).random_start is False
    with pytest.raises(ParameterError, match=r"^bim: random_start: unknown parameter"):
        make("bim", eps=0.1, random_start=False)
