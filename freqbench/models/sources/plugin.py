"""Makes networks of another package's class, `package.module:Class`; their weights come from a checkpoint."""

from dataclasses import replace

from torch import nn

from freqbench.core import plugins
from freqbench.core.code import provenance
from freqbench.core.errors import UserError
from freqbench.models import ModelEntry, ModelSpec
from freqbench.models.networks.construction import refusing, seed_weights
from freqbench.models.sources import checkpoint
from freqbench.models.sources.source import Facts, Source


def facts(entry: ModelEntry, path: str, num_classes: int | None, num_channels: int | None) -> Facts:
    """States the facts of a class and its checkpoint; raises UserError for code that is not trusted or not there."""
    facts = checkpoint.facts(entry, path, num_classes, num_channels)
    code = provenance(plugins.load_class(facts.arch, nn.Module)).get("code")
    return replace(facts, args={**(facts.metadata.args or {}), **entry.args}, code=code)


def network(spec: ModelSpec) -> nn.Module:
    """Builds a network with the fresh weights of the spec's seed; refuses code that is not what was resolved."""
    cls: type[nn.Module] = plugins.load_class(spec.arch, nn.Module)
    if provenance(cls).get("code") != spec.code:
        raise UserError(f"{spec.name}: {spec.arch} is not the code that was planned with: plan anew")
    with seed_weights(spec.seed or 0), refusing(f"{cls.__name__} refuses its args", (Exception,)):
        return cls(**spec.args)


SOURCE = Source(
    facts=facts, network=network, weights=checkpoint.weights, takes=("prefix",), runs_code=True, is_checkpoint=True
)
