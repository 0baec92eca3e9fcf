"""Auto-PGD against sequences worked out by hand, and against PGD."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from freqbench.attacks import APGD, make
from freqbench.attacks.apgd import Pace, checkpoints

SEA = ((2, 0.3), (1.5, 0.3), (1, 0.4))


class Tent(nn.Module):
    """The loss of class 0 is highest where a voxel is `top`, and falls to both sides; it notes where it is asked."""

    def __init__(self, top: float) -> None:
        super().__init__()
        self.top, self.asked = top, list[list[float]]()

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append(x.detach().flatten().tolist())
        return torch.cat([torch.zeros_like(x), -100 * (x - self.top).abs()], dim=1)


def climb(top: float, *starts: float, **changes: Any) -> tuple[list[list[float]], list[float]]:
    """Where the model was asked and what came out, for one voxel a sample, without a draw, in float64."""
    model = Tent(top)
    images = torch.tensor(starts, dtype=torch.float64).reshape(-1, 1, 1, 1, 1)
    by_hand = {"eps": 0.25, "steps": 8, "random_start": False, "loss": "ce", "variant": "paper"}
    attack = make("apgd", **(by_hand | changes))
    result = attack(model, images, torch.zeros_like(images, dtype=torch.long))
    return model.asked, result.adversarial.flatten().tolist()


def test_checkpoints_are_those_of_the_paper() -> None:
    """0.22, 0.41, 0.57, 0.70, 0.80, 0.87, 0.93 and 0.99 of the steps, rounded up."""
    assert checkpoints(100, released=False) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(10, released=False) == [3, 5, 6, 7, 8, 9]
    assert checkpoints(1, released=False) == []


BY_HAND = [0.5, 0.75, 0.4375, 0.625, 0.46875, 0.5625, 0.546875, 0.51171875, 0.5234375]
"""Top at 0.53, from 0.5; checkpoints after 2, 4, 5, 6 and 7 steps. The step is 0.5 and halved, from the best volume on,
after 2 (one rise in two), 4 (one in two), 5 (none) and 7 steps (none); best are 0.5 and, from the sixth step, 0.546875.
"""


def test_steps_halve_as_worked_out_by_hand() -> None:
    asked, _ = climb(0.53, 0.5)
    assert [x for (x,) in asked] == pytest.approx(BY_HAND, abs=1e-12)


AS_RELEASED = [0.5, 0.75, 0.4375, 0.625, 0.59375, 0.5234375, 0.599609375, 0.5703125, 0.53515625]
"""The same with a checkpoint after each step. The first step counts as a rise, whatever it led to; after 2 steps the
best is still the start, after 3 the loss is below that of the step that was left, and after 6 below the last one.
"""


def test_steps_halve_as_worked_out_by_hand_from_the_released_code() -> None:
    asked, result = climb(0.53, 0.5, variant="released")
    assert [x for (x,) in asked] == pytest.approx(AS_RELEASED, abs=1e-12)
    assert result == pytest.approx(AS_RELEASED[-1:], abs=1e-12)


def first_volumes(**changes: Any) -> Tensor:
    """The change of two grey volumes at the start, `[2, N]`."""
    asked, images = list[Tensor](), torch.full((2, 1, 4, 3, 2), 0.5, dtype=torch.float64)
    model = Tent(0.5)
    model.register_forward_hook(lambda _, inputs, output: asked.append(inputs[0].detach()))
    make("apgd", eps=0.25, steps=1, loss="ce", **changes)(model, images, torch.zeros_like(images, dtype=torch.long))
    return (asked[0] - images).flatten(1)


def test_the_released_code_stretches_the_draw_of_each_sample_to_eps() -> None:
    drawn, stretched = first_volumes(variant="paper"), first_volumes(variant="released")
    largest = drawn.abs().amax(dim=1, keepdim=True)
    assert bool((largest < 0.25).all())
    assert torch.allclose(stretched, 0.25 * drawn / largest, rtol=1e-12, atol=0)


def test_a_start_that_is_given_is_not_stretched() -> None:
    images = torch.full((1, 1, 1, 1, 2), 0.5, dtype=torch.float64)
    model = Tent(0.5)
    attack = make("apgd", eps=0.25, steps=1, variant="released")
    attack(model, images, torch.zeros_like(images, dtype=torch.long), start=torch.full_like(images, 0.125))
    assert model.asked[0] == [0.625, 0.625]


def test_checkpoints_of_the_released_code() -> None:
    """int(0.22 * 50) = 11 steps, then each time int(0.03 * 50) = 1 fewer, down to int(0.06 * 50) = 3; at least 1."""
    assert checkpoints(50, released=True) == [11, 21, 30, 38, 45]
    assert checkpoints(100, released=True) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(5, released=True) == [1, 2, 3, 4]
    assert checkpoints(1, released=True) == []


def test_the_best_point_is_kept_and_the_last_one_where_asked_for() -> None:
    """Three steps overshoot, halved after the first and the second."""
    for keep, asked, result in (("best", 4, 0.5), ("last", 3, 0.59375)):
        seen, found = climb(0.53, 0.5, steps=3, keep=keep)
        assert [x for (x,) in seen] == pytest.approx([0.5, 0.75, 0.6875, 0.59375][:asked], abs=1e-12)
        assert found == pytest.approx([result], abs=1e-12)


def test_each_sample_halves_its_own_step() -> None:
    """One whose top is out of reach goes straight to the edge of its ball and stays there."""
    both, _ = climb(0.53, 0.5, 0.1)
    assert [x for x, _ in both] == pytest.approx(BY_HAND, abs=1e-12)
    assert {x for _, x in both[1:]} == {0.35}


def observe(values: list[float], steps: int) -> dict[int, bool]:
    """At which checkpoints a step is halved, given L after every step."""
    pace, highest, found = Pace(steps, released=False), torch.tensor([-torch.inf]), {}
    for i, value in enumerate(values):
        highest = torch.maximum(highest, torch.tensor([value]))
        halves = pace.halves(i, torch.tensor([value]), highest)
        if halves is not None:
            found[i] = bool(halves)
    return found


def test_a_step_that_always_pays_is_kept() -> None:
    assert observe([float(i) for i in range(100)], 100) == dict.fromkeys(checkpoints(100, released=False), False)


def test_a_step_that_pays_in_fewer_than_three_of_four_is_halved() -> None:
    """22 steps up to the first checkpoint: 16 rises are too few, 17 are enough."""
    for rises, halves in ((16, True), (17, False)):
        up = [float(i) for i in range(rises + 1)]
        down = [rises - 0.1 * i for i in range(1, 23 - rises)]
        assert observe(up + down, 100) == {22: halves}


def test_a_step_that_pays_in_exactly_three_of_four_is_kept() -> None:
    """16 steps from the second checkpoint to the third: 12 rises are enough, as in the paper, 11 are not."""
    for rises, halves in ((11, True), (12, False)):
        up = [float(i) for i in range(42 + rises)]
        down = [41 + rises - 0.1 * i for i in range(1, 17 - rises)]
        assert observe(up + down, 100) == {22: False, 41: False, 57: halves}


def test_a_highest_loss_that_stays_halves_a_step_that_was_kept() -> None:
    """A peak at the first step, then rises below it."""
    values = [0.0, 1000.0, *(float(i) for i in range(40))]
    assert observe(values, 100) == {22: False, 41: True}


FALL = [100.0 - i for i in range(23)]
"""Never a rise up to the first checkpoint, which halves the step."""


def test_a_highest_loss_that_stays_is_no_reason_right_after_a_halving() -> None:
    """Rises below the highest all the way to the second checkpoint."""
    assert observe([*FALL, *(50.0 + i for i in range(19))], 100) == {22: True, 41: False}


def test_the_step_after_a_halving_goes_from_the_best_volume() -> None:
    """It leads above the last loss and below the best: no rise, so that 14 of 19 are left, which is too few."""
    for after, halves in ((90.0, True), (101.0, False)):
        up = [after + i for i in range(15)]
        assert observe([*FALL, *up, *(up[-1] - i for i in range(1, 5))], 100) == {22: True, 41: halves}


def test_the_radius_shrinks_from_the_best_of_each_stage() -> None:
    """Top out of reach below: to the edge of 2 eps, 1.5 eps and eps, each asked once more before it is left."""
    asked, result = climb(0.0, 0.5, eps=0.1, steps=10, eps_schedule=SEA)
    assert [x for (x,) in asked] == pytest.approx([0.5, *[0.3] * 3, *[0.35] * 4, *[0.4] * 5], abs=1e-12)
    assert result == pytest.approx([0.4], abs=1e-12)


def test_what_was_best_in_a_wider_ball_is_no_result() -> None:
    """Top at 2 eps: no volume of the last stage is as bad, and all of the earlier ones are out of bounds."""
    _, result = climb(0.7, 0.5, eps=0.1, steps=10, eps_schedule=SEA)
    assert result == pytest.approx([0.6], abs=1e-12)


def test_the_best_of_the_last_stage_is_kept() -> None:
    """One step in the wider ball finds nothing better than 0.5; three in the last one overshoot, as above."""
    asked, result = climb(0.53, 0.5, steps=4, eps_schedule=((1.2, 0.25), (1, 0.75)))
    assert [x for (x,) in asked] == pytest.approx([0.5, 0.8, 0.5, 0.75, 0.6875, 0.59375], abs=1e-12)
    assert result == pytest.approx([0.5], abs=1e-12)


def test_stages_share_all_steps_and_count_their_passes() -> None:
    attack = APGD(eps=0.1, steps=300, eps_schedule=SEA)
    assert [count for _, count in attack.stages] == [90, 90, 120]
    assert attack.passes == (303, 300)
    assert APGD(eps=0.1, steps=300, eps_schedule=SEA, keep="last").passes == (302, 300)
    assert APGD(eps=0.1, restarts=2).passes == (204, 200)  # a look at the best of each run, by its Dice


def test_a_schedule_as_a_job_file_writes_it_is_the_same_attack() -> None:
    written = make("apgd", eps=0.1, eps_schedule=[[2, 0.3], [1.5, 0.3], [1, 0.4]])
    assert written == APGD(eps=0.1, eps_schedule=SEA)
    assert hash(written) == hash(APGD(eps=0.1, eps_schedule=SEA))
