"""Reads YAML files into pydantic models; a mistake gives one line with its place, the expected value and a hint."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import pydantic
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from freqbench.core import limits, names
from freqbench.core.documents import YAML_BYTES, mapping_of, yaml_of
from freqbench.core.errors import UserError, one_line, unknown
from freqbench.core.limits import whole

FileName = Annotated[str, AfterValidator(names.require_name)]  # a name that becomes part of file and folder names

Whole = Annotated[int, Field(ge=-limits.LARGEST, le=limits.LARGEST)]
"""A whole number that the store's columns of 64 bits hold, also where it is written as text."""

Seed = Annotated[Whole, Field(ge=0)]  # a seed of draws

Threads = Annotated[PositiveInt, Field(le=512)]
"""CPU threads of torch; starting far more than a machine has ends the process without a message."""

Architecture = Annotated[str, AfterValidator(partial(names.require_known, "models", "architecture"))]
"""A network's class, by freqbench's name or as `package.module:Class`."""


class Strict(BaseModel):
    """A frozen model that refuses unknown keys, and true or false in place of a number."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _flags_are_no_numbers(cls, given: Any, info: pydantic.ValidationInfo) -> Any:
        annotation = cls.model_fields[str(info.field_name)].annotation
        if _has_flag(given) and not _takes_flags(annotation):
            expected = " or ".join(dict.fromkeys(_leaves(annotation))) or "neither true nor false"
            advice = f": {QUOTES}" if "text" in expected else ""
            raise ValueError(f"expected {expected}, got {given!r:.300}{advice}")
        return given


QUOTES = "put a name that YAML reads otherwise (true, null, 1.10) in quotes"

Model = TypeVar("Model", bound=BaseModel)


def load(path: str, model: type[Model], overrides: Sequence[str] = ()) -> Model:
    """Reads the YAML file at `path` into a model, after `overrides` (see `read`); raises UserError if it is missing or
    does not fit the model."""
    return validate(read(path, overrides), model, where=path)


def read(path: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Returns the content of the YAML file at `path`, after overrides such as `a.b=c` or `a.0.b=c`, whose values are
    YAML."""
    if not Path(path).is_file():
        raise UserError(f"{path}: expected a YAML file, found none: check the path")
    with Path(path).open("rb") as stream:
        content = mapping_of(stream.read(YAML_BYTES + 1), path)
    override(content, overrides)
    return content


def override(content: dict[str, Any], overrides: Sequence[str]) -> None:
    """Applies overrides such as `a.b=c` to a job's content."""
    for each in overrides:
        _apply(content, each)


def validate(content: Any, model: type[Model], where: str) -> Model:
    """Validates plain values, `content`, as `model.model_validate` does, but raises its first error as one UserError
    line after `where`, also for infinite numbers, NaN, and whole numbers beyond 64 bits."""
    for place, complaint in limits.wrong_numbers(content):
        raise UserError(f"{where}: {_place(place)}: {complaint}")
    try:
        return model.model_validate(content, context={"where": where})
    except ValidationError as error:
        raise UserError(f"{where}: {explain(error, model)}") from None


def _apply(content: Any, override: str) -> None:
    dotted, equals, text = override.partition("=")
    if not equals:
        raise UserError(f"--set {override}: expected a.b=c")
    *parents, last = dotted.split(".")
    value = yaml_of(text, f"--set {dotted}")
    node: Any = content
    try:
        for key in parents:
            node = node.setdefault(key, {}) if isinstance(node, dict) else node[whole(key)]
        node[whole(last) if isinstance(node, list) else last] = value  # a list takes no index None
    except (IndexError, TypeError, AttributeError):
        raise UserError(f"--set {override}: no such place in the job file: use keys and numbers, a.0.b=c") from None


def _has_flag(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, list | tuple) and any(map(_has_flag, value)))


def _takes_flags(annotation: Any) -> bool:
    return annotation in (bool, Any) or any(map(_takes_flags, get_args(annotation)))


def _leaves(annotation: Any) -> Iterator[str]:
    """Yields what a type takes: the words of a Literal, `text`, `a number`."""
    if get_origin(annotation) is Literal:
        yield from map(repr, get_args(annotation))
    elif annotation is str:
        yield "text"
    elif annotation in (int, float):
        yield "a number"
    else:
        for part in get_args(annotation):
            yield from _leaves(part)


