"""Reads an attack's parameters from the source of its class: an import would load torch, which takes seconds."""

import ast
from collections import ChainMap
from collections.abc import Collection, Mapping
from dataclasses import MISSING, fields, make_dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from freqbench.attacks.core import parameters
from freqbench.core.errors import ParameterError, unknown
from freqbench.core.names import entries

PACKAGE = Path(__file__).parents[3]
READ = ("name", "threat_model", "budget_name", "parameters", "variants")


@cache
def declared(name: str) -> Any:
    """Outline of an attack's class: docstring, fields, attributes in READ, and `paper`; None for an unknown name."""
    table = entries("attacks/table.py", "ATTACKS")
    return _module("freqbench.attacks.table")[ast.unparse(table[name])] if name in table else None


@cache
def budgets() -> frozenset[str]:
    """Names of the parameters that bound an attack."""
    second = "l2"  # of random_noise, in place of linf
    return frozenset({second, *(declared(name).budget_name for name in entries("attacks/table.py", "ATTACKS"))})


def require_names(attack: Any, given: Collection[str], optional: str | None = None) -> None:
    """Refuses, with a ParameterError, names that an attack does not take, and a name that it requires and lacks.

    Args:
        attack: its class, or the class's outline.
        given: names that a caller passes.
        optional: a required name that may still be left out.
    """
    known = [field.name for field in fields(attack)]
    for name in given:
        if name not in known:
            raise ParameterError(attack.name, name, unknown("parameter", name, known, _budget_for(attack, name, given)))
    for field in fields(attack):
        if field.default is MISSING and field.name not in (*given, optional):
            described = attack.parameters.get(field.name)
            meaning = described.meaning if described else "see the attack's docstring"
            raise ParameterError(attack.name, field.name, f"required, but not given ({meaning})")


def _budget_for(attack: Any, name: str, given: Collection[str]) -> str | None:
    """Returns the budget that an attack still lacks if `name` is the budget of another attack; else None."""
    budget: str | None = (declared(attack.name) or attack).budget_name
    return budget if name in budgets() and budget not in given else None


class _Names(dict[str, Any]):
    """Values of a module's names, each computed from its statement on first use: a class becomes its outline."""

    def __init__(self, module: str) -> None:
        super().__init__(vars(parameters))
        self._statements: dict[str, ast.stmt] = {}
        tree = ast.parse(PACKAGE.joinpath(*module.split(".")).with_suffix(".py").read_bytes())
        self._paper = (ast.get_docstring(tree) or "").partition("\n")[0]
        for node in tree.body:
            match node:
                case ast.ClassDef(name=name) | ast.Assign(targets=[ast.Name(name)]):
                    self._statements[name] = node
                case ast.ImportFrom(names=aliases):
                    self._statements |= {alias.name: node for alias in aliases}

    def __missing__(self, name: str) -> Any:
        match self._statements.get(name):
            case ast.ClassDef() as node:
                self[name] = self._outline(node)
            case ast.Assign(value=expression):
                self[name] = self._value(expression)
            case ast.ImportFrom(module=str(module)) if module.startswith(("freqbench.attacks", "freqbench.ops")):
                self[name] = _module(module)[name]
            case _:  # a builtin, or a base class of another package
                raise KeyError(name)
        return self[name]

    def _value(self, expression: ast.expr, attributes: Mapping[str, Any] = MappingProxyType({})) -> Any:
        return eval(compile(ast.Expression(expression), "", "eval"), {}, ChainMap({**attributes}, self))

    def _outline(self, node: ast.ClassDef) -> type:
        kinds: dict[str, Any] = {}
        values: dict[str, Any] = {}
        for line in node.body:
            match line:
                case ast.FunctionDef(name=name) if name in READ and len(line.decorator_list) == 1:  # not abstract
                    kinds[name] = ClassVar[Any]
                    values[name] = (ast.get_docstring(line) or "").split("`")[1]
                    continue
                case ast.AnnAssign(target=ast.Name(name), value=value):
                    text = ast.unparse(line.annotation)
                    kinds[name] = ClassVar[Any] if text.startswith("ClassVar") else text
                case ast.Assign(targets=[ast.Name(name)], value=value):
                    kinds[name] = ClassVar[Any]
                case _:
                    continue
            if value and (name in READ or isinstance(kinds[name], str)):
                values[name] = self._value(value, values)
            elif value:
                values[name] = ...
        attributes = [(name, kind, *([values[name]] if name in values else [])) for name, kind in kinds.items()]
        bases = tuple(self[base.id] for base in node.bases if isinstance(base, ast.Name) and base.id != "ABC")
        shown = {"__doc__": ast.get_docstring(node), "paper": self._paper}
        return make_dataclass(node.name, attributes, bases=bases, namespace=shown, kw_only=True)


_module = cache(_Names)
