"""Networks, their checkpoints, and inference: from a model's entry in a job file to label maps."""

from freqbench.models.checkpoint import read_metadata, save_checkpoint, zoo_names
from freqbench.models.inference import attack_windows, predict, sliding_windows
from freqbench.models.nets import MODELS, Architecture, build
from freqbench.models.settings import Inference
from freqbench.models.sliding import SlidingWindowModel
from freqbench.models.spec import ModelEntry, ModelSpec, forward_flops, load, resolve, step_bytes
from freqbench.models.wrapper import SegmentationModel

__all__ = [
    "MODELS",
    "Architecture",
    "Inference",
    "ModelEntry",
    "ModelSpec",
    "SegmentationModel",
    "SlidingWindowModel",
    "attack_windows",
    "build",
    "forward_flops",
    "load",
    "predict",
    "read_metadata",
    "resolve",
    "save_checkpoint",
    "sliding_windows",
    "step_bytes",
    "zoo_names",
]
