"""Reads models of other frameworks; a reader has `describe`, `network` and, unless frozen, `state_dict`."""

from collections.abc import Mapping
from types import ModuleType

from freqbench.models.foreign import bundle, frozen, nnunet

READERS: Mapping[str, ModuleType] = {"nnunet": nnunet, "bundle": bundle, "torchscript": frozen, "torch_export": frozen}
