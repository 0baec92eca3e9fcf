"""Small networks, volumes and attacks for the tests of VAFA, SA2 and DFB."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from freqbench.attacks import AttackResult, make

BOTH = pytest.mark.parametrize("name", ["vafa", "sa2"])
ALL_FOUR = pytest.mark.parametrize("name", ["vafa", "vafa_2d", "sa2", "sa2_2d"])


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(4)
            self.first = nn.Conv3d(1, 6, 3, padding=1)
            self.last = nn.Conv3d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(torch.tanh(self.first(x) * 4))
        return logits


class Fixed(nn.Module):
    """Logits that hardly depend on the input: no gradient to speak of, one class everywhere."""

    def __init__(self, predicted: int, slope: float = 0.0) -> None:
        super().__init__()
        self.predicted = predicted
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        logits = x.repeat(1, 3, 1, 1, 1) * self.slope
        logits[:, self.predicted] += 1
        return logits


class Linear(nn.Module):
    """Class 1 in all of a volume while w . (x - 0.5) is below a bound, then class 0; it is hardly sure of anything.

    So all losses have gradients of one length, along w.
    """

    def __init__(self, weights: Tensor, bound: float = 1.0) -> None:
        super().__init__()
        self.weights = weights
        self.bound = bound

    def forward(self, x: Tensor) -> Tensor:
        margin = self.bound - ((x - 0.5) * self.weights).flatten(1).sum(1)
        margin = 1e-6 * margin.reshape(-1, 1, 1, 1, 1).expand_as(x)
        return torch.cat([-margin, margin], dim=1)


def volumes(batch: int = 2, shape: tuple[int, int, int] = (8, 8, 4), dtype: torch.dtype = torch.float32) -> Any:
    generator = torch.Generator().manual_seed(9)
    images = torch.rand(batch, 1, *shape, generator=generator, dtype=dtype)
    return images, torch.randint(0, 3, images.shape, generator=generator)


def layout(name: str, shape: tuple[int, int, int] = (8, 8, 4)) -> tuple[int, ...]:
    """Shape of the state of one sample of such volumes, with blocks of 4."""
    count = -(-shape[0] // 4) * -(-shape[1] // 4)
    depth = shape[2]
    return (1, depth, count, 4, 4) if name.endswith("_2d") else (1, count, 4, 4, min(4, depth))


def attack(name: str, **parameters: Any) -> Any:
    released_ssim_needs_a_cube = {"ssim_weight": 0.0} if name == "sa2_2d" else {}
    return make(name, **({"steps": 4, "block": 4} | released_ssim_needs_a_cube | parameters))


def run(name: str, model: nn.Module | None = None, **parameters: Any) -> AttackResult:
    return attack(name, **parameters)(model or Net(), *volumes())
