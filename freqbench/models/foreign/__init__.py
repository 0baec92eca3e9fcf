"""Reads models of other frameworks; a reader has `describe`, `network` and, unless frozen, `state_dict`."""

from collections.abc import Mapping
from types import ModuleType

from freqbench.models.foreign import bundle, command, frozen, meshnet, nnunet, onnx_file

READERS: Mapping[str, ModuleType] = {
    "nnunet": nnunet,
    "bundle": bundle,
    "meshnet": meshnet,
    "onnx": onnx_file,
    "torchscript": frozen,
    "torch_export": frozen,
    "command": command,
}
