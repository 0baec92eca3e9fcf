"""Reads YAML and JSON of unknown origin within limits of size, depth and number of values; writes YAML list items."""

import json
import re
from collections.abc import Mapping
from typing import Any

import yaml
from yaml import MarkedYAMLError
from yaml.composer import ComposerError
from yaml.nodes import MappingNode, Node, ScalarNode

from freqbench.core.errors import UserError, one_line

YAML_BYTES = 2**20
YAML_NODES = 20_000  # each alias counts as all the nodes that it repeats
JSON_BYTES = 2**28  # the index of a store of millions of records takes some ten megabytes
DEPTH = 64
DIGITS = 1000  # of a whole number; Python converts at most 4300

_MERGE, _INT, _FLOAT, _BOOL, _DATE = (f"tag:yaml.org,2002:{t}" for t in ("merge", "int", "float", "bool", "timestamp"))


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, but it refuses too many nodes or levels, and repeated keys, while it composes."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._nodes = 0
        self._sizes: dict[str, int] = {}  # nodes behind each anchor, once its node has ended

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        before = self._nodes
        is_alias = isinstance(event, yaml.AliasEvent)
        if is_alias and event.anchor in self.anchors and event.anchor not in self._sizes:
            raise ComposerError(None, None, "an alias inside its own anchor", event.start_mark)
        self._nodes += self._sizes.get(event.anchor, 1) if is_alias else 1
        self._depth += 1
        if self._nodes > YAML_NODES:
            raise ComposerError(None, None, f"more than {YAML_NODES:,} values, aliases spelt out", event.start_mark)
        if self._depth > DEPTH:
            raise ComposerError(None, None, f"more than {DEPTH} levels", event.start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(node, ScalarNode) and node.tag == _INT and len(node.value) > DIGITS:
            raise ComposerError(None, None, f"a whole number of {len(node.value):,} digits", node.start_mark)
        seen = set()
        for key, _ in node.value if isinstance(node, MappingNode) and not is_alias else ():
            if isinstance(key, ScalarNode) and key.tag != _MERGE:
                if (key.tag, key.value) in seen:
                    raise ComposerError(None, None, f"the key {key.value!r:.80} twice", key.start_mark)
                seen.add((key.tag, key.value))
        if event.anchor and not is_alias:
            self._sizes[event.anchor] = self._nodes - before
        return node


class _JobLoader(_Loader):
    """Reads a word as a number only if people do: `010`, `0x10`, `1_000`, `12:30` and `2026-01-02`, which YAML 1.1
    turns into others, stay text; a field of whole numbers reads `010` as 10. Refuses `yes`, `no`, `on`, `off`: either
    may be meant."""

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        node = super().compose_node(parent, index)
        is_word = isinstance(node, ScalarNode) and node.tag == _BOOL and node.value.lower() not in ("true", "false")
        if isinstance(node, ScalarNode) and is_word:
            problem = f"expected true, false, or a name in quotes, got {node.value}: write true or false, or quote it"
            raise ComposerError(None, None, problem, node.start_mark)
        return node


_resolvers: dict[str, list[Any]] = {}
for _first, _known in yaml.SafeLoader.yaml_implicit_resolvers.items():
    _resolvers[_first] = [(tag, pattern) for tag, pattern in _known if tag not in (_INT, _FLOAT, _DATE)]
_JobLoader.yaml_implicit_resolvers = _resolvers
_NUMBERS = {  # those of YAML 1.1 that mean the same in YAML 1.2
    _INT: r"[-+]?(0|[1-9][0-9]*)",
    _FLOAT: r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+][0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}
for _tag, _pattern in _NUMBERS.items():
    _JobLoader.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})\Z"), list("-+.0123456789"))


def _problem(error: Exception) -> str:
    """Returns what is wrong with a YAML text, and where."""
    if not isinstance(error, MarkedYAMLError) or error.problem_mark is None:
        return one_line(error)
    mark = error.problem_mark
    place = f"line {mark.line + 1}, column {mark.column + 1}"
    return one_line(", ".join(part for part in (error.context, error.problem, place) if part))


def yaml_of(content: bytes | str, where: str, of_others: bool = False) -> Any:
    """Returns the plain values in a YAML text, `content`; `of_others`: by PyYAML's rules, as other tools read their own
    files. Raises UserError, after `where`, for invalid YAML, a tag that would make an object, a repeated key, and more
    than YAML_BYTES, YAML_NODES or DEPTH levels."""
    if len(content) > YAML_BYTES:
        raise UserError(f"{where}: expected YAML of at most {YAML_BYTES // 2**20} MiB, got more: give the right file")
    try:
        text = content if isinstance(content, str) else content.decode("utf-8")
        loader = (_Loader if of_others else _JobLoader)(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no text, or a day 32
        raise UserError(f"{where}: not readable as YAML: {_problem(error):.300}") from None


def mapping_of(content: bytes | str, where: str, of_others: bool = False) -> dict[str, Any]:
    """Parses `content` as `yaml_of` does, `where` and `of_others` too; the text has to hold keys and values."""
    mapping = yaml_of(content, where, of_others)
    if not isinstance(mapping, dict):
        raise UserError(f"{where}: expected keys and values at the top, got {type(mapping).__name__}")
    return mapping


def yaml_item(entry: Mapping[str, Any]) -> str:
    """Returns a mapping of plain values, `entry`, as one item of a YAML list, on one line."""
    text: str = yaml.safe_dump(dict(entry), default_flow_style=True, sort_keys=False, width=float("inf"))
    return f"- {text.strip()}"


def yaml_lines(entry: Mapping[str, Any], beside: Mapping[str, str]) -> str:
    """Returns a mapping of plain values, `entry`, as one item of a YAML list, a key a line, with comments `beside` some
    keys."""
    said = {key: f"    # {why}" for key, why in beside.items()}
    return "- " + "\n    ".join(yaml_line(key, value) + said.get(key, "") for key, value in entry.items())


def yaml_line(key: str, value: Any) -> str:
    """Returns a key and its plain value on one line of YAML."""
    return yaml_item({key: value})[len("- {") : -1]


def json_of(content: bytes | str, where: str) -> Any:
    """Returns the value in a JSON text, `content`; raises UserError after `where`, also beyond JSON_BYTES or DEPTH
    levels."""
    if len(content) > JSON_BYTES:
        raise UserError(f"{where}: expected JSON of at most {JSON_BYTES // 2**20} MiB, got more: give the right file")
    too_deep = UserError(f"{where}: not readable as JSON: more than {DEPTH} levels")
    try:
        value = json.loads(content)
    except ValueError as error:
        raise UserError(f"{where}: not readable as JSON: {one_line(error, 300)}") from None
    except RecursionError:
        raise too_deep from None
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(DEPTH):  # code that walks through it recurses once per level
        parts: list[Any] = []
        for node in level:
            parts += node.values() if isinstance(node, dict) else node
        level = [part for part in parts if isinstance(part, dict | list)]
        if not level:
            return value
    raise too_deep


def object_of(content: bytes | str, where: str) -> dict[str, Any]:
    """Parses `content` as `json_of` does, with errors after `where`; the text has to hold an object."""
    value = json_of(content, where)
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected a JSON object, got {type(value).__name__}: restore it or move it away")
    return value


def to_tuples(value: Any) -> Any:
    """Returns a value with a tuple for every list, so that it has one spelling."""
    return tuple(to_tuples(item) for item in value) if isinstance(value, list | tuple) else value
