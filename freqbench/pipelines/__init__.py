"""Runs a network's own pipeline by its own toolchain: nnU-Net's by nnunetv2, MONAI's by its transforms."""

from freqbench.pipelines.pipeline import Bounds as Bounds
from freqbench.pipelines.pipeline import Pipeline as Pipeline
from freqbench.pipelines.pipeline import PreparedInput as PreparedInput
