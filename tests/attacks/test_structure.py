"""Classes of the attacks stay small, and an attack that is made stays as it is."""

import ast
import re
from abc import ABC
from dataclasses import fields
from itertools import chain
from pathlib import Path

import pytest
from attacks.examples import every_attack, example

import freqbench.attacks
from freqbench.attacks import ATTACKS, Attack, make
from freqbench.core.errors import ParameterError

FILES = sorted(Path(freqbench.attacks.__file__).parent.rglob("*.py"))
CLASSES = [
    (f"{path.stem}.{node.name}", node)
    for path in FILES
    for node in ast.parse(path.read_text()).body
    if isinstance(node, ast.ClassDef)
]


def attributes(node: ast.ClassDef) -> set[str]:
    """Fields of a class, and what its methods set on an instance; constants of the class (`ClassVar`) are no state."""
    annotated = [part for part in node.body if isinstance(part, ast.AnnAssign)]
    declared = {ast.unparse(part.target) for part in annotated if "ClassVar" not in ast.unparse(part.annotation)}
    nodes = [part for part in ast.walk(node) if isinstance(part, ast.Assign | ast.AnnAssign | ast.AugAssign)]
    targets = chain.from_iterable(part.targets if isinstance(part, ast.Assign) else [part.target] for part in nodes)
    inner = chain.from_iterable(ast.walk(target) for target in targets)
    own = {part.attr for part in inner if isinstance(part, ast.Attribute) and ast.unparse(part.value) == "self"}
    return declared | own


def test_a_class_has_twelve_attributes_at_most() -> None:
    assert [name for name, node in CLASSES if len(attributes(node)) > 12] == []


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


def test_an_attack_has_five_classes_and_bases_are_eight_at_most() -> None:
    most = {"vafa": 3, "sa2": 3, "pgd": 4}
    for name, attack in ATTACKS.items():
        classes = [cls.__name__ for cls in attack.__mro__ if cls not in (ABC, object)]
        assert len(classes) <= most.get(name, 5), classes
    bases = {cls for attack in ATTACKS.values() for cls in attack.__mro__ if issubclass(cls, Attack)}
    unnamed = {cls.__name__ for cls in bases if not isinstance(getattr(cls, "name", None), str)}
    assert len(unnamed) <= 8, unnamed


def test_contributing_shows_an_attack_of_25_lines_at_most() -> None:
    text = (Path(freqbench.attacks.__file__).parents[2] / "CONTRIBUTING.md").read_text("utf-8")
    (attack,) = re.findall(r"```python\n +# freqbench/attacks/\w+.py\n(.*?)```", text, re.DOTALL)
    assert len(attack.strip().splitlines()) <= 25


def test_parameter_of_base_assigned_without_type_is_constant() -> None:
    assert "random_start" not in {field.name for field in fields(ATTACKS["bim"])}
    assert make("bim", eps=0.1).random_start is False
    with pytest.raises(ParameterError, match=r"^bim: random_start: unknown parameter"):
        make("bim", eps=0.1, random_start=False)


def test_attack_files_never_call_setattr() -> None:
    assert [path.name for path in FILES if "__setattr__" in path.read_text()] == []
