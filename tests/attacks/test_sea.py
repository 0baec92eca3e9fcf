"""SEA: its radii, what its steps are judged by, and what is kept."""

from itertools import pairwise

import pytest
import torch
from attacks.asked import EPS, SEEDS, Asked, in_ball, run, scores, task, told
from attacks.examples import generators
from attacks.small import Net
from torch import nn

from freqbench.attacks import SEA, make

RADII = (2 * EPS, 1.5 * EPS, EPS)
LOOKS = 14  # of a run with 10 steps: 3, 3 and 4, one at the end of each radius, and one at what the run brings


def test_four_runs_of_auto_pgd_with_the_radii_of_the_paper() -> None:
    """The loss of SegPGD is the masked cross-entropy at first."""
    runs = SEA(eps=EPS).attacks
    assert SEA(eps=EPS).losses == ("dice", "mask-ce-balanced", "js", "segpgd")
    assert [attack.loss for attack in runs] == ["dice", "mask-ce-balanced", "js", "mask-ce"]
    for attack in runs:
        assert attack.stages == tuple(zip(RADII, (90, 90, 120), strict=True))
        assert attack.random_start


def test_runs_begin_at_the_same_draw_in_the_widest_ball() -> None:
    model, _ = run("sea", steps=10)
    first = model.volumes[0]
    assert all(torch.equal(first, model.volumes[k * LOOKS]) for k in range(4))
    assert RADII[1] < float((first - task()[0]).abs().max()) <= RADII[0] + 1e-6


@pytest.mark.parametrize("loss", ["mask-ce", "segpgd"])
def test_a_narrower_radius_begins_at_the_best_of_the_one_before(loss: str) -> None:
    """By the cross-entropy, as Auto-PGD alone, not by the Dice; projected."""
    model, _ = run("sea", steps=10, losses=(loss,))
    images, labels = task()
    differ = False
    for i in range(3):
        values = [nn.functional.cross_entropy(z[i : i + 1], labels[i]).item() for z in model.logits]
        for (begin, end), radius in zip(pairwise([0, 4, 8]), RADII[1:], strict=True):
            best = max(range(begin, end), key=lambda k: values[k])
            differ = differ or told(model, i)[best] > min(told(model, i)[begin:end])
            low, high = (images[i] - radius).clamp(min=0), (images[i] + radius).clamp(max=1)
            assert torch.equal(model.volumes[end][i], model.volumes[best][i].clamp(low, high))
    assert differ, "the Dice would say the same everywhere: nothing is tested"


def test_the_loss_of_segpgd_turns_to_wrong_voxels_within_each_radius() -> None:
    """Its values before each step are those of the formula, lambda = i / (2 T), T = 3, 3 and 4."""
    images, labels = task()
    model = Asked()
    result = make("sea", eps=EPS, steps=10, losses=("segpgd",))(model, images, labels, generator=generators(*SEEDS))
    looked = [z for k, z in enumerate(model.logits) if k not in (3, 7, 12, 13)]
    lambdas = [0, 1 / 6, 2 / 6, 0, 1 / 6, 2 / 6, 0, 1 / 8, 2 / 8, 3 / 8]
    for loss, share, logits in zip(result.losses, lambdas, looked, strict=True):
        ce = nn.functional.cross_entropy(logits, labels[:, 0], reduction="none")
        right = logits.argmax(1) == labels[:, 0]
        expected = torch.where(right, (1 - share) * ce, share * ce).flatten(1).mean(1)
        assert torch.allclose(loss, expected, atol=1e-6)


def test_the_worst_of_all_that_lies_in_the_ball_is_kept() -> None:
    model, result = run("sea", steps=10)
    inside = in_ball(model)
    assert inside == ([False] * 8 + [True] * 6) * 4
    for i, found in enumerate(scores(result.adversarial)):
        assert found == min(value for value, is_inside in zip(told(model, i), inside, strict=True) if is_inside) < 1


def test_a_window_without_foreground_is_attacked_for_what_it_might_be_taken_for() -> None:
    """Its Dice is the share of voxels that are right, which falls where background becomes something."""
    images, labels = task()
    result = make("sea", eps=EPS, steps=10)(Net(), images, torch.zeros_like(labels))
    with torch.no_grad():
        before, after = ((Net()(x).argmax(1) == 0).sum() for x in (images, result.adversarial))
    assert after < before


def test_passes_are_those_of_all_runs_and_a_look_at_each() -> None:
    assert SEA(eps=EPS).passes == (4 * (300 + 2 + 1 + 1), 1200)
    assert SEA(eps=EPS, restarts=2).passes == (4 * (2 * 304 + 1), 2400)
