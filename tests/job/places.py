"""Jobs that differ from another in some of their places, such as `attacks.0.eps`."""

import copy
from collections.abc import Mapping
from typing import Any

Changes = Mapping[str, Any]
GONE = ...
"""Stands in place of a value: the key is taken out."""


def changed(content: Any, changes: Changes) -> Any:
    content = copy.deepcopy(content)
    for place, value in changes.items():
        *way, last = (int(part) if part.isdigit() else part for part in place.split("."))
        at = content
        for part in way:
            at = at[part]
        if value is GONE:
            del at[last]
        else:
            at[last] = value
    return content
