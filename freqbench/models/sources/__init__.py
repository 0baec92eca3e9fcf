"""Lists the kinds of places that networks come from; a kind states a network's facts and builds it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import nn

from freqbench.core import plugins
from freqbench.core.code import provenance
from freqbench.core.errors import UserError
from freqbench.models import ModelEntry, ModelSpec
from freqbench.models.networks.construction import refusing, seed_weights
from freqbench.models.sources import bundle, checkpoint, command, meshnet, nnunet, onnx
from freqbench.models.sources.source import Facts, Source

READERS: Mapping[str, Source] = {
    "nnunet": nnunet.SOURCE,
    "bundle": bundle.SOURCE,
    "meshnet": meshnet.SOURCE,
    "onnx": onnx.SOURCE,
    "command": command.SOURCE,
}


def source_of(arch: str | None) -> Source:
    """Returns the kind of place that networks of an architecture, `arch`, come from; None: the checkpoint says which it
    is."""
    return READERS.get(arch or "") or (_CLASS if plugins.names_class(arch or "") else checkpoint.SOURCE)


def kind_of_folder(folder: Path) -> str | None:
    """Returns the reader whose files a folder holds; None if it holds none."""
    return next((name for name, kind in READERS.items() if kind.sign and (folder / kind.sign).exists()), None)


def _facts(entry: ModelEntry, path: str, num_classes: int | None, num_channels: int | None) -> Facts:
    """States the facts of a class and its checkpoint; raises UserError for code that is not trusted or not there."""
    facts = checkpoint.facts(entry, path, num_classes, num_channels)
    code = provenance(plugins.load_class(facts.arch, nn.Module)).get("code")
    return replace(facts, args={**(facts.metadata.args or {}), **entry.args}, code=code)


def _network(spec: ModelSpec) -> nn.Module:
    """Builds a network with the fresh weights of the spec's seed; refuses code that is not what was resolved."""
    cls: type[nn.Module] = plugins.load_class(spec.arch, nn.Module)
    if provenance(cls).get("code") != spec.code:
        raise UserError(f"{spec.name}: {spec.arch} is not the code that was planned with: plan anew")
    with seed_weights(spec.seed or 0), refusing(f"{cls.__name__} refuses its args", (Exception,)):
        return cls(**spec.args)


_CLASS = Source(
    facts=_facts, network=_network, weights=checkpoint.weights, takes=("prefix",), runs_code=True, is_checkpoint=True
)
