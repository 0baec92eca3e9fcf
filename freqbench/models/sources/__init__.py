"""Lists the kinds of places that networks come from; a kind states a network's facts and builds it."""

from collections.abc import Mapping
from pathlib import Path

from freqbench.core import plugins
from freqbench.models.sources import bundle, checkpoint, command, frozen, meshnet, nnunet, onnx, plugin
from freqbench.models.sources.source import Source

READERS: Mapping[str, Source] = {
    "nnunet": nnunet.SOURCE,
    "bundle": bundle.SOURCE,
    "meshnet": meshnet.SOURCE,
    "onnx": onnx.SOURCE,
    "torchscript": frozen.SOURCE,
    "torch_export": frozen.SOURCE,
    "command": command.SOURCE,
}


def source_of(arch: str | None) -> Source:
    """Returns the kind of place that networks of an architecture come from; None: the checkpoint says which it is."""
    name = arch or ""
    return READERS.get(name) or (plugin.SOURCE if plugins.names_class(name) else checkpoint.SOURCE)


def kind_of_folder(folder: Path) -> str | None:
    """Returns the reader whose files a folder holds; None if it holds none."""
    return next((name for name, kind in READERS.items() if kind.sign and (folder / kind.sign).exists()), None)