def _place(location: Sequence[int | str]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f"{'.' if text else ''}{part}"
    return text


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Returns the first error of a model, with its place in the file, as one line."""
    errors = error.errors()
    first = _first_of(errors)
    kind = first["type"]
    if kind == "extra_forbidden":
        *parents, last = first["loc"]
        inside = _place(parents)
        said = _unknown_key(str(last), _model_at(model, parents))
        return f"{inside}: {said}" if inside else said
    location = _location_in_file(first["loc"], model)
    place = _place(location)
    if kind == "missing":
        if isinstance(location[-1], int):
            return f"{_place(location[:-1])}: expected a list of more values, got {location[-1]}: give all of them"
        return f"{place}: required, but not given"
    failures = [failure for failure in errors if failure["loc"][: len(location)] == location]
    said, *others = map(_mistake_text, failures)
    others = [text.removeprefix("Input should be ") for text in dict.fromkeys(others)]
    message = " or ".join([said, *others]).removeprefix("Value error, ")
    got = "" if kind == "value_error" else f", got {one_line(repr(first['input'])):.300}"
    advice = _advice_on(failures, kind)
    return f"{place}: {message}{got}{advice}" if place else message


def _first_of(errors: Sequence[ErrorDetails]) -> ErrorDetails:
    """Returns the error to name: the first, or the misspelt key beside it that is why the right one is missing."""
    first = errors[0]
    owner = first["loc"][:-1]
    if first["type"] == "missing":
        for each in errors:
            if each["type"] == "extra_forbidden" and each["loc"][:-1] == owner:
                return each
    return first


def _location_in_file(location: tuple[int | str, ...], model: type[BaseModel]) -> tuple[int | str, ...]:
    """Returns a place without the union's alternative that pydantic appends to it."""
    for i, part in enumerate(location):
        owner = _model_at(model, location[:i])
        if isinstance(part, str) and i and (owner is None or part not in owner.model_fields):
            return location[:i]
    return location


def _advice_on(failures: Sequence[ErrorDetails], kind: str) -> str:
    """Says how to write what was meant, of the failures at a place, the first of which is of a kind."""
    if any(each["type"] == "string_type" and isinstance(each["input"], int | float | None) for each in failures):
        return f": {QUOTES}"
    if all(failure["type"] in ("list_type", "tuple_type") for failure in failures):
        return ": put the values between brackets, [a, b]"
    return ": write its keys, {name: ..., ...}" if kind in ("model_type", "model_attributes_type") else ""


SYNONYMS = {  # words that newcomers write for a key, with the key; or the entry of a job that has this key
    **dict.fromkeys(("path", "folder", "dir", "directory", "data"), ("root", "checkpoint")),
    **dict.fromkeys(("weights", "ckpt", "file", "state_dict"), ("checkpoint",)),
    **dict.fromkeys(("window", "hu_window", "normalization", "scaling"), ("intensity",)),
    **dict.fromkeys(("patch_size", "window_size", "img_size"), ("roi",)),
    **dict.fromkeys(("strides", "channels", "num_res_units", "feature_size"), ("args",)),
    **dict.fromkeys(("class_names", "num_classes"), ("labels", "classes")),
    **dict.fromkeys(("type", "kind"), ("loader", "arch")),
}
OWNERS = {
    **dict.fromkeys(("label_map", "ignore", "root", "split"), "a dataset"),
    **dict.fromkeys(("class_map", "checkpoint", "arch"), "a model"),
    **dict.fromkeys(("eps", "steps"), "an attack"),
}


def _unknown_key(word: str, owner: type[BaseModel] | None) -> str:
    """Returns the sentence for an unknown key: it names the key that is meant, or the entry that has it."""
    fields = dict(owner.model_fields) if owner else {}
    inner = {name: part for name, field in fields.items() if (part := _first_model(field.annotation))}
    place = next((name for name, part in inner.items() if word in part.model_fields), None)
    meant = next((key for key in SYNONYMS.get(word, ()) if key in fields), None)
    if meant or not (place or word in OWNERS):
        return unknown("key", word, [field.alias or name for name, field in fields.items()], likely=meant)
    where = f"inside `{place}`: write it there" if place else f"of {OWNERS.get(word)}: write it in that entry"
    return f"unknown key {word!r:.80}: it is a key {where}"


def _mistake_text(error: ErrorDetails) -> str:
    """Returns pydantic's text of a mistake, without Python's types."""
    if error["type"] == "too_short":
        return f"expected a list of at least {error['ctx']['min_length']}"
    text = error["msg"].partition(" or instance of ")[0]
    return text.replace("a valid tuple", "a list").replace("a valid dictionary", "a mapping")


def _model_at(model: type[BaseModel], location: Sequence[int | str]) -> type[BaseModel] | None:
    inner: type[BaseModel] | None = model
    for name in (part for part in location if isinstance(part, str)):
        field: FieldInfo | None = inner.model_fields.get(name) if inner else None
        inner = _first_model(field.annotation) if field else None
    return inner


def _first_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_first_model, get_args(annotation))), None)
