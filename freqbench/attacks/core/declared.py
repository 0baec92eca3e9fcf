"""Reads an attack's parameters from the source of its class: an import would load torch, which takes seconds."""

import ast
from dataclasses import make_dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

from freqbench.attacks.core import parameters
from freqbench.core.names import entries

PACKAGE = Path(__file__).parents[3]
ROOM = "freqbench.attacks."
READ = ("budget_name", "parameters", "variants")


@cache
def declared(name: str) -> Any:
    """Outline of an attack's class: its fields and the attributes in READ, without methods. None for an unknown name.

    Every default is None here, whatever it is in the class.
    """
    if name not in (table := entries("attacks/table.py", "ATTACKS")):
        return None
    class_name = ast.unparse(table[name])
    return _imported(_parsed("freqbench.attacks.table"), {class_name})[class_name]


@cache
def _outlines(module: str) -> dict[str, Any]:
    """Outlines of a module's classes by name, together with all names that they use."""
    tree = _parsed(module)
    parts = [part for node in tree.body if isinstance(node, ast.ClassDef) for part in _read(node)]
    used = {name.id for part in parts for name in ast.walk(part) if isinstance(name, ast.Name)}
    names = {**vars(parameters), **_imported(tree, used)}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            names[node.name] = _outline(node, names)
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in used:
            names[ast.unparse(node.targets[0])] = _value(node.value, names)
    return names


def _outline(node: ast.ClassDef, names: dict[str, Any]) -> type:
    attributes = []
    for line in _lines(node):
        name, is_shared = line.target.id, ast.unparse(line.annotation).startswith("ClassVar")
        default = [_value(line.value, names) if name in READ else None] if line.value else []
        attributes.append((name, ClassVar[Any] if is_shared else Any, *default))
    bases = (names.get(ast.unparse(base)) for base in node.bases)
    inherited = tuple(base for base in bases if isinstance(base, type))
    return make_dataclass(node.name, attributes, bases=inherited, kw_only=True)


def _lines(node: ast.ClassDef) -> list[Any]:
    return [line for line in node.body if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)]


def _read(node: ast.ClassDef) -> list[ast.expr]:
    return [*node.bases, *(line.value for line in _lines(node) if line.value and line.target.id in READ)]


def _imported(tree: ast.Module, used: set[str]) -> dict[str, Any]:
    """Resolves the used names that a module imports from `freqbench.attacks`."""
    lines = [node for node in tree.body if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(ROOM)]
    pairs = [(line.module or "", alias.name) for line in lines for alias in line.names if alias.name in used]
    return {name: _outlines(module).get(name) for module, name in pairs if module != parameters.__name__}


def _value(node: ast.expr, names: dict[str, Any]) -> Any:
    match node:
        case ast.Constant(value):
            return value
        case ast.Name(name):
            return names[name]
        case ast.Attribute(owner, name):
            return getattr(_value(owner, names), name)
        case ast.Tuple(items):
            return tuple(_value(item, names) for item in items)
        case ast.Dict(keys, values):
            pairs = [
                (key and _value(key, names), _value(value, names)) for key, value in zip(keys, values, strict=True)
            ]
            return dict(chain.from_iterable([(key, value)] if key else value.items() for key, value in pairs))
        case ast.Call(ast.Name("ByParameters"), [usual, *_]):
            return _value(usual, names)
    raise TypeError(f"expected a constant, a name, a tuple or a dictionary, got {ast.unparse(node)}: write it so")


def _parsed(module: str) -> ast.Module:
    return ast.parse(PACKAGE.joinpath(*module.split(".")).with_suffix(".py").read_bytes())
