"""Turns a model's entry in a job file into label maps: networks, checkpoints, defences, inference."""

import importlib
from typing import TYPE_CHECKING, Any

from freqbench.models.defences.base import Defence
from freqbench.models.entry import Inference, InputAdapter, ModelEntry
from freqbench.models.spec import ModelSpec

__all__ = [
    "DEFENCES",
    "GRAPH_BYTES",
    "MODELS",
    "READERS",
    "Defence",
    "Inference",
    "InputAdapter",
    "JointModel",
    "ModelEntry",
    "ModelSpec",
    "Prediction",
    "SegmentationModel",
    "SlidingWindowModel",
    "attack_windows",
    "build",
    "forward_flops",
    "joined",
    "load",
    "predict",
    "prediction",
    "read_metadata",
    "resolve",
    "resolve_ensemble",
    "save_checkpoint",
    "sliding_windows",
    "stated_classes",
    "step_bytes",
    "windows_in_graph",
    "zoo_names",
]

if TYPE_CHECKING:
    from freqbench.models.checkpoints.files import read_metadata, save_checkpoint, zoo_names
    from freqbench.models.cost import GRAPH_BYTES, forward_flops, step_bytes, windows_in_graph
    from freqbench.models.defences.randomized_smoothing import Prediction
    from freqbench.models.defences.table import DEFENCES
    from freqbench.models.foreign import READERS
    from freqbench.models.inference import (
        JointModel,
        SlidingWindowModel,
        attack_windows,
        joined,
        predict,
        prediction,
        sliding_windows,
    )
    from freqbench.models.loading import load
    from freqbench.models.networks.architectures import MODELS
    from freqbench.models.networks.construction import build
    from freqbench.models.resolving import resolve, resolve_ensemble, stated_classes
    from freqbench.models.wrapper import SegmentationModel
else:
    _MODULES = {
        "checkpoints.files": ("read_metadata", "save_checkpoint", "zoo_names"),
        "cost": ("GRAPH_BYTES", "forward_flops", "step_bytes", "windows_in_graph"),
        "defences.randomized_smoothing": ("Prediction",),
        "defences.table": ("DEFENCES",),
        "foreign": ("READERS",),
        "inference": (
            *("JointModel", "SlidingWindowModel", "attack_windows", "joined", "predict", "prediction"),
            "sliding_windows",
        ),
        "loading": ("load",),
        "networks.architectures": ("MODELS",),
        "networks.construction": ("build",),
        "resolving": ("resolve", "resolve_ensemble", "stated_classes"),
        "wrapper": ("SegmentationModel",),
    }

    def __getattr__(name: str) -> Any:
        """Imports networks, and torch with them, on first use: checking a job's entries needs neither."""
        for module, names in _MODULES.items():
            if name in names:
                return getattr(importlib.import_module(f"freqbench.models.{module}"), name)
        raise AttributeError(f"module 'freqbench.models' has no attribute {name!r}")
