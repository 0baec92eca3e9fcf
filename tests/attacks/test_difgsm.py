"""Difgsm and dynamic scaling: what the network is asked, what counts of its answer, by torch's own interpolation."""

import pytest
import torch
import torch.nn.functional as F
from attacks.examples import SmallNet, generators
from attacks.test_mifgsm import EPS, doubles, run
from torch import Tensor

from freqbench.attacks import make


class Watched(SmallNet):
    """A small network that notes what it is asked and answers."""

    def __init__(self) -> None:
        super().__init__()
        self.eval().double()
        self.asked: list[Tensor] = []
        self.said: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        self.asked.append(x.detach())
        self.said.append(logits.detach())
        return logits


def resized(x: Tensor, *shape: int) -> Tensor:
    return F.interpolate(x, size=shape, mode="trilinear", align_corners=False)


def draws(*step: float) -> Tensor:
    """The same single step for both samples."""
    return torch.tensor(step, dtype=torch.float64).expand(2, 1, -1)


def test_the_network_sees_the_smaller_volume_in_zeros_and_its_logits_come_back() -> None:
    """Ratio 0.5 + 0.5 * 0.5 of 8 x 6 x 4, rounded half up: 6 x 5 x 3, moved by 2 of 2, 0 of 1 and 1 of 1."""
    (images, labels), model = doubles(), Watched()
    start = draws(0.49, 0.5, 0.9, 0.2, 0.7)
    result = run("difgsm", model, start, steps=1, min_scale=0.5)
    assert torch.allclose(model.asked[0], F.pad(resized(images, 6, 5, 3), (1, 0, 0, 1, 2, 0)), rtol=0, atol=1e-12)
    logits = resized(model.said[0][:, :, 2:8, 0:5, 1:4], 8, 6, 4)
    losses = F.cross_entropy(logits, labels[:, 0], reduction="none").flatten(1).mean(1)
    assert torch.allclose(result.losses[0], losses, rtol=0, atol=1e-12)


def test_the_gradient_is_that_through_the_resizing() -> None:
    (images, labels), model = doubles(), SmallNet().double().eval()
    result = run("difgsm", model, draws(0.49, 0.5, 0.9, 0.2, 0.7), steps=1, min_scale=0.5)
    x = images.clone().requires_grad_()
    logits = model(F.pad(resized(x, 6, 5, 3), (1, 0, 0, 1, 2, 0)))[:, :, 2:8, 0:5, 1:4]
    F.cross_entropy(resized(logits, 8, 6, 4), labels[:, 0], reduction="sum").backward()
    assert x.grad is not None
    clear = x.grad.abs() > 1e-9
    assert torch.equal((result.adversarial - images).sign()[clear], x.grad.sign()[clear])


def test_sizes_and_places_are_drawn_anew_for_every_step_and_sample() -> None:
    """Of a white volume the box is seen; by a ratio of 0.5 to 1, sides of 8 become 4 to 8."""
    model, images = Watched(), torch.ones(2, 1, 8, 8, 8, dtype=torch.float64)
    attack = make("difgsm", eps=0.0, steps=40, probability=1.0, min_scale=0.5)
    attack(model, images, torch.zeros_like(images, dtype=torch.long), generator=generators(1, 2))
    boxes = [[tuple(volume[0].nonzero()[[0, -1]].flatten().tolist()) for volume in x] for x in model.asked]
    assert all(len(set(of_sample)) > 20 for of_sample in zip(*boxes, strict=True))
    assert sum(first == second for first, second in boxes) < 10
    assert {box[3] - box[0] + 1 for step in boxes for box in step} == {4, 5, 6, 7, 8}
    assert all(len({box[i + 3] - box[i] for i in range(3)}) == 1 for step in boxes for box in step)


def test_the_network_sees_a_part_of_the_larger_volume_and_what_is_in_sight_counts() -> None:
    """Ratio 0.5 + 1.5 * 2/3 of 8 x 6 x 4: 12 x 9 x 6, from 4 of 4, 1 of 3 and 0 of 2 on."""
    (images, labels), model = doubles(), Watched()
    scales = {"min_scale": 0.5, "max_scale": 2.0}
    result = run("dynamic_scaling", model, draws(2 / 3, 0.9, 0.3, 0.1), steps=1, **scales)
    assert torch.allclose(model.asked[0], resized(images, 12, 9, 6)[:, :, 4:12, 1:7, 0:4], rtol=0, atol=1e-12)
    logits = resized(F.pad(model.said[0], (0, 2, 1, 2, 4, 0)), 8, 6, 4)
    losses = F.cross_entropy(logits, labels[:, 0], reduction="none")
    # Middles at 1.5 i + 0.25 between 4 and 11, 1 and 6, 0 and 3.
    losses = losses[:, 3:8, 1:4, 0:2].flatten(1).mean(1)
    assert torch.allclose(result.losses[0], losses, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("labelled", "raises"), [(7, True), (0, False)], ids=["in sight", "out of sight"])
def test_organs_count_where_they_are_in_sight(labelled: int, raises: bool) -> None:
    images, labels = doubles()
    labels = torch.zeros_like(labels)
    labels[:, :, labelled] = 1
    attack = make("dynamic_scaling", eps=EPS, steps=1, organs=(1,), loss="ce", min_scale=0.5, max_scale=2.0)
    result = attack(SmallNet().double(), images, labels, start=draws(2 / 3, 0.9, 0.3, 0.1))
    assert bool((result.losses > 0).all()) == raises
    assert torch.equal(result.adversarial, images) != raises


@pytest.mark.parametrize("name", ["difgsm", "dynamic_scaling"])
def test_the_best_is_judged_at_volumes_as_they_are(name: str) -> None:
    (images, labels), model = doubles(), Watched()
    result = run(name, model, steps=4, keep="best", step_size=EPS, min_scale=0.5)
    assert len(model.asked) == 9 == result.num_forwards
    asked, said = model.asked[::2], model.said[::2]
    assert torch.equal(asked[0], images)
    values = torch.stack([F.cross_entropy(z, labels[:, 0], reduction="none").flatten(1).mean(1) for z in said])
    for i, k in enumerate(values.argmax(0).tolist()):
        assert torch.equal(result.adversarial[i], asked[k][i])
