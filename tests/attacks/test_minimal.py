"""FMN and DDN: the smallest change where it is known, what they keep, and PGD's curve beside them."""

from typing import Any

import pytest
import torch
from attacks.asked import Asked, by_metrics, predicted
from attacks.small import Fixed, Linear, Net, volumes
from torch import Tensor

from freqbench.attacks import AttackResult, make
from freqbench.ops.losses import mean_dice

ALL = pytest.mark.parametrize(
    ("name", "given"), [("fmn", {"norm": "linf"}), ("fmn", {"norm": "l2"}), ("ddn", {})], ids=["linf", "l2", "ddn"]
)


def sizes(change: Tensor, given: dict[str, Any]) -> Tensor:
    if given.get("norm") == "linf":
        return change.abs().flatten(1).amax(1)
    return change.square().flatten(1).mean(1).sqrt()


def task() -> tuple[Tensor, Tensor]:
    images, _ = volumes(3, dtype=torch.float64)
    return images, predicted(images.float())


def attacked(name: str, model: Any = None, **given: Any) -> AttackResult:
    settings = {"steps": 16, "step_size": 0.1, "loss": "dice_linear"} | given
    return make(name, **settings)(model or Net().double(), *task())


@ALL
def test_smallest_change_on_a_linear_network_is_its_distance(name: str, given: dict[str, Any]) -> None:
    """From 0.5 to w . (x - 0.5) = b it is b / |w|_1 in L-infinity, and b / |w|_2 in L2."""
    weights = torch.randn(1, 1, 4, 3, 2, dtype=torch.float64)
    images = torch.full_like(weights, 0.5)
    network = Linear(weights, 0.5)
    dual = weights.abs().sum() if given.get("norm") == "linf" else weights.norm() * weights.numel() ** 0.5
    attack = make(name, steps=120, step_size=0.05, **given, **{"loss": "margin"} if name == "fmn" else {})
    result = attack(network, images, torch.ones_like(images).long())
    assert 0.5 / float(dual) <= float(result.state) + 1e-12
    assert result.state == pytest.approx(0.5 / float(dual), rel=0.01)
    assert (network(result.adversarial).argmax(1) == 0).all()


@ALL
@pytest.mark.parametrize("dice", [None, 0.7])
def test_result_is_the_smallest_volume_that_has_fallen(name: str, given: dict[str, Any], dice: float | None) -> None:
    """Everything that the network was asked is looked through again; a clean Dice of 1 falls at a half."""
    images, labels = task()
    model = Asked(Net().double())
    result = attacked(name, model, dice=dice, **given)
    assert len(model.volumes) == result.num_forwards == result.num_backwards == 16
    threshold = 0.5 if dice is None else dice
    for i in range(3):
        fallen = [
            x[i] for x in model.volumes if by_metrics(Net()(x[i][None].float()).argmax(1)[0], labels[i, 0]) <= threshold
        ]
        of_all = torch.stack([sizes((x - images[i])[None], given)[0] for x in fallen])
        assert result.state[i] == pytest.approx(float(of_all.min()), rel=1e-9)
        assert torch.equal(result.adversarial[i], fallen[int(of_all.argmin())])


@ALL
def test_a_volume_that_never_falls_is_that_of_the_lowest_dice(name: str, given: dict[str, Any]) -> None:
    images, labels = task()
    result = attacked(name, dice=0.0, steps=4, step_size=0.001, **given)
    assert result.state.isinf().all()
    model = Net().double()
    assert (mean_dice(model(result.adversarial), labels, None) <= mean_dice(model(images), labels, None)).all()
    assert attacked(name, Fixed(1, slope=1e-30).double(), dice=0.0, steps=4, **given).adversarial.isfinite().all()
