"""Steps along a cosine, and losses that follow one another or race, in the search that several attacks share."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from freqbench.attacks import AttackResult, apgd, make
from freqbench.core.errors import ParameterError
from freqbench.ops import heads
from freqbench.ops.losses import EVERYTHING, Loss, Scope, dice, dice_linear, margin_and_dice, mean_dice

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


def test_steps_shrink_along_a_cosine_with_the_momentum_of_auto_pgd() -> None:
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


def test_a_race_takes_the_passes_of_one_loss(legs: list[tuple[str, range, int]]) -> None:
    result = attacked("race")
    *trials, early, late = legs
    assert trials == [(loss, range(3), 17) for loss in ("margin_and_dice", "dice")]
    assert (early, late) == (("winner", range(3, 9), 17), ("winner", range(9, 17), 17))
    assert (result.num_forwards, result.num_backwards) == (21, 20)


@pytest.mark.parametrize(
    ("loser", "winners"),
    [("margin_and_dice", (dice, dice)), ("losses", (margin_and_dice, dice_linear))],
)
def test_a_race_goes_on_with_the_loss_of_the_lower_dice(
    loser: str, winners: tuple[Loss, Loss], monkeypatch: pytest.MonkeyPatch
) -> None:
    losses, glide = [], apgd.glide
    monkeypatch.setattr(apgd, "glide", lambda *words: losses.append(words[-1]) or glide(*words))

    def still(logits: Tensor, labels: Tensor, scope: Scope) -> Tensor:
        return 0 * logits.flatten(1).sum(1)

    idle = {**heads.SOFTMAX.losses, "dice": still} if loser == "losses" else still
    monkeypatch.setattr(heads, "SOFTMAX", replace(heads.SOFTMAX, **{loser: idle}))
    attacked("race")
    logits = Linear()(IMAGES)
    for raised, winner in zip(losses[-2:], winners, strict=True):
        assert torch.equal(raised(logits, LABELS, EVERYTHING), winner(logits, LABELS, EVERYTHING))


def test_each_sample_goes_on_with_its_own_winner() -> None:
    both = torch.cat([IMAGES, IMAGES.flip(2)]), torch.cat([LABELS, LABELS.roll(1, 3)])
    attack = make("apgd", eps=EPS, random_start=False, step_rule="cosine", steps=12, loss="race")
    together = attack(Linear(), *both).adversarial
    for number in range(2):
        alone = attack(Linear(), both[0][number : number + 1], both[1][number : number + 1]).adversarial
        assert torch.allclose(together[number], alone[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_race_of_few_steps_takes_no_more_of_them(steps: int) -> None:
    assert attacked("race", steps).num_backwards == steps


@pytest.mark.parametrize("loss", ["switch", "race"])
def test_losses_that_change_keep_the_volume_of_the_lowest_dice(loss: str) -> None:
    with torch.no_grad():
        best, last = (
            float(mean_dice(Linear()(attacked(loss, keep=keep).adversarial), LABELS)) for keep in ("best", "last")
        )
        clean = float(mean_dice(Linear()(IMAGES), LABELS))
    assert best <= last < clean


@pytest.mark.parametrize("loss", ["switch", "race"])
def test_losses_that_change_need_the_cosine(loss: str) -> None:
    with pytest.raises(ParameterError, match="step_rule: expected cosine beside the loss"):
        attacked(loss, step_rule="halving")
