"""Auto-PGD and PAdam against sequences worked out by hand; `tests/golden` holds those of authors' code."""

from typing import Any

import numpy as np
import pytest
import torch
from attacks.examples import of_class
from torch import Tensor, nn

from freqbench.attacks import APGD, PAdam, make
from freqbench.attacks.apgd import Pace, checkpoints
from freqbench.attacks.core.values import step_length

SEA = ((2, 0.3), (1.5, 0.3), (1, 0.4))


class Tent(nn.Module):
    """The loss of class 0 is highest where a voxel is `top`, and falls to both sides; it notes where it is asked."""

    def __init__(self, top: float) -> None:
        super().__init__()
        self.top = top
        self.asked = list[Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append(x.detach().flatten(1))
        return torch.cat([torch.zeros_like(x), -100 * (x - self.top).abs()], dim=1)


def climb(top: float, *starts: float, **changes: Any) -> tuple[list[list[float]], list[float]]:
    """Queried and resulting intensities of one voxel a sample, without a draw, in float64."""
    model = Tent(top)
    images = torch.tensor(starts, dtype=torch.float64).reshape(-1, 1, 1, 1, 1)
    by_hand = {"eps": 0.25, "steps": 8, "random_start": False, "loss": "ce", "variant": "paper"}
    result = make("apgd", **(by_hand | changes))(model, images, of_class(images))
    return [asked.flatten().tolist() for asked in model.asked], result.adversarial.flatten().tolist()


@pytest.mark.parametrize(
    ("steps", "released", "expected"),
    [
        (100, False, [22, 41, 57, 70, 80, 87, 93, 99]),  # shares of the steps, rounded up
        (10, False, [3, 5, 6, 7, 8, 9]),
        (1, False, []),
        (50, True, [11, 21, 30, 38, 45]),  # 11 steps, then each time one fewer, down to 3
        (1, True, []),
    ],
)
def test_checkpoints_are_those_of_the_paper_or_of_the_code(steps: int, released: bool, expected: list[int]) -> None:
    assert checkpoints(steps, released=released) == expected


BY_HAND = [0.5, 0.75, 0.4375, 0.625, 0.46875, 0.5625, 0.546875, 0.51171875, 0.5234375]
"""Top at 0.53, from 0.5; checkpoints after 2, 4, 5, 6 and 7 steps. The step is 0.5 and halved, from the best volume on,
after 2 (one rise in two), 4 (one in two), 5 (none) and 7 steps (none); best are 0.5 and, from the sixth step, 0.546875.
"""


def test_apgd_visits_the_points_worked_out_by_hand() -> None:
    asked, _ = climb(0.53, 0.5)
    assert [x for (x,) in asked] == pytest.approx(BY_HAND, abs=1e-12)


@pytest.mark.parametrize(("keep", "asked", "result"), [("best", 4, 0.5), ("last", 3, 0.59375)])
def test_apgd_returns_the_best_or_the_last_point(keep: str, asked: int, result: float) -> None:
    seen, voxels = climb(0.53, 0.5, steps=3, keep=keep)
    assert [x for (x,) in seen] == pytest.approx([0.5, 0.75, 0.6875, 0.59375][:asked], abs=1e-12)
    assert voxels == pytest.approx([result], abs=1e-12)


def first_volumes(start: Tensor | None = None, **changes: Any) -> Tensor:
    """The change of two grey volumes at the start, `[2, N]`."""
    model = Tent(0.5)
    images = torch.full((2, 1, 4, 3, 2), 0.5, dtype=torch.float64)
    attack = make("apgd", eps=0.25, steps=1, loss="ce", **changes)
    attack(model, images, of_class(images), start=start)
    return model.asked[0] - 0.5


def test_released_variant_stretches_draws_but_no_given_start() -> None:
    drawn = first_volumes(variant="paper")
    stretched = first_volumes(variant="released")
    largest = drawn.abs().amax(dim=1, keepdim=True)
    assert (largest < 0.25).all()
    assert torch.allclose(stretched, 0.25 * drawn / largest, rtol=1e-12, atol=0)
    given = torch.full((2, 1, 4, 3, 2), 0.125, dtype=torch.float64)
    assert torch.equal(first_volumes(given, variant="released"), given.flatten(1))


FALL = [100.0 - i for i in range(23)]
"""Never a rise up to the first checkpoint, which halves the step."""


def up_and_down(start: float, rises: int, steps: int) -> list[float]:
    up = [start + i for i in range(rises + 1)]
    return up + [start + rises - 0.1 * i for i in range(1, steps - rises + 1)]


@pytest.mark.parametrize(
    ("values", "halved"),
    [
        ([float(i) for i in range(100)], dict.fromkeys(checkpoints(100, released=False), False)),
        # Of 22 steps up to the first checkpoint 16 rises are too few, 17 are enough.
        (up_and_down(0, 16, 22), {22: True}),
        (up_and_down(0, 17, 22), {22: False}),
        # Of the 16 steps between the second and the third 12 are three of four, which is enough.
        (up_and_down(0, 41 + 11, 57), {22: False, 41: False, 57: True}),
        (up_and_down(0, 41 + 12, 57), {22: False, 41: False, 57: False}),
        # A highest loss that stays halves a step that was kept, but not right after a halving.
        ([0.0, 1000.0, *(float(i) for i in range(40))], {22: False, 41: True}),
        ([*FALL, *(50.0 + i for i in range(19))], {22: True, 41: False}),
        # The step after a halving goes from the best volume, 100: what stays below it is no rise.
        ([*FALL, *up_and_down(90, 14, 18)], {22: True, 41: True}),
        ([*FALL, *up_and_down(101, 14, 18)], {22: True, 41: False}),
    ],
)
def test_a_step_is_halved_by_the_papers_rules(values: list[float], halved: dict[int, bool]) -> None:
    """Each case gives L after every step, and the checkpoints of 100 steps that halve."""
    pace = Pace(100, released=False)
    highest = torch.tensor([-torch.inf])
    halvings = {}
    for i, value in enumerate(values):
        highest = torch.maximum(highest, torch.tensor([value]))
        halves = pace.halves(i, torch.tensor([value]), highest)
        if halves is not None:
            halvings[i] = bool(halves)
    assert halvings == halved


@pytest.mark.parametrize(
    ("top", "changes", "expected", "result"),
    [
        # Out of reach below: to the edge of 2 eps, 1.5 eps and eps, each asked once more before it is left.
        (0.0, {"eps": 0.1, "steps": 10, "eps_schedule": SEA}, [0.5, *[0.3] * 3, *[0.35] * 4, *[0.4] * 5], 0.4),
        # At 2 eps: no volume of the last stage is as bad, and all of the earlier ones are out of bounds.
        (0.7, {"eps": 0.1, "steps": 10, "eps_schedule": SEA}, None, 0.6),
        # One step in the wider ball finds nothing better than 0.5; three in the last one overshoot, as above.
        (0.53, {"steps": 4, "eps_schedule": ((1.2, 0.25), (1, 0.75))}, [0.5, 0.8, 0.5, 0.75, 0.6875, 0.59375], 0.5),
    ],
)
def test_radius_shrinks(top: float, changes: dict[str, Any], expected: list[float] | None, result: float) -> None:
    asked, voxels = climb(top, 0.5, **changes)
    assert expected is None or [x for (x,) in asked] == pytest.approx(expected, abs=1e-12)
    assert voxels == pytest.approx([result], abs=1e-12)


def test_stages_share_all_steps_and_count_their_passes() -> None:
    attack = make("apgd", eps=0.1, steps=300, eps_schedule=[list(pair) for pair in SEA])  # as in a job file
    assert attack == APGD(eps=0.1, steps=300, eps_schedule=SEA)
    assert hash(attack) == hash(APGD(eps=0.1, steps=300, eps_schedule=SEA))
    assert [count for _, count in APGD(eps=0.1, steps=300, eps_schedule=SEA).stages] == [90, 90, 120]
    assert attack.passes == (303, 300)
    assert APGD(eps=0.1, steps=300, eps_schedule=SEA, keep="last").passes == (302, 300)
    assert APGD(eps=0.1, restarts=2).passes == (204, 200)  # a look at the best of each run, by its Dice


class Quadratic(nn.Module):
    """Raising the cross-entropy of class 0 pulls every voxel to `top`; it notes where it is asked."""

    def __init__(self, top: float) -> None:
        super().__init__()
        self.top = top
        self.asked = list[float]()

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append(float(x.detach()))
        return torch.cat([torch.zeros_like(x), -4 * (x - self.top) ** 2], dim=1)


def amsgrad(x: float, top: float, eps: float, step: float, steps: int) -> list[float]:
    """Path of the paper's iteration from x, in plain numbers, on log(1 + exp(-4 (x - top)^2))."""
    clean = x
    path = [x]
    m = v = highest = 0.0
    for t in range(1, steps + 1):
        wrong = 1 / (1 + np.exp(4 * (x - top) ** 2))
        g = -8 * (x - top) * wrong
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g * g
        highest = max(highest, v)
        x += step * (m / (1 - 0.9**t)) / (np.sqrt(highest / (1 - 0.999**t)) + 1e-8)
        x = min(max(x, clean - eps, 0.0), clean + eps, 1.0)
        path.append(x)
    return path


@pytest.mark.parametrize(("top", "eps", "steps"), [(0.53, 0.2, 80), (0.9, 0.05, 12), (-0.02, 0.6, 12)])
def test_the_iteration_is_projected_amsgrad(top: float, eps: float, steps: int) -> None:
    """The three cases swing until gradients fade, run into the edge of the ball, and into the end of the scale."""
    model = Quadratic(top)
    image = torch.full((1, 1, 1, 1, 1), 0.5, dtype=torch.float64)
    result = make("padam", eps=eps, steps=steps, random_start=False)(model, image, of_class(image))
    assert [*model.asked, float(result.adversarial)] == pytest.approx(amsgrad(0.5, top, eps, eps / 4, steps), abs=1e-12)


def test_defaults_are_those_of_the_authors() -> None:
    """200 steps of 2/255 at 8/255 on the cross-entropy, the last volume being the result."""
    attack = PAdam(eps=8 / 255)
    assert step_length(attack.step_size, attack.eps) == pytest.approx(2 / 255)
    assert (attack.passes, attack.loss, attack.keep, attack.random_start) == ((200, 200), "ce", "last", True)


@pytest.mark.parametrize(("top", "best"), [(0.51, 0), (0.56, 1)])
def test_padam_keeps_the_best_of_its_volumes(top: float, best: int) -> None:
    model = Quadratic(top)
    image = torch.full((1, 1, 1, 1, 1), 0.5, dtype=torch.float64)
    attack = make("padam", eps=0.2, steps=3, random_start=False, keep="best")
    intensity = float(attack(model, image, of_class(image)).adversarial)
    assert intensity == min(model.asked, key=lambda x: abs(x - top)) == model.asked[best]
