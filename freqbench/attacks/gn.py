"""Gaussian noise: the control that every attack has to beat at the same size."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from freqbench.attacks.core.base import Attack
from freqbench.attacks.core.task import Task


@dataclass(frozen=True, kw_only=True)
class GaussianNoise(Attack):
    """clamp(x + std * n, 0, 1) with n standard normal in every voxel; the model is not asked, `targeted` has no effect.

    Args:
        std: standard deviation on the [0, 1] intensity scale.

    `start`: the standard normals before scaling, `[B, C, H, W, D]`.

    Differs from the released code (VAFA, Hanif et al., MICCAI 2023, arXiv 2307.07269): nothing.
    """

    name: ClassVar[str] = "gn"
    threat_model: ClassVar[str] = "gaussian"
    budget_name: ClassVar[str] = "std"

    std: float

    @property
    def passes(self) -> tuple[int, int]:
        """None."""
        return 0, 0

    @property
    def is_stochastic(self) -> bool:
        """Every voxel is drawn."""
        return True

    def perturb(self, task: Task) -> Tensor:
        """Add the noise."""
        start = task.given_start()
        normals = task.draw(torch.randn) if start is None else start
        return (task.clean + self.std * normals).clamp(0, 1)
