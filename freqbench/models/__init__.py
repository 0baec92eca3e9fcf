"""Leads from a model's entry in a job file to label maps: networks, checkpoints, defences, inference."""

from freqbench.models.checkpoints.files import read_metadata, save_checkpoint, zoo_names
from freqbench.models.cost import forward_flops, step_bytes
from freqbench.models.defences import DEFENCES, Defence
from freqbench.models.defences.randomized_smoothing import Prediction
from freqbench.models.foreign import READERS
from freqbench.models.inference import (
    SlidingWindowModel,
    attack_windows,
    predict,
    prediction,
    sliding_windows,
)
from freqbench.models.networks.architectures import MODELS, Architecture, build
from freqbench.models.resolve import load, resolve, resolve_ensemble
from freqbench.models.settings import Inference, InputAdapter
from freqbench.models.spec import ModelEntry, ModelSpec
from freqbench.models.wrapper import SegmentationModel

__all__ = [
    "DEFENCES",
    "MODELS",
    "READERS",
    "Architecture",
    "Defence",
    "Inference",
    "InputAdapter",
    "ModelEntry",
    "ModelSpec",
    "Prediction",
    "SegmentationModel",
    "SlidingWindowModel",
    "attack_windows",
    "build",
    "forward_flops",
    "load",
    "predict",
    "prediction",
    "read_metadata",
    "resolve",
    "resolve_ensemble",
    "save_checkpoint",
    "sliding_windows",
    "step_bytes",
    "zoo_names",
]
