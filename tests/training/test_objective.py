"""The losses of a step, the crops that are attacked for it, and the figures that weights are chosen by."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from monai.losses import DiceCELoss
from torch import Tensor, nn

from freqbench.attacks import make
from freqbench.job.training import FrequencyConsistency
from freqbench.models import InputAdapter, SegmentationModel
from freqbench.training.loop import attacked_dice, choice, mean_foreground
from freqbench.training.objective import Adversary, MixedAdversary, StepLoss, _pick_highest_loss

ROI = (8, 8, 8)
MONAI = DiceCELoss(softmax=True, to_onehot_y=True, squared_pred=True, smooth_nr=0, smooth_dr=1e-6)


class Watched(nn.Module):
    """A small network that notes the mode in which it was run."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv3d(1, 3, 3, padding=1)
        self.norm = nn.BatchNorm3d(3)
        self.modes: list[bool] = []

    def forward(self, images: Tensor) -> Tensor:
        self.modes.append(self.training)
        logits: Tensor = self.norm(self.conv(images))
        return logits


def crops(batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images, attacked = (torch.rand(batch, 1, *ROI, generator=generator) for _ in range(2))
    return images, attacked, torch.randint(0, 3, images.shape, generator=generator)


def objective(net: nn.Module, **consistency: Any) -> StepLoss:
    return StepLoss(net, InputAdapter(), FrequencyConsistency(**consistency) if consistency else None, half=False)


def adversary(name: str = "pgd", budget: tuple[float, float] | None = None, **parameters: Any) -> Adversary:
    return Adversary(attack=make(name, **parameters), random_budget=budget, seed=3)


def test_adversarial_training_counts_attacked_crops_alone() -> None:
    net = Watched()
    (_, attacked, labels) = crops()
    loss, terms = objective(net)(None, attacked, labels)
    assert loss.item() == pytest.approx(float(MONAI(net(attacked), labels)), abs=1e-6)
    assert torch.isnan(terms[[0, 2]]).all()


def test_vaft_is_the_sum_of_both_losses() -> None:
    net = Watched()
    (images, attacked, labels) = crops()
    loss, terms = objective(net)(images, attacked, labels)
    wanted = [float(MONAI(net(x), labels)) for x in (images, attacked)]
    assert (terms[:2].tolist(), float(loss)) == (pytest.approx(wanted, abs=1e-6), pytest.approx(sum(wanted), abs=1e-6))


def test_the_consistency_is_added_with_its_weight() -> None:
    net = Watched()
    (images, attacked, labels) = crops()
    bare, _ = objective(net)(images, attacked, labels)
    once, one = objective(net, weight=1)(images, attacked, labels)
    thrice, three = objective(net, weight=3)(images, attacked, labels)
    assert float(thrice - bare) == pytest.approx(3 * float(once - bare), rel=1e-5)
    assert float(three[2]) == pytest.approx(3 * float(one[2]), rel=1e-6)
    assert float(one[2]) > 0.1


def test_network_is_attacked_in_evaluation_mode() -> None:
    net = Watched().train()
    (images, _, labels) = crops()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    adversary(eps=8 / 255, steps=3).attack_crops(SegmentationModel(net, ROI).train(), images, labels, 0, [0, 1])
    assert net.modes == [False] * 3
    assert net.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_attacked_crops_are_those_of_the_attack_itself() -> None:
    net = Watched().eval()
    (images, _, labels) = crops()
    attack = make("pgd", eps=8 / 255, steps=2, random_start=False)
    volumes = Adversary(attack=attack, random_budget=None, seed=0).attack_crops(
        SegmentationModel(net, ROI), images, labels, 5, [8, 9]
    )
    assert torch.equal(volumes, attack(SegmentationModel(net, ROI), images, labels).adversarial)


def test_draws_belong_to_a_crop_whatever_stands_beside_it() -> None:
    net = Watched().eval()
    (images, _, labels) = crops()
    attack = adversary("gn", std=8 / 255)
    model = SegmentationModel(net, ROI)
    both = attack.attack_crops(model, images, labels, 4, [8, 9])
    alone = attack.attack_crops(model, images[1:], labels[1:], 4, [9])
    other = attack.attack_crops(model, images[1:], labels[1:], 4, [10])
    assert torch.equal(both[1:], alone)
    assert not torch.equal(alone, other)


def test_random_budget_is_drawn_anew_every_step_and_same_again() -> None:
    attacks = [adversary(budget=(0.01, 0.03), eps=0.5, step_size="eps/4").step_attack(step) for step in range(200)]
    drawn = [attack.eps for attack in attacks]
    assert {attack.step_size for attack in attacks} == {"eps/4"}
    assert drawn == [adversary(budget=(0.01, 0.03), eps=0.5).step_attack(step).eps for step in range(200)]
    assert 0.01 <= min(drawn) < 0.0105
    assert 0.0295 < max(drawn) <= 0.03
    assert sum(drawn) / 200 == pytest.approx(0.02, abs=0.0015)


def test_attack_that_mixes_with_another_crop_takes_next_of_batch() -> None:
    net = Watched().eval()
    (images, _, labels) = crops()
    volumes = adversary("faa", steps=1).attack_crops(SegmentationModel(net, ROI), images, labels, 0, [0, 1])
    assert volumes.shape == images.shape
    assert not torch.equal(volumes, images)


def union(mix: str, shares: tuple[float, ...] | None = None) -> MixedAdversary:
    """A weak attack and a strong one, whose crops can be told apart."""
    each = tuple(adversary(eps=eps / 255, steps=2, random_start=False) for eps in (1, 8))
    return MixedAdversary(adversaries=each, mix=mix, shares=shares, seed=3)


def test_random_mix_attacks_by_adversary_drawn_for_first_crop() -> None:
    net = Watched().eval()
    (images, _, labels) = crops()
    mixed = union("random")
    model = SegmentationModel(net, ROI)
    for number in range(8):
        attacked = mixed.attack_crops(model, images, labels, 0, [number, 99])
        assert torch.equal(attacked, mixed.draw_adversary(number).attack_crops(model, images, labels, 0, [number, 99]))
    expected = {each.attack for each in mixed.adversaries}
    assert {mixed.draw_adversary(number).attack for number in range(8)} == expected


@pytest.mark.parametrize(("shares", "second"), [(None, 0.5), ((9, 1), 0.1)])
def test_shares_are_the_probabilities_of_a_random_mix(shares: tuple[float, ...] | None, second: float) -> None:
    mixed = union("random", shares)
    drawn = [mixed.draw_adversary(number) is mixed.adversaries[1] for number in range(2000)]
    assert sum(drawn) / 2000 == pytest.approx(second, abs=0.04)


def test_worst_mix_takes_the_highest_loss_a_crop() -> None:
    net = Watched().eval()
    (images, _, labels) = crops(batch=3)
    mixed = union("worst")
    model = SegmentationModel(net, ROI).eval()
    by_each = [each.attack_crops(model, images, labels, 0, [0, 1, 2]) for each in mixed.adversaries]
    by_each[1][1] = images[1]  # so that the weak attack is the worse one for this crop
    worst = _pick_highest_loss(model, by_each, labels)
    assert [torch.equal(worst[row], by_each[0][row]) for row in range(3)] == [False, True, False]
    assert [torch.equal(worst[row], by_each[1][row]) for row in range(3)] == [True, False, True]
    assert torch.equal(mixed.attack_crops(model, images, labels, 0, [0, 1, 2])[[0, 2]], worst[[0, 2]]), (
        "the mix is of these attacks"
    )
    assert not model.training


def test_average_learns_from_mean_of_losses_under_each_attack() -> None:
    net = Watched().eval()
    (images, attacked, labels) = crops()
    _, terms = objective(net)(images, torch.cat([attacked, images]), labels)
    clean, adversarial = (float(MONAI(net(x), labels)) for x in (images, attacked))
    assert terms[:2].tolist() == pytest.approx([clean, (clean + adversarial) / 2], abs=1e-6)
    model = SegmentationModel(net, ROI)
    every = union("average").attack_crops(model, images, labels, 0, [0, 1])
    assert every.shape[0] == 4
    assert torch.equal(every[2:], union("worst").adversaries[1].attack_crops(model, images, labels, 0, [0, 1]))


def test_trades_adds_the_divergence_from_clean_predictions() -> None:
    net = Watched().eval()
    (images, attacked, labels) = crops()
    loss, terms = StepLoss(net, InputAdapter(), None, half=False, beta=6)(images, attacked, labels)
    of = [torch.distributions.Categorical(logits=net(x).movedim(1, -1)) for x in (images, attacked)]
    distance = float(torch.distributions.kl_divergence(*of).mean())
    assert terms[[0, 2]].tolist() == pytest.approx([float(MONAI(net(images), labels)), 6 * distance], abs=1e-5)
    assert torch.isnan(terms[1])
    assert loss.item() == pytest.approx(float(terms[[0, 2]].sum()), abs=1e-6)


def test_mean_foreground_counts_cases_not_classes() -> None:
    scores = np.array([[0.9, 0.2, 0.4], [0.9, math.nan, 0.7], [1.0, math.nan, math.nan]])
    assert (mean_foreground(scores), mean_foreground(scores[2:])) == (pytest.approx((0.3 + 0.7) / 2), 0)


def test_figures_of_several_attacks_by_hand() -> None:
    """The second case lacks a class, the third all. Means: 0.3 and 0.8 under one attack, 0.5 and 0.4 under another."""
    first = np.array([[0.9, 0.2, 0.4], [0.9, 0.8, math.nan], [0.9, math.nan, math.nan]])
    second = np.array([[0.9, 0.6, 0.4], [0.9, 0.4, math.nan], [0.9, math.nan, math.nan]])
    assert attacked_dice([first, second]) == pytest.approx(((0.3 + 0.8 + 0.5 + 0.4) / 4, (0.3 + 0.4) / 2))
    assert attacked_dice([first]) == pytest.approx((0.55, 0.55))
    assert attacked_dice([first[2:]]) == (0, 0)
    assert np.isnan(attacked_dice([])).all()


def test_each_way_to_choose() -> None:
    scores = [choice(by, clean=0.8, attacked=0.6, worst=0.5) for by in ("clean", "attacked", "mean", "worst")]
    assert scores == pytest.approx([0.8, 0.6, 0.7, 0.5])
