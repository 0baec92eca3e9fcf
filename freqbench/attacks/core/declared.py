"""Reads an attack's parameters from the source of its class: an import would load torch, which takes seconds."""

import ast
from dataclasses import make_dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from freqbench.attacks.core import parameters
from freqbench.core.names import entries

PACKAGE = Path(__file__).parents[3]
READ = ("name", "budget_name", "parameters", "variants")


@cache
def declared(name: str) -> Any:
    """Outline of an attack's class: fields (no defaults), and the attributes in READ; None for an unknown name."""
    table = entries("attacks/table.py", "ATTACKS")
    return _module("freqbench.attacks.table")[ast.unparse(table[name])] if name in table else None


class _Names(dict[str, Any]):
    """Values of a module's names, each computed from its statement on first use: a class becomes its outline."""

    def __init__(self, module: str) -> None:
        super().__init__(vars(parameters))
        self["ByParameters"] = lambda usual, choose: usual
        self._statements: dict[str, ast.stmt] = {}
        for node in ast.parse(PACKAGE.joinpath(*module.split(".")).with_suffix(".py").read_bytes()).body:
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
            case ast.ImportFrom(module=str(module)) if module.startswith("freqbench.attacks"):
                self[name] = _module(module)[name]
            case _:  # a builtin, or a base class of another package
                raise KeyError(name)
        return self[name]

    def _value(self, expression: ast.expr) -> Any:
        return eval(compile(ast.Expression(expression), "", "eval"), {}, self)

    def _outline(self, node: ast.ClassDef) -> type:
        attributes: list[Any] = []
        kind: Any
        for line in node.body:
            match line:
                case ast.AnnAssign(target=ast.Name(name), value=value):
                    text = ast.unparse(line.annotation)
                    kind = ClassVar[Any] if text.startswith("ClassVar") else text
                case ast.Assign(targets=[ast.Name(name)], value=value):
                    kind = ClassVar[Any]
                case _:
                    continue
            default = [self._value(value) if name in READ else ...] if value else []
            attributes.append((name, kind, *default))
        bases = tuple(self[base.id] for base in node.bases if isinstance(base, ast.Name) and base.id != "ABC")
        return make_dataclass(node.name, attributes, bases=bases, kw_only=True)


_module = cache(_Names)
