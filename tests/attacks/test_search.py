"""Steps along a cosine, and losses that change during a run, in the search that several attacks share."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from freqbench.attacks import AttackResult, apgd, make
from freqbench.attacks.core.objective import Objective
from freqbench.core.errors import ParameterError
from freqbench.ops.heads import SOFTMAX
from freqbench.ops.losses import EVERYTHING, Loss, margin, mean_dice

EPS = 0.25


class Linear(nn.Module):
    """Three classes whose logits are linear in each voxel, with slopes of the voxel's own."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.slopes, self.offsets = (torch.randn(1, 3, 6, 5, 4, generator=generator).double() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.offsets + 4 * self.slopes * (x - 0.5)


IMAGES = torch.full((1, 1, 6, 5, 4), 0.5, dtype=torch.float64)
LABELS = Linear().offsets.argmax(1, keepdim=True)


def attacked(loss: str, steps: int = 20, model: nn.Module | None = None, **changes: Any) -> AttackResult:
    settings = {"eps": EPS, "random_start": False, "step_rule": "cosine"} | changes
    return make("apgd", **settings, steps=steps, loss=loss)(model or Linear(), IMAGES, LABELS)


@pytest.fixture
def legs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, range, int]]:
    """Loss, steps and length of each part of a search."""
    parts: list[tuple[str, range, int]] = []
    glide = apgd.glide

    def noted(task: Any, space: Any, points: Any, steps: range, of: int, loss: Any) -> Any:
        parts.append((loss.__name__, steps, of))
        return glide(task, space, points, steps, of, loss)

    monkeypatch.setattr(apgd, "glide", noted)
    return parts


class Waves(Linear):
    """Logits that rise and fall several times within reach, so that steps of another length end elsewhere."""

    def forward(self, x: Tensor) -> Tensor:
        return self.offsets + self.slopes * (20 * x).sin()


def test_steps_shrink_along_cosine_with_momentum_of_auto_pgd() -> None:
    model, x, steps = Waves(), IMAGES.clone(), 6
    previous = x
    for i in range(steps):
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(model(x), LABELS[:, 0]), x)
        size = EPS * (0.05 + 1.95 * (1 + math.cos(math.pi * i / steps)) / 2)
        ahead = (x.detach() + size * gradient.sign()).clamp(0.5 - EPS, 0.5 + EPS)
        if i:
            ahead = (x + 0.75 * (ahead - x) + 0.25 * (x - previous)).clamp(0.5 - EPS, 0.5 + EPS)
        x, previous = ahead.detach(), x.detach()
    assert torch.allclose(attacked("ce", steps, model, keep="last").adversarial, x, rtol=0, atol=1e-12)


def test_a_switch_changes_the_loss_halfway(legs: list[tuple[str, range, int]]) -> None:
    attacked("switch", 5)
    assert legs == [("margin_and_dice", range(3), 5), ("dice_linear", range(3, 5), 5)]


def test_auto_takes_the_passes_of_one_loss() -> None:
    result = attacked("auto")
    assert (result.num_forwards, result.num_backwards) == (21, 20)


