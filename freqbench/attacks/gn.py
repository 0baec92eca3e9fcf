"""Gaussian noise: the control that every attack has to beat at the same size."""

from dataclasses import dataclass

import torch
from torch import Tensor

from freqbench.attacks.core.attack import Attack
from freqbench.attacks.core.parameters import PARAMETERS, SCALED_NOISE
from freqbench.attacks.core.task import Task
from freqbench.attacks.random_noise import with_norm
from freqbench.ops.projections import rms


@dataclass(frozen=True, kw_only=True)
class GaussianNoise(Attack):
    """clamp(x + std * n, 0, 1) with n standard normal in every voxel; no query of the model, no effect of `targeted`.

    `std` is on the [0, 1] intensity scale. `start`: the normals before scaling, `[B, C, H, W, D]`. Equal to the
    released code (VAFA, Hanif et al., MICCAI 2023, arXiv 2307.07269).

    Args:
        norm: None: as above, where the clamp takes some of the noise. `l2`: the noise of a sample is scaled so that
            the root mean square of its change is `std` after the clamp, as far as that fits into [0, 1]: the null row
            of attacks with `norm: l2` and an eps of `std`.
    """

    name = "gn"
    budget_name = "std"
    parameters = PARAMETERS | {"norm": SCALED_NOISE}
    is_stochastic = True
    passes = (0, 0)

    std: float
    norm: str | None = None

    @property
    def threat_model(self) -> str:
        """`gaussian`, or `l2` if the noise is scaled."""
        return self.norm or "gaussian"

    def excess(self, clean: Tensor, adversarial: Tensor, state: Tensor | None) -> float:
        """Returns the root mean square of the change from `clean` to `adversarial` beyond `std`, if the noise is
        scaled; no `state` is needed."""
        return float(rms(adversarial - clean).max()) - self.std if self.norm else 0.0

    def perturb(self, task: Task) -> Tensor:
        """Adds the noise."""
        start = task.given_start()
        normals = task.draw(torch.randn) if start is None else start
        if self.norm is None:
            return (task.clean + self.std * normals).clamp(0, 1)
        return with_norm(task.clean, normals, self.std * task.clean[0].numel() ** 0.5)
