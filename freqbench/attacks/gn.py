"""Gaussian noise: the control that every attack has to beat at the same size."""

from dataclasses import dataclass

import torch
from torch import Tensor

from freqbench.attacks.core.attack import Attack
from freqbench.attacks.core.task import Task


@dataclass(frozen=True, kw_only=True)
class GaussianNoise(Attack):
    """clamp(x + std * n, 0, 1) with n standard normal in every voxel; no query of the model, no effect of `targeted`.

    `std` is on the [0, 1] intensity scale. `start`: the normals before scaling, `[B, C, H, W, D]`. Equal to the
    released code (VAFA, Hanif et al., MICCAI 2023, arXiv 2307.07269).
    """

    name = "gn"
    threat_model = "gaussian"
    budget_name = "std"
    is_stochastic = True
    passes = (0, 0)

    std: float

    def perturb(self, task: Task) -> Tensor:
        """Adds the noise."""
        start = task.given_start()
        normals = task.draw(torch.randn) if start is None else start
        return (task.clean + self.std * normals).clamp(0, 1)
