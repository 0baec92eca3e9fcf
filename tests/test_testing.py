"""`freqbench.testing` passes classes that keep their contract, and says which promise others break."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from toy.attack import Walk
from toy.data import Balls
from toy.net import Tiny

from freqbench import testing
from freqbench.attacks import Attack, Task
from freqbench.data.loaders.phantom import Phantom
from freqbench.metrics import LabelMetric

ROI = (8, 8, 8)
SHIFTS = itertools.count(1)


def test_classes_of_guide_and_phantom_keep_their_contracts() -> None:
    testing.check_attack(Walk(eps=8 / 255))
    testing.check_dataset(Balls(name="balls"))
    testing.check_network(Tiny(classes=2), num_classes=2, roi=ROI)
    testing.check_dataset(Phantom(name="phantom", shape=(24, 20, 16)))  # its recipe has tuples


@dataclass(frozen=True, kw_only=True)
class Shift(Attack):
    """Sound, but for what its subclasses change."""

    name: ClassVar[str] = "shift"
    threat_model: ClassVar[str] = "none"
    budget_name: ClassVar[str | None] = None
    passes = (1, 1)

    def perturb(self, task: Task) -> Tensor:
        return self.changed(task).clamp(0, 1)

    def changed(self, task: Task) -> Tensor:
        return task.clean + 0.01 * task.gradient(task.clean).sign()


def other(base: type, **changes: Any) -> type:
    """A subclass that breaks a promise."""
    return type(f"Other{base.__name__}", (base,), changes)


def moved(by: Callable[[Task], Any]) -> type:
    """`Shift` with a further change of the volume."""
    return other(Shift, changed=lambda self, task: Shift.changed(self, task) + by(task))


def train(task: Task) -> float:
    next(task.model.parameters()).data += 1e-3
    return 0.0


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (moved(lambda task: 0.01 * torch.rand_like(task.clean)), "expected torch's own generator untouched"),
        (moved(lambda task: 0.01 * next(SHIFTS)), "expected one result for equal seeds"),
        (moved(lambda task: 0.01 * task.draw(torch.rand)), "is_stochastic says that it does not draw"),
        (other(Shift, is_stochastic=True), "is_stochastic says that it draws"),
        (moved(lambda task: 0.1 * task.clean.flip(0)), "expected a batch to give what its samples give"),
        (
            moved(lambda task: 0 * task.gradient(task.clean)),
            r"promised 1 passes per sample, forward or backward, but took \(2, 2\)",
        ),
        (moved(train), "expected the model as it was found"),
    ],
)
def test_attack_that_breaks_a_promise_is_named(attack: type[Shift], message: str) -> None:
    testing.check_attack(Shift())
    with pytest.raises(AssertionError, match=f"OtherShift: {message}"):
        testing.check_attack(attack())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chosen": lambda self, case_ids: case_ids}, "expected the first case with `cases: 1`, got 4"),
        ({"refs": lambda self, split=None: Balls.refs(self, split)[:1] * 2}, "expected a case_id of its own"),
        ({"recipe": lambda self: {"loader": "balls", "size": {self.side, 1}}}, "expected a recipe of plain JSON"),
        (
            {"native": lambda self, ref: replace(Balls.native(self, ref), image=torch.rand(1, *ref.shape))},
            "ball_0: expected the same volume",
        ),
        (
            {"class_names": ("background",), "__annotations__": {"class_names": ClassVar[tuple[str, ...]]}},
            r"ball_0: expected classes in 0\.\.0, got 1",
        ),
        (
            {"native": lambda self, ref: replace(Balls.native(self, replace(ref, shape=(30, 30, 30))), ref=ref)},
            "ball_0: got more voxels than its reference says",
        ),
    ],
)
def test_dataset_that_breaks_a_promise_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(AssertionError, match=f"OtherBalls: {message}"):
        testing.check_dataset(other(Balls, **changes)(name="balls"))


def forwarding(change: Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]) -> nn.Module:
    """`Tiny` whose forward pass makes something of the images and of its own pass."""
    network: nn.Module = other(Tiny, forward=lambda self, x: change(x, lambda it: Tiny.forward(self, it)))(classes=2)
    network.register_buffer("calls", torch.zeros(1))
    return network


def fill(images: Tensor, forward: Callable[[Tensor], Tensor]) -> Tensor:
    images.data[:] = 0.5
    return forward(images)


def count(images: Tensor, forward: Callable[[Tensor], Tensor]) -> Tensor:
    NETWORKS["counts"].calls += 1  # type: ignore[operator]
    return forward(images)


NETWORKS: dict[str, nn.Module] = {
    "shape": Tiny(classes=3),
    "sure": forwarding(lambda x, it: 40 * it(x).argmax(1, keepdim=True).float().repeat(1, 2, 1, 1, 1) + 0 * x),
    "sigmoids": forwarding(lambda x, it: (3 + it(x)).sigmoid()),
    "normalised": forwarding(lambda x, it: it((x - x.mean()) / x.std())),
    "counts": forwarding(count),
    "fills": forwarding(fill),
}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shape", r"expected logits of shape \(1, 2, 8, 8, 8\), got \(1, 3, 8, 8, 8\)"),
        ("sure", "expected finite gradients"),
        ("sigmoids", r"expected logits, got numbers in \[0, 1\] that do not add up to 1 over classes"),
        ("normalised", "expected a batch to give what its samples give"),
        ("counts", "expected parameters and buffers as they were"),
        ("fills", "expected a network that leaves its input as it is"),
    ],
)
def test_network_that_breaks_a_promise_is_named(name: str, message: str) -> None:
    with pytest.raises(AssertionError, match=f"(Other)?Tiny: {message}"):
        testing.check_network(NETWORKS[name], num_classes=2, roi=ROI)


class Overlap(LabelMetric):
    """Sound, but for what its subclasses change."""

    title = "Overlap"
    unit = "fraction"
    direction = "higher"

    def score(self, pred: Tensor, label: Tensor, num_classes: int, spacing: tuple[float, float, float]) -> list[float]:
        return [float(((pred == k) & (label == k)).sum()) for k in range(num_classes)]


def scoring(change: Callable[[list[float]], Any]) -> dict[str, Any]:
    return {"score": lambda self, *given: change(Overlap.score(self, *given))}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"title": None}, "expected texts as title and unit"),
        ({"direction": "up"}, "expected direction 'higher' or 'lower', got 'up'"),
        ({"direction": "lower"}, "expected lower to be better, got a wrong map with a better value"),
        (
            scoring(lambda values: [value or math.inf for value in values]),
            "expected 2 numbers, one a class, NaN where it has none, got an infinite one",
        ),
        (
            scoring(lambda values: values[1]),
            r"expected 2 numbers, one a class, NaN where it has none, got float64 of shape \(\)",
        ),
        (scoring(lambda values: [value + next(SHIFTS) for value in values]), "expected the same values on every call"),
        ({"score": lambda self, pred, *more: Overlap.score(self, pred.fill_(1), *more)}, "changed its maps: work on"),
    ],
)
def test_metric_that_breaks_a_promise_is_named(changes: dict[str, Any], message: str) -> None:
    testing.check_metric(Overlap())
    with pytest.raises(AssertionError, match=f"OtherOverlap: {message}"):
        testing.check_metric(other(Overlap, **changes)())
