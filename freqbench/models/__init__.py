"""Networks, their checkpoints, and inference: from a model's entry in a job file to label maps."""

from freqbench.models.adapter import InputAdapter
from freqbench.models.checkpoints.files import read_metadata, save_checkpoint, zoo_names
from freqbench.models.cost import forward_flops, step_bytes
from freqbench.models.defences import DEFENCES, Defence
from freqbench.models.defences.model import DefendedModel
from freqbench.models.inference import Prediction, attack_windows, predict, prediction, sliding_windows
from freqbench.models.loading import READERS, load
from freqbench.models.networks.architectures import MODELS, Architecture, build
from freqbench.models.resolve import resolve, resolve_ensemble
from freqbench.models.settings import Inference
from freqbench.models.sliding import SlidingWindowModel
from freqbench.models.spec import ModelEntry, ModelSpec
from freqbench.models.wrapper import SegmentationModel

__all__ = [
    "DEFENCES",
    "MODELS",
    "READERS",
    "Architecture",
    "Defence",
    "DefendedModel",
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
