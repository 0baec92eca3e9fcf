"""Writes the JSON Schema of a job file, with which editors complete its keys and show mistakes while it is typed."""

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from freqbench.attacks import ATTACKS, Attack
from freqbench.attacks.core.declared import declared
from freqbench.core.names import ALIASES
from freqbench.data import DATASETS
from freqbench.job.sweep import AttackEntry, DatasetEntry, Match
from freqbench.models import DEFENCES, Defence

Schema = dict[str, Any]
DIALECT = "http://json-schema.org/draft-07/schema#"  # the dialect that YAML editors support best
CLASS_PATH: Schema = {"type": "string", "pattern": r"^[\w.]+:\w+$"}
NUMBER: list[Schema] = [
    {"type": "number"},
    {"type": "string", "pattern": r"^\s*[0-9.]+\s*/\s*[0-9.]+\s*$"},
    {"type": "string", "pattern": r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"},
]
_SIDES = r"^[0-9]{1,18}(x[0-9]{1,18}){1,2}$"
SEVERAL: list[Schema] = [{"type": "array"}, {"type": "object"}, {"type": "string", "pattern": _SIDES}]


def schema_of(model: type[BaseModel]) -> Schema:
    """Returns the JSON Schema of a job file, by its pydantic `model`, in which an entry's name or `loader` chooses its
    keys; `module:Class` has any."""
    entries = (DatasetEntry, AttackEntry, Match, Defence)
    asked: list[type[BaseModel]] = [model, *entries, *DATASETS.values(), *DEFENCES.values()]
    places, generated = models_json_schema([(cls, "validation") for cls in asked])
    refs = {cls: places[cls, "validation"] for cls in asked}
    defs: dict[str, Schema] = generated["$defs"]
    schemas = {cls: defs[ref["$ref"].rpartition("/")[2]] for cls, ref in refs.items()}
    common = schemas[AttackEntry]["properties"] | {"match": {"anyOf": _one_or_more([refs[Match]])}}
    for name, attack in ATTACKS.items():
        defs[f"attack-{name}"] = _attack(name, attack, common)
    for cls in (*DATASETS.values(), *DEFENCES.values()):
        schemas[cls]["properties"] |= {"name": {"type": "string"}}
    for dataset in DATASETS.values():
        schemas[dataset]["properties"] |= {"loader": {"type": "string"}}
    attacks = {name: {"$ref": f"#/$defs/attack-{name}"} for name in ATTACKS}
    schemas[AttackEntry] |= _told_apart("name", "attacks", attacks) | {"required": ["name"]}
    defences = {name: refs[defence] for name, defence in DEFENCES.items()}
    schemas[Defence] |= _told_apart("name", "", defences) | {"required": ["name"], "additionalProperties": True}
    loaders = {name: refs[dataset] for name, dataset in DATASETS.items()}
    schemas[DatasetEntry] |= {
        "properties": {},
        "if": {"required": ["loader"]},
        "then": _told_apart("loader", "datasets", loaders),
        "else": _told_apart("name", "datasets", loaders),
    }
    root = schemas[model]
    del defs[refs[model]["$ref"].rpartition("/")[2]]
    return {"$schema": DIALECT, **root, "$defs": defs}


def _told_apart(key: str, kind: str, parts: Mapping[str, Schema]) -> Schema:
    """Returns the schema of objects that name, by a key, the schema that they follow, or a class of another package."""
    values = {"anyOf": [_names(kind, *parts), CLASS_PATH]} if kind else _names(kind, *parts)
    chosen = [{"if": {"properties": {key: _names(kind, name)}}, "then": part} for name, part in parts.items()]
    return {"properties": {key: values}, "allOf": chosen}


def _names(kind: str, *entries: str) -> Schema:
    """Returns names of a table, and the aliases from the code released with the papers."""
    return {"enum": [*entries, *(alias for alias, name in ALIASES.get(kind, {}).items() if name in entries)]}


def _attack(name: str, attack: type[Attack], common: Mapping[str, Schema]) -> Schema:
    """Returns the schema of an attack's entry: each parameter is a value, or a list of values that multiplies."""
    hints = get_type_hints(attack)
    budget = declared(name).budget_name
    required = [field.name for field in fields(attack) if field.default is MISSING]
    parameters: dict[str, Schema] = {}
    for field in fields(attack):
        key = field.name
        parameters[key] = {"anyOf": _one_or_more(list(_values(hints[key])))}
        if key in attack.parameters:
            parameters[key]["description"] = attack.parameters[key].meaning
    schema: Schema = {
        "title": name,
        "description": (attack.__doc__ or "").partition("\n\n")[0],
        "type": "object",
        "properties": {**common, **parameters},
        "required": ["name", *(parameter for parameter in required if parameter != budget)],
        "additionalProperties": False,
    }
    if budget in required:
        schema["anyOf"] = [{"required": [budget]}, {"required": ["match"]}]
    return schema


def _one_or_more(values: list[Schema]) -> list[Schema]:
    """Returns the schema of a value or a list of such values; a value that is a list itself needs an outer list."""
    single = [value for value in values if value.get("type") != "array"]
    return [*single, {"type": "array", "items": {"anyOf": values}, "minItems": 1}]


def _values(hint: Any) -> Iterable[Schema]:
    """Yields the schemas of the values that a job file may write for a parameter of a type."""
    kind = get_origin(hint) or hint
    if kind in (Union, UnionType):
        for part in get_args(hint):
            yield from _values(part)
    elif kind is Literal:
        yield {"enum": list(get_args(hint))}
    elif kind is float:
        yield from NUMBER
    elif kind is tuple:
        yield from SEVERAL
    else:
        words = {bool: "boolean", int: "integer", str: "string", NoneType: "null"}
        yield {"type": words[kind]} if kind in words else {}