@pytest.mark.parametrize(("loss", "compared"), [("auto", 1), ("dice", 7)])
def test_rankless_losses_are_computed_at_the_end(loss: str, compared: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hard Dice ranks the volumes of losses that change."""
    calls, own = [], Objective.compared
    monkeypatch.setattr(Objective, "compared", lambda self, *given: calls.append(loss) or own(self, *given))
    attacked(loss, 6)
    assert len(calls) == compared


def objectives(*logits: Tensor, labels: Tensor, steps: int = 20, loss: str = "auto") -> list[Tensor]:
    """Gradients of the loss `auto` or `horizon` with respect to the logits of one step after another."""
    auto, gradients = apgd.RULES[loss](SOFTMAX, steps), []
    for given in logits:
        point = given.clone().requires_grad_()
        gradients.extend(torch.autograd.grad(auto(point, labels, EVERYTHING).sum(), point))
    return gradients


def two_classes(margins: list[float]) -> Tensor:
    """Logits of voxels with these margins, if the first half has label 0 and the second label 1."""
    m, half = torch.tensor(margins, dtype=torch.float64), len(margins) // 2
    return torch.stack([-m / 2, m / 2]).mul(torch.tensor([1.0] * half + [-1.0] * half)).reshape(1, 2, -1, 1, 1)


HALVES = torch.tensor([0, 0, 0, 1, 1, 1]).reshape(1, 1, -1, 1, 1)


def test_auto_raises_the_margin_where_all_voxels_may_fall() -> None:
    before, after, last = (two_classes([-9, -5, m, -9, -6, m]) for m in (-8, -5, -2))
    weak = two_classes([-9, -5, -7.9, -9, -6, -7.9])
    for given, got in zip((after, last), objectives(before, after, last, labels=HALVES)[1:], strict=True):
        assert torch.equal(got, gradient_of(margin, given))
    assert not torch.equal(objectives(before, weak, labels=HALVES)[1], gradient_of(margin, weak))
    assert not torch.equal(objectives(before, after, labels=HALVES, steps=2)[1], gradient_of(margin, after))


def gradient_of(loss: Loss, logits: Tensor) -> Tensor:
    point = logits.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(point, HALVES, EVERYTHING).sum(), point)
    return slope


@pytest.mark.parametrize(("loss", "steps"), [("auto", 20), ("auto", 60), ("horizon", 20), ("horizon", 60)])
def test_auto_weighs_a_flip_by_cost_and_by_steps_left(loss: str, steps: int) -> None:
    """Background that is right (numbers 0 and 2) changes most, which `auto` alone counts: the others change by 0.3."""
    margins, changes = [-9.0, 1.0, -0.5, -8.0, -1.0, 6.0], [2.0, 0.3, 1.0, 0.3, 0.3, 0.3]
    before = two_classes([m - change for m, change in zip(margins, changes, strict=True)])
    *_, got = objectives(before, two_classes(margins), labels=HALVES, steps=steps, loss=loss)
    # Label 1: 3 voxels, 3 are predicted (numbers 1, 3 and 4), 2 of them rightly.
    dice, total = 2 * 2 / 6, 6
    costs = [dice / total] * 3 + [(2 - dice) / total] * 3
    lengths = [0.05 + 1.95 * (1 + math.cos(math.pi * k / steps)) / 2 for k in range(steps)]
    unit = 20 / steps if loss == "horizon" else 1
    r = 0.3 / 2 if loss == "horizon" else math.sqrt(sum(change**2 for change in changes) / 6)
    spread, reach = r * math.sqrt(unit * (steps - 1)), r * unit * sum(lengths[1:]) / lengths[0]
    for m, cost, side, slope in zip(margins, costs, [1, 1, 1, -1, -1, -1], got[0, 1, :, 0, 0], strict=True):
        share = 4 / (1 + math.exp(m / spread)) / (1 + math.exp(-(m + reach) / spread))
        assert float(slope) == pytest.approx(side * share * cost, rel=1e-9)


def test_each_sample_goes_on_by_its_own_reach() -> None:
    both = torch.cat([IMAGES, IMAGES.flip(2)]), torch.cat([LABELS, LABELS.roll(1, 3)])
    attack = make("apgd", eps=EPS, random_start=False, step_rule="cosine", steps=12, loss="auto")
    together = attack(Linear(), *both).adversarial
    for number in range(2):
        alone = attack(Linear(), both[0][number : number + 1], both[1][number : number + 1]).adversarial
        assert torch.allclose(together[number], alone[0], rtol=0, atol=1e-12)


def test_auto_is_a_switch_towards_a_target(legs: list[tuple[str, range, int]]) -> None:
    attacked("auto", 4, targeted=True)
    attacked("auto", 4, target="next-class")
    assert legs == [("margin_and_dice", range(2), 4), ("dice_linear", range(2, 4), 4)] * 2


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_auto_takes_no_more_than_few_steps(steps: int) -> None:
    assert attacked("auto", steps).num_backwards == steps


@pytest.mark.parametrize("loss", ["switch", "auto"])
def test_losses_that_change_keep_the_volume_of_the_lowest_dice(loss: str) -> None:
    with torch.no_grad():
        best, last = (float(mean_dice(Linear()(attacked(loss, keep=k).adversarial), LABELS)) for k in ("best", "last"))
        clean = float(mean_dice(Linear()(IMAGES), LABELS))
    assert best <= last < clean


@pytest.mark.parametrize("loss", ["switch", "auto"])
def test_losses_that_change_need_the_cosine(loss: str) -> None:
    with pytest.raises(ParameterError, match="step_rule: expected cosine beside the loss"):
        attacked(loss, step_rule="halving")
