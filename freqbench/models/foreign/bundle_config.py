"""Resolves the configuration of a MONAI bundle as data; expressions and objects need trust."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from freqbench.core.errors import CheckpointError, one_line
from freqbench.core.limits import whole
from freqbench.core.plugins import require_trust
from freqbench.models.foreign.common import read_object
from freqbench.models.networks.construction import REFUSALS

# Errors that a bundle's code may raise, beside the refusals of networks.
FAILURES = (*REFUSALS, ImportError, SyntaxError, OSError)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Values of a configuration by their id, such as `network_def::out_channels`, as MONAI's parser names them."""

    file: Path
    content: Mapping[str, Any]

    def find(self, id: str, seen: tuple[str, ...] = ()) -> Any:
        """Returns the value of an id, its own reference resolved but not those inside it; None if absent."""
        if id in seen:
            raise CheckpointError(f"{self.file}: {seen[0]} refers to itself: {' > '.join((*seen, id))}")
        parent, _, last = id.rpartition("::")
        holder = self.find(parent, seen) if parent else self.content
        node = None
        if isinstance(holder, Mapping):
            node = holder.get(last)
        elif isinstance(holder, list) and (i := whole(last)) is not None and i < len(holder):
            node = holder[i]
        if not isinstance(node, str) or not node.startswith(("$", "@", "%")):
            return node
        if node.startswith("$"):
            require_trust(f"{self.file}: {id} is the expression {' '.join(node.split())}")
            return self.parsed(id)
        target = self.find(node[1:].replace("#", "::"), (*seen, id))
        if target is None:
            raise CheckpointError(f"{self.file}: {id} refers to {node}, which is not in the file")
        return target

    def value(self, id: str) -> Any:
        """Returns the value with all references inside it resolved; an object that has to be made needs trust."""
        node = self.find(id)
        if isinstance(node, Mapping):
            if "_target_" in node:
                require_trust(f"{self.file}: {id} is an object of {node['_target_']}")
                return self.parsed(id)
            return {key: self.value(f"{id}::{key}") for key in node}
        if isinstance(node, list):
            return [self.value(f"{id}::{i}") for i in range(len(node))]
        return node

    def given(self, id: str, *names: str) -> dict[str, Any]:
        """Returns the named values under an id that are present."""
        values = {name: self.value(f"{id}::{name}") for name in names}
        return {name: value for name, value in values.items() if value is not None}

    def items(self, id: str) -> list[str]:
        """Returns the ids of the items of the list under an id; an empty list if there is no list."""
        node = self.find(id)
        return [f"{id}::{i}" for i in range(len(node))] if isinstance(node, list) else []

    def parsed(self, id: str) -> Any:
        """Returns an id's value from MONAI's parser; this runs the bundle's code, and so needs trust."""
        require_trust(f"{self.file}: {id}")
        try:
            return self._parser.get_parsed_content(id)
        except FAILURES as error:
            raise CheckpointError(
                f"{self.file}: {id} cannot be resolved: {one_line(error)}: if it needs modules of the bundle, put its "
                "folder on PYTHONPATH"
            ) from None

    @cached_property
    def _parser(self) -> Any:
        from monai.bundle import ConfigParser

        return ConfigParser(dict(self.content))


def read_config(path: str) -> Config:
    """Reads the configuration of a bundle's folder, with its metadata."""
    names = [f"configs/inference{suffix}" for suffix in (".json", ".yaml", ".yml")]
    file = next((file for name in names if (file := Path(path, name)).is_file()), None)
    if file is None:
        raise CheckpointError(
            f"{path}: expected a MONAI bundle with configs/inference.json (or .yaml), found none: give the folder that "
            "holds configs/ and models/"
        )
    metadata = Path(path, "configs", "metadata.json")
    meta = read_object(metadata) if metadata.is_file() else {}
    return Config(file=file, content={**read_object(file), "bundle_root": path, "_meta_": meta})
