"""Writes the JSON Schema of a job file, from which editors complete its keys and show mistakes while it is typed."""

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from freqbench.attacks import ATTACKS, Attack
from freqbench.core.names import ALIASES
from freqbench.data import DATASETS
from freqbench.job.sweep import AttackEntry, DatasetEntry, Match

Schema = dict[str, Any]

DIALECT = "http://json-schema.org/draft-07/schema#"  # the one that YAML editors know best
CLASS_PATH: Schema = {"type": "string", "pattern": r"^[\w.]+:\w+$"}
NUMBER: list[Schema] = [
    {"type": "number"},
    {"type": "string", "pattern": r"^\s*[\d.]+\s*/\s*[\d.]+\s*$"},
    {"type": "string", "pattern": r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"},
]
SEVERAL: list[Schema] = [{"type": "array"}, {"type": "object"}, {"type": "string", "pattern": r"^\d+(x\d+){1,2}$"}]
OPEN: Mapping[str, type[BaseModel]] = {"dataset": DatasetEntry, "attack": AttackEntry}


def schema_of(model: type[BaseModel]) -> Schema:
    """The JSON Schema of a job file, or of a training job, whose `dataset` and `attack` are entries as in the former.

    Datasets are told apart by `loader` or `name` and attacks by `name`, each with the keys of its own class; a class of
    another package, `module:Class`, may have any.
    """
    asked: list[type[BaseModel]] = [model, DatasetEntry, AttackEntry, Match, *DATASETS.values()]
    places, found = models_json_schema([(each, "validation") for each in asked])
    refs = {each: places[each, "validation"] for each in asked}
    defs: dict[str, Schema] = found["$defs"]
    at = {each: ref["$ref"].rpartition("/")[2] for each, ref in refs.items()}
    loaders = []
    for name, dataset in DATASETS.items():
        own = defs[at[dataset]]
        own["properties"]["loader"] = {"type": "string"}
        by_loader = {"properties": {"loader": _names("datasets", name)}, "required": ["loader"]}
        by_name = {"properties": {"name": _names("datasets", name)}, "not": {"required": ["loader"]}}
        loaders.append({"if": {"anyOf": [by_loader, by_name]}, "then": refs[dataset]})
    known = {"anyOf": [_names("datasets", *DATASETS), CLASS_PATH]}
    unnamed = {"if": {"not": {"required": ["loader"]}}, "then": {"properties": {"name": known}}}
    defs[at[DatasetEntry]] |= {
        "properties": {"name": {"type": "string"}, "loader": known},
        "allOf": [*loaders, unnamed],
    }
    attacks = []
    common = defs[at[AttackEntry]]["properties"] | {"match": {"anyOf": _one_or_more([refs[Match]])}}
    for name, attack in ATTACKS.items():
        defs[f"attack {name}"] = _attack(name, attack, common)
        attacks.append(
            {"if": {"properties": {"name": _names("attacks", name)}}, "then": {"$ref": f"#/$defs/attack {name}"}}
        )
    named = {"name": {"anyOf": [_names("attacks", *ATTACKS), CLASS_PATH]}}
    defs[at[AttackEntry]] |= {"properties": common | named, "allOf": attacks}
    root = defs.pop(at[model])
    for part in (root, *defs.values()):
        for key, entry in OPEN.items():
            if key in part.get("properties", {}):
                part["properties"][key] = _entries(part["properties"][key], refs[entry])
    return {"$schema": DIALECT, **root, "$defs": defs}


def _names(kind: str, *own: str) -> Schema:
    """Names of a table, and what the code released with the papers calls the same."""
    return {"enum": [*own, *(alias for alias, name in ALIASES[kind].items() if name in own)]}


def _attack(name: str, attack: type[Attack], common: Mapping[str, Schema]) -> Schema:
    """The schema of an attack's entry: each parameter is a value or a list of them that multiplies."""
    hints = get_type_hints(attack)
    required = [field.name for field in fields(attack) if field.default is MISSING and field.name != attack.budget_name]
    own = {}
    for field in fields(attack):
        own[field.name] = {"anyOf": _one_or_more(list(_values(hints[field.name])))}
        if field.name in attack.parameters:
            own[field.name]["description"] = attack.parameters[field.name].meaning
    budget = [{"required": [attack.budget_name]}, {"required": ["match"]}]
    needs_budget = any(field.name == attack.budget_name and field.default is MISSING for field in fields(attack))
    return {
        "title": name,
        "description": (attack.__doc__ or "").partition("\n\n")[0],
        "type": "object",
        "properties": {**common, **own},
        "required": ["name", *required],
        "additionalProperties": False,
        **({"anyOf": budget} if needs_budget else {}),
    }


def _one_or_more(values: list[Schema]) -> list[Schema]:
    """A value, or a list of such; a value that is a list itself stands in one more."""
    single = [value for value in values if value.get("type") != "array"]
    return [*single, {"type": "array", "items": {"anyOf": values}, "minItems": 1}]


def _values(hint: Any) -> Iterable[Schema]:
    """What a job file may write for a parameter of a type."""
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


def _entries(written: Schema, entry: Schema) -> Schema:
    """A schema whose open objects are entries of a job file."""
    if written.get("type") == "object":
        return entry
    nested = {
        key: [_entries(each, entry) for each in written[key]] for key in ("anyOf", "prefixItems") if key in written
    }
    items = {"items": _entries(written["items"], entry)} if isinstance(written.get("items"), dict) else {}
    return {**written, **nested, **items}
