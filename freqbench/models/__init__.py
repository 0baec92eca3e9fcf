"""Turns a model's entry in a job file into label maps: networks, checkpoints, defences, inference."""

import importlib
from typing import TYPE_CHECKING, Any

from freqbench.models.defences.base import Defence as Defence
from freqbench.models.entry import Inference as Inference
from freqbench.models.entry import InputAdapter as InputAdapter
from freqbench.models.entry import ModelEntry as ModelEntry
from freqbench.models.packaged import zoo_names as zoo_names
from freqbench.models.spec import GRAPH_BYTES as GRAPH_BYTES
from freqbench.models.spec import ModelSpec as ModelSpec
from freqbench.models.spec import forward_flops as forward_flops
from freqbench.models.spec import step_bytes as step_bytes
from freqbench.models.spec import windows_in_graph as windows_in_graph

if TYPE_CHECKING:
    from freqbench.models.checkpoints.files import read_metadata as read_metadata
    from freqbench.models.checkpoints.files import save_checkpoint as save_checkpoint
    from freqbench.models.defences.randomized_smoothing import VolumePrediction as VolumePrediction
    from freqbench.models.defences.table import DEFENCES as DEFENCES
    from freqbench.models.inference import JointModel as JointModel
    from freqbench.models.inference import SlidingWindowModel as SlidingWindowModel
    from freqbench.models.inference import Wanted as Wanted
    from freqbench.models.inference import assemble as assemble
    from freqbench.models.inference import attack_windows as attack_windows
    from freqbench.models.inference import num_windows as num_windows
    from freqbench.models.inference import predict as predict
    from freqbench.models.inference import prediction as prediction
    from freqbench.models.inference import sliding_windows as sliding_windows
    from freqbench.models.loading import load as load
    from freqbench.models.networks.architectures import MODELS as MODELS
    from freqbench.models.networks.construction import build as build
    from freqbench.models.resolving import facts_of as facts_of
    from freqbench.models.resolving import resolve as resolve
    from freqbench.models.resolving import resolve_ensemble as resolve_ensemble
    from freqbench.models.resolving import stated_classes as stated_classes
    from freqbench.models.sources import READERS as READERS
    from freqbench.models.sources import source_of as source_of
    from freqbench.models.sources.source import Facts as Facts
    from freqbench.models.wrapper import SegmentationModel as SegmentationModel
else:
    _MODULES = {
        "checkpoints.files": ("read_metadata", "save_checkpoint"),
        "defences.randomized_smoothing": ("VolumePrediction",),
        "defences.table": ("DEFENCES",),
        "inference": (
            "JointModel",
            "SlidingWindowModel",
            "attack_windows",
            "assemble",
            "num_windows",
            "predict",
            "prediction",
            "sliding_windows",
            "Wanted",
        ),
        "loading": ("load",),
        "networks.architectures": ("MODELS",),
        "networks.construction": ("build",),
        "resolving": ("facts_of", "resolve", "resolve_ensemble", "stated_classes"),
        "sources": ("READERS", "source_of"),
        "sources.source": ("Facts",),
        "wrapper": ("SegmentationModel",),
    }

    def __getattr__(name: str) -> Any:
        """Imports networks, and torch with them, on first use: checking a job's entries needs neither."""
        for module, names in _MODULES.items():
            if name in names:
                return getattr(importlib.import_module(f"freqbench.models.{module}"), name)
        raise AttributeError(f"module 'freqbench.models' has no attribute {name!r}")
