"""YAML and JSON of unknown origin, read within limits of size, depth and what aliases multiply into."""

import json
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from freqbench.core.errors import UserError

YAML_BYTES = 2**20
YAML_NODES = 20_000  # with each alias counted as all that it stands for
JSON_BYTES = 2**28  # the index of a store of millions of records takes some ten megabytes
DEPTH = 64

_MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which refuses what is too much and what is said twice before anything is made of it."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._weights: dict[int, int] = {}

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        mark, is_alias = self.peek_event().start_mark, self.check_event(yaml.AliasEvent)  # type: ignore[no-untyped-call]
        self._depth += 1
        if self._depth > DEPTH:
            raise ComposerError(None, None, f"more than {DEPTH} levels", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is not None and not is_alias:
            self._weights[id(node)] = self._weight(node, mark)
        return node

    def _weight(self, node: Node, mark: Any) -> int:
        """Nodes that a node stands for, itself included."""
        if isinstance(node, MappingNode):
            _refuse_twice(node)
            parts = [part for pair in node.value for part in pair]
        else:
            parts = node.value if isinstance(node, SequenceNode) else []
        if any(id(part) not in self._weights for part in parts):
            raise ComposerError(None, None, "an alias of what it stands in", mark)
        weight = 1 + sum(self._weights[id(part)] for part in parts)
        if weight > YAML_NODES:
            raise ComposerError(None, None, f"more than {YAML_NODES:,} values, aliases spelt out", mark)
        return weight


def _refuse_twice(node: MappingNode) -> None:
    seen = set()
    for key, _ in node.value:
        if isinstance(key, ScalarNode) and key.tag != _MERGE:
            if (key.tag, key.value) in seen:
                raise ComposerError(None, None, f"the key {key.value!r:.80} twice", key.start_mark)
            seen.add((key.tag, key.value))


def yaml_of(content: bytes | str, where: str) -> Any:
    """What a YAML text holds, as plain values.

    Args:
        content: the text.
        where: begins the line of an error.

    Raises:
        UserError: not YAML, a tag that would make an object, a key twice, or more than YAML_BYTES, YAML_NODES or DEPTH
            levels.
    """
    if len(content) > YAML_BYTES:
        raise UserError(f"{where}: expected YAML of at most {YAML_BYTES // 2**20} MiB, got more: give the right file")
    try:
        text = content if isinstance(content, str) else content.decode("utf-8")
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no text, or a day 32
        raise UserError(f"{where}: not readable as YAML: {' '.join(str(error).split()):.300}") from None


def json_of(content: bytes | str, where: str) -> Any:
    """What a JSON text holds.

    Args:
        content: the text.
        where: begins the line of an error.

    Raises:
        UserError: not JSON, or more than JSON_BYTES or DEPTH levels.
    """
    if len(content) > JSON_BYTES:
        raise UserError(f"{where}: expected JSON of at most {JSON_BYTES // 2**20} MiB, got more: give the right file")
    try:
        found = json.loads(content)
    except ValueError as error:
        raise UserError(f"{where}: not readable as JSON: {' '.join(str(error).split()):.300}") from None
    except RecursionError:
        raise UserError(f"{where}: not readable as JSON: more than {DEPTH} levels") from None
    _refuse_depth(found, where)
    return found


def object_of(content: bytes | str, where: str) -> dict[str, Any]:
    """What a JSON text holds, which has to be an object.

    Raises:
        UserError: as `json_of`, or something else.
    """
    found = json_of(content, where)
    if not isinstance(found, dict):
        raise UserError(f"{where}: expected a JSON object, got {type(found).__name__}: restore or delete it")
    return found


def _refuse_depth(found: Any, where: str) -> None:
    """Whoever walks through it calls itself once a level."""
    level = [found]
    for _ in range(DEPTH):
        level = [
            part
            for each in level
            if isinstance(each, dict | list)
            for part in (each.values() if isinstance(each, dict) else each)
            if isinstance(part, dict | list)
        ]
        if not level:
            return
    raise UserError(f"{where}: not readable as JSON: more than {DEPTH} levels")
