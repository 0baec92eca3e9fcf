"""Offers the defences around a network: input transformations and randomised smoothing."""

from collections.abc import Mapping
from typing import Any

from freqbench.core.config import validate
from freqbench.core.errors import UserError, unknown
from freqbench.models.defences.base import Defence

__all__ = ["Defence", "defence_of"]


def defence_of(content: Any) -> Defence | None:
    """Returns the defence that a mapping describes (`name` and the defence's keys); a Defence or None stays as it is.

    Raises UserError for anything else.
    """
    if content is None or isinstance(content, Defence):
        return content
    name = content.get("name") if isinstance(content, Mapping) else None
    if not isinstance(name, str):
        raise UserError(f"expected a mapping with a name, such as {{name: bit_depth, bits: 3}}, got {content!r:.100}")
    from freqbench.models.defences.table import DEFENCES  # and torch with it

    if name not in DEFENCES:
        raise UserError(unknown("defence", name, DEFENCES))
    return validate(dict(content), DEFENCES[name], where=name)
