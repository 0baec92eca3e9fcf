"""A network for faint balls, plain or behind a rounding that hides its gradient, and a job that attacks both."""

from typing import Any

import torch
from torch import Tensor, nn
from toy.data import Balls

from freqbench.core.input_space import Preprocess


class FaintBalls(Balls):
    """Background from 0.29 to 0.37, balls from 0.57 to 0.66."""

    def recipe(self) -> dict[str, Any]:
        return {**super().recipe(), "loader": "faint balls"}

    @property
    def space(self) -> Preprocess:
        return Preprocess(intensity={"window": [-1, 2.5]}, crop_foreground=False)


class Bright(nn.Module):
    """Class 1 where the mean of 27 voxels is above LEVEL; with `levels`, of intensities rounded to so many steps."""

    def __init__(self, classes: int, levels: int = 0) -> None:
        super().__init__()
        self.levels = levels
        self.mean = nn.Conv3d(1, 1, 3, padding=1, padding_mode="replicate", bias=False)
        nn.init.constant_(self.mean.weight, 1 / 27)

    def forward(self, images: Tensor) -> Tensor:
        seen = torch.round(images * self.levels) / self.levels if self.levels else images
        above = 20 * (self.mean(seen) - 0.47)
        return torch.cat([-above, above], dim=1)


def job(**changes: Any) -> dict[str, Any]:
    """PGD at 32/255 on both networks, and VAFA."""
    models = [
        {"name": name, "arch": "faint_balls:Bright", "args": {"classes": 2, **args}, "checkpoint": "random"}
        for name, args in (("plain", {}), ("rounded", {"levels": 4}))
    ]
    pgd = {"name": "pgd", "eps": "32/255", "steps": 20, "step_size": "eps/4"}
    vafa = {"name": "vafa", "q_max": 20, "steps": 2, "block": 8}
    content = {
        "name": "audited",
        "trust_code": True,
        "datasets": [{"name": "balls", "loader": "faint_balls:FaintBalls", "side": 16, "cases": 4}],
        "models": [{**model, "roi": [16, 16, 16]} for model in models],
        "attacks": [pgd, vafa],
        "targets": "source",
        "metrics": ["dsc", "ssim"],
        "resources": {"threads": 1},
        "save_adversarial": "nifti",
    }
    return {**content, **changes}
