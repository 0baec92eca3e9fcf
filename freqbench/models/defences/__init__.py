"""Offers the defences around a network: input transformations and randomised smoothing."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from freqbench.core.config import validate
from freqbench.core.errors import UserError, unknown
from freqbench.models.defences.base import Defence

__all__ = ["DEFENCES", "Defence", "RandomizedSmoothing", "defence_of"]

if TYPE_CHECKING:
    from freqbench.models.defences.randomized_smoothing import RandomizedSmoothing
    from freqbench.models.defences.table import DEFENCES
else:

    def __getattr__(name: str) -> Any:
        """Import defences, and torch with them, on first use."""
        if name in __all__:
            from freqbench.models.defences import table

            return getattr(table, name)
        raise AttributeError(f"module 'freqbench.models.defences' has no attribute {name!r}")


def defence_of(content: Any) -> Defence | None:
    """The defence of a mapping, `name` and its own keys, itself, or None; a UserError for what cannot be one."""
    if content is None or isinstance(content, Defence):
        return content
    name = content.get("name") if isinstance(content, Mapping) else None
    if not isinstance(name, str):
        raise UserError(f"expected a mapping with a name, such as {{name: bit_depth, bits: 3}}, got {content!r:.100}")
    from freqbench.models.defences.table import DEFENCES

    if name not in DEFENCES:
        raise UserError(unknown("defence", name, DEFENCES))
    return validate(dict(content), DEFENCES[name], where=name)
