"""`variant: released` of apgd against arrays of its authors' code: float64, three volumes of 5 x 6 x 4 voxels.

The code is `APGDAttack.attack_single_run` of fra31/auto-attack at a392200, L-infinity, and, where a name begins with
`sea`, `apgd_train` of nmndeep/Robust-Segmentation at 5a1d308, tracking the cross-entropy; torch 2.13, one thread. Both
ran as they are, on a network of two convolutions with a sine between, whose loss rises and falls within a step.
auto-attack's took a volume as one image: loss and gradient through its interface for models that bring their own
gradients, and a prediction that is never wrong. The losses were written for the arrays, one value a volume. `draw` is
uniform in [0, 1): auto-attack stretches 2 draw - 1 until its largest value is 1; the other took it as it is, as its
first volume.

Of every setting: `volumes` that the network was asked for, `[steps + 1, B, C, H, W, D]` in float32, the start first;
`losses` that they are compared by; `step_sizes`, the length of the step that led to each volume but the first; `best`
and `highest`, the volume of highest loss and that loss. Rounding decides nothing: no gradient but an exact zero is
smaller than 1e-6 of the largest of its volume, and no two losses that are compared are closer than 1e-6.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from freqbench.attacks import AttackResult, make
from freqbench.attacks.apgd import Pace

FILES = ["apgd_released"]
ARRAYS = dict(np.load(Path(__file__).parent / "arrays" / "apgd_released.npz"))
SETTINGS: dict[str, dict[str, Any]] = json.loads(str(ARRAYS.pop("params")))
every_setting = pytest.mark.parametrize("name", SETTINGS)


class Run(NamedTuple):
    """Volumes that the network was asked for, `[steps + 1, B, C, H, W, D]`, and the attack's result."""

    asked: Tensor
    result: AttackResult


def array(name: str) -> Tensor:
    return torch.from_numpy(ARRAYS[name])


class Sines(nn.Module):
    """conv 1-5, sine, conv 5-3, with the stored weights; it notes where it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv3d(1, 5, 3, padding=1)
        self.second = nn.Conv3d(5, 3, 1)
        for name, layer in (("conv1", self.first), ("conv2", self.second)):
            layer.weight.data = array(f"{name}.weight")
            layer.bias.data = array(f"{name}.bias")
        self.asked = list[Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append(x.detach().cpu().clone())
        return self.second(self.first(x).sin())


@pytest.fixture(scope="module")
def runs(processor: torch.device) -> dict[str, Run]:
    return {name: run(processor, **setting) for name, setting in SETTINGS.items()}


def run(device: torch.device, *, eps: float, stretched: bool, **setting: Any) -> Run:
    noise = 2 * array("draw") - 1
    if stretched:
        noise = noise / noise.abs().amax(dim=(1, 2, 3, 4), keepdim=True)
    model = Sines().to(device)
    attack = make("apgd", variant="released", eps=eps, **setting)
    result = attack(model, array("images").to(device), array("labels").long().to(device), start=eps * noise)
    return Run(torch.stack(model.asked), result)


@every_setting
def test_apgd_evaluates_the_volumes_of_the_authors_code(name: str, runs: dict[str, Run]) -> None:
    difference = (runs[name].asked - array(f"{name}.volumes")).abs().flatten(1).amax(dim=1)
    assert float(difference.max()) <= 1e-6, f"first after {int((difference > 1e-6).nonzero()[0])} steps"


@every_setting
def test_apgd_keeps_the_volumes_of_highest_loss(name: str, runs: dict[str, Run]) -> None:
    assert torch.allclose(runs[name].result.adversarial.cpu(), array(f"{name}.best").double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", [name for name, setting in SETTINGS.items() if setting["stretched"]])
def test_apgd_raises_the_authors_loss(name: str, runs: dict[str, Run]) -> None:
    assert torch.allclose(runs[name].result.losses.cpu(), array(f"{name}.losses")[:-1], rtol=0, atol=1e-12)


@every_setting
def test_apgd_halves_the_step_as_the_authors_code(name: str) -> None:
    losses = array(f"{name}.losses")
    setting = SETTINGS[name]
    pace = Pace(setting["steps"], released=True)
    step = torch.full((3,), 2.0, dtype=torch.float64)
    sizes = []
    for i, value in enumerate(losses[:-1]):
        halves = pace.halves(i, value, losses[: i + 1].amax(dim=0))
        step = step if halves is None else torch.where(halves, step / 2, step)
        sizes.append(step * setting["eps"])
    assert torch.allclose(torch.stack(sizes), array(f"{name}.step_sizes"), rtol=1e-12, atol=0)
