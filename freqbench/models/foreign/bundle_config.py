"""The configuration of a MONAI bundle, read as data: nothing of it runs unless it is trusted."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from freqbench.core.errors import CheckpointError
from freqbench.core.plugins import require_trust
from freqbench.models.networks.architectures import REFUSALS, one_line

_SEPARATOR = "::"
# What code of a bundle may raise beside the refusals of networks.
_FAILURES = (*REFUSALS, ImportError, SyntaxError, OSError)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Values of a configuration by their id, `network_def::out_channels`, as MONAI's parser names them.

    Attributes:
        file: it was read from, for messages.
        content: its keys, with the metadata under `_meta_`.
    """

    file: Path
    content: Mapping[str, Any]

    def find(self, id: str) -> Any:
        """What stands under an id, its own reference or expression resolved and those inside it left; None if nothing.

        Raises:
            UserError: an expression, and no trust.
            CheckpointError: a reference to nothing, or to itself; or an expression that fails.
        """
        return self._find(id, ())

    def value(self, id: str) -> Any:
        """As `find`, with all inside it resolved too.

        Raises:
            UserError: also where an object would have to be made, and no trust.
        """
        found = self.find(id)
        if isinstance(found, Mapping):
            if "_target_" in found:
                return self._made(id, str(found["_target_"]))
            return {key: self.value(f"{id}{_SEPARATOR}{key}") for key in found}
        if isinstance(found, list):
            return [self.value(f"{id}{_SEPARATOR}{i}") for i in range(len(found))]
        return found

    def length(self, id: str) -> int:
        """Items of the list under an id; 0 if there is no list."""
        found = self.find(id)
        return len(found) if isinstance(found, list) else 0

    def parsed(self, id: str) -> Any:
        """What MONAI's parser makes of an id: this runs the bundle's code.

        Raises:
            UserError: no trust.
            CheckpointError: it fails.
        """
        require_trust(f"{self.file}: {id}")
        try:
            return self._parser.get_parsed_content(id)
        except _FAILURES as error:
            raise CheckpointError(
                f"{self.file}: {id} cannot be resolved: {one_line(error)}: if it needs modules of the bundle, put its "
                "folder on PYTHONPATH"
            ) from None

    @cached_property
    def _parser(self) -> Any:
        from monai.bundle import ConfigParser

        return ConfigParser(dict(self.content))

    def _made(self, id: str, target: str) -> Any:
        require_trust(f"{self.file}: {id} is an object of {target}")
        return self.parsed(id)

    def _find(self, id: str, seen: tuple[str, ...]) -> Any:
        if id in seen:
            raise CheckpointError(f"{self.file}: {seen[0]} refers to itself: {' > '.join((*seen, id))}")
        parent, _, last = id.rpartition(_SEPARATOR)
        holder = self._find(parent, seen) if parent else self.content
        if isinstance(holder, Mapping):
            node = holder.get(last)
        elif isinstance(holder, list) and last.isdigit() and int(last) < len(holder):
            node = holder[int(last)]
        else:
            node = None
        return self._followed(node, id, seen)

    def _followed(self, node: Any, id: str, seen: tuple[str, ...]) -> Any:
        if not isinstance(node, str) or not node.startswith(("$", "@", "%")):
            return node
        if node.startswith("$"):
            require_trust(f"{self.file}: {id} is the expression {' '.join(node.split())}")
            return self.parsed(id)
        target = node[1:].replace("#", _SEPARATOR)
        found = self._find(target, (*seen, id))
        if found is None:
            raise CheckpointError(f"{self.file}: {id} refers to {node}, which is not in the file")
        return found
