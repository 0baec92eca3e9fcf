"""Every attack on defended models."""

from typing import Any

import pytest
import torch
from attacks.examples import EXAMPLES
from torch import Tensor, nn

from freqbench.attacks import ATTACKS, make
from freqbench.core.identity import window_generator
from freqbench.models import SegmentationModel
from freqbench.models.defences import defence_of

SIDE = 12
DEFENCES = {
    "naive bits": ({"name": "bit_depth", "bits": 2}, False),
    "resized": ({"name": "random_resize_pad", "smallest": 0.6, "eot": 2}, True),
}
DRAWING = ("pgd", "apgd", "cospgd", "vafa", "sa2", "square", "faa")  # each way of asking the network


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(4)
            self.first, self.last = nn.Conv3d(1, 6, 3, padding=1), nn.Conv3d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(torch.tanh(self.first(x) * 4))
        return logits


@pytest.mark.parametrize(
    ("name", "kind"), [*((name, "naive bits") for name in ATTACKS), *((name, "resized") for name in DRAWING)]
)
def test_every_attack_takes_a_defended_model_and_repeats(name: str, kind: str) -> None:
    """With draws, and where no gradient comes through: 0 / 0 would be no volume."""
    content, adaptive = DEFENCES[kind]
    model = SegmentationModel(Net(), (SIDE,) * 3, defence=defence_of(content), adaptive=adaptive).eval()
    images = torch.rand(1, 1, SIDE, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    labels = (images > 0.5).long()
    attack = make(name, **EXAMPLES[name])

    def attacked() -> Tensor:
        more: dict[str, Any] = {"reference": images.flip(2)} if attack.needs_reference else {}
        return attack(model, images, labels, generator=window_generator(0, "case", 0), **more).adversarial

    first = attacked()
    assert first.isfinite().all()
    assert torch.equal(attacked(), first)
