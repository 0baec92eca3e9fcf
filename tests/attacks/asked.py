"""A network that notes what an attack asks of it."""

from functools import cache
from typing import Any

import numpy as np
import torch
from attacks.examples import generators
from attacks.small import Net, volumes
from torch import Tensor, nn
from torch.nn import functional as F

from freqbench.attacks import AttackResult, make
from freqbench.metrics import dice

EPS = 4 / 255
SEEDS = (1, 2, 3)


class Asked(nn.Module):
    """Notes every query: volumes, logits, and if a gradient could have followed."""

    def __init__(self, net: nn.Module | None = None) -> None:
        super().__init__()
        self.net = net or Net()
        self.volumes = list[Tensor]()
        self.logits = list[Tensor]()
        self.with_gradient = list[bool]()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        self.volumes.append(x.detach().clone())
        self.logits.append(logits.detach().clone())
        self.with_gradient.append(torch.is_grad_enabled())
        return logits


def entropies(model: Asked, labels: Tensor) -> Tensor:
    """The cross-entropy of everything that was asked, `[queries, B]`."""
    values = [F.cross_entropy(logits, labels[:, 0], reduction="none") for logits in model.logits]
    return torch.stack(values).flatten(2).mean(2)


def task() -> tuple[Tensor, Tensor]:
    """Three windows and what the network predicts on them: it is right everywhere, and all classes are there."""
    images, _ = volumes(3)
    return images, predicted(images)


def predicted(images: Tensor) -> Tensor:
    with torch.no_grad():
        return Net()(images).argmax(1, keepdim=True)


@cache
def run(name: str, **parameters: Any) -> tuple[Asked, AttackResult]:
    """Returns the noting network and its result, run once for all tests."""
    model = Asked()
    return model, make(name, **({"eps": EPS} | parameters))(model, *task(), generator=generators(*SEEDS))


def by_metrics(prediction: Tensor, label: Tensor, classes: tuple[int, ...] = (1, 2)) -> float:
    return float(np.nanmean(dice(prediction, label, 3)[list(classes)]))


def scores(images: Tensor, classes: tuple[int, ...] = (1, 2)) -> list[float]:
    pairs = zip(predicted(images)[:, 0], task()[1][:, 0], strict=True)
    return [by_metrics(prediction, label, classes) for prediction, label in pairs]


def told(model: Asked, i: int, classes: tuple[int, ...] = (1, 2)) -> list[float]:
    """The mean Dice of everything that was asked about one window, where every call had all of them."""
    label = task()[1][i, 0]
    return [by_metrics(logits[i].argmax(0), label, classes) for logits in model.logits]


def in_ball(model: Asked) -> list[bool]:
    """Flags of the queries that lie within eps of the clean volumes."""
    return [float((asked - task()[0]).abs().max()) <= EPS + 1e-6 for asked in model.volumes]
