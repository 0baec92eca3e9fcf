"""Runs a network's own pipeline by its own toolchain: nnU-Net's by nnunetv2, MONAI's by its transforms."""

from freqbench.core.input_space import Preprocess
from freqbench.pipelines.pipeline import Pipeline as Pipeline
from freqbench.pipelines.pipeline import PreparedInput as PreparedInput

AnySpace = Preprocess | Pipeline  # a way from a file to the volume that is attacked: freqbench's own, or a network's
