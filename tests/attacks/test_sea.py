"""SEA: its radii, what its steps are judged by, and what is kept."""

from itertools import pairwise

import pytest
import torch
from attacks.asked import EPS, in_ball, run, scores, task, told
from attacks.small import Net
from torch import nn

from freqbench.attacks import APGD, SEA, make
from freqbench.attacks.task import Task
from freqbench.errors import ParameterError
from freqbench.ops.losses import LOSSES
from freqbench.ops.voxel_losses import EVERYTHING

RADII = (2 * EPS, 1.5 * EPS, EPS)
LOOKS = 14  # of a run with 10 steps: 3, 3 and 4, one at the end of each radius, and one at what the run brings


def test_three_runs_of_auto_pgd_with_the_paper_s_losses_and_radii() -> None:
    runs = SEA(eps=EPS).attacks
    assert {type(attack) for attack in runs} == {APGD}
    assert [attack.loss for attack in runs] == ["mask-ce-balanced", "mask-ce", "js"]
    for attack in runs:
        assert attack.stages == tuple(zip(RADII, (90, 90, 120), strict=True))
        assert attack.random_start


def test_runs_begin_at_the_same_draw_in_the_widest_ball() -> None:
    model, _ = run("sea", steps=10)
    first = model.volumes[0]
    assert torch.equal(first, model.volumes[LOOKS])
    assert torch.equal(first, model.volumes[2 * LOOKS])
    assert RADII[1] < float((first - task()[0]).abs().max()) <= RADII[0] + 1e-6


def test_a_narrower_radius_begins_at_the_worst_of_the_one_before() -> None:
    """By the mean Dice, and of equal ones the last; projected."""
    model, _ = run("sea", steps=10)
    images, _ = task()
    assert len(model.volumes) == 3 * LOOKS
    for i, first in ((i, first) for i in range(3) for first in range(0, 3 * LOOKS, LOOKS)):
        dices = told(model, i)
        for (begin, end), radius in zip(pairwise([first, first + 4, first + 8]), RADII[1:], strict=True):
            worst = max(range(begin, end), key=lambda k: (-dices[k], k))
            low, high = (images[i] - radius).clamp(min=0), (images[i] + radius).clamp(max=1)
            assert torch.equal(model.volumes[end][i], model.volumes[worst][i].clamp(low, high))


def test_the_worst_of_all_that_lies_in_the_ball_is_kept() -> None:
    model, result = run("sea", steps=10)
    inside = in_ball(model)
    assert inside == ([False] * 8 + [True] * 6) * 3
    for i, found in enumerate(scores(result.adversarial)):
        assert found == min(value for value, is_inside in zip(told(model, i), inside, strict=True) if is_inside) < 1


def test_is_at_least_as_strong_as_auto_pgd_with_each_of_its_losses() -> None:
    """At the same steps, radii and draws, window by window."""
    own = scores(run("sea", steps=10)[1].adversarial)
    for attack in SEA(eps=EPS, steps=10).attacks:
        _, alone = run("apgd", steps=10, loss=attack.loss, eps_schedule=attack.eps_schedule)
        assert all(a <= b for a, b in zip(own, scores(alone.adversarial), strict=True))


def test_steps_are_judged_by_the_cross_entropy_for_js_too() -> None:
    images, labels = task()
    work = Task("sea", Net(), images, labels, targeted=False, generator=None, start=None)
    work.aim("js", None, None)
    work.judge(lambda logits: logits.new_zeros(len(logits)), SEA(eps=EPS).compared_by)
    _, value = work.gradient_and_value(images)
    logits = Net()(images)
    assert torch.allclose(value, nn.functional.cross_entropy(logits, labels[:, 0], reduction="none").flatten(1).mean(1))
    assert torch.allclose(work.losses[0], LOSSES["js"](logits, labels, EVERYTHING))


def test_a_window_without_foreground_is_attacked_for_what_it_might_be_taken_for() -> None:
    """Its Dice is the share of voxels that are right, which falls where background becomes something."""
    images, labels = task()
    result = make("sea", eps=EPS, steps=10)(Net(), images, torch.zeros_like(labels))
    with torch.no_grad():
        before, after = ((Net()(x).argmax(1) == 0).sum() for x in (images, result.adversarial))
    assert after < before


def test_passes_are_those_of_three_runs_and_a_look_at_each() -> None:
    assert SEA(eps=EPS).passes == (3 * (300 + 2 + 1 + 1), 900)
    assert SEA(eps=EPS, restarts=2).passes == (3 * (2 * 303 + 1), 1800)


def test_a_radius_without_a_step_is_one_line() -> None:
    with pytest.raises(ParameterError, match=r"^sea: steps: expected at least 4, so that every radius has one, got 3$"):
        SEA(eps=EPS, steps=3)
    assert SEA(eps=EPS, steps=4).passes == (3 * 8, 12)
