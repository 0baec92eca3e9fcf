"""`freqbench.testing` passes classes that keep their contract, and says which promise others break."""

import itertools
import math
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
from freqbench.data import CaseRef, NativeCase
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


class DrawsFromTorch(Shift):
    def changed(self, task: Task) -> Tensor:
        return super().changed(task) + 0.01 * torch.rand_like(task.clean)


class DrawsFromElsewhere(Shift):
    def changed(self, task: Task) -> Tensor:
        return super().changed(task) + 0.01 * next(SHIFTS)


class DrawsUnsaid(Shift):
    def changed(self, task: Task) -> Tensor:
        return super().changed(task) + 0.01 * task.draw(torch.rand)


class DrawsNothing(Shift):
    is_stochastic = True


class Couples(Shift):
    def changed(self, task: Task) -> Tensor:
        return super().changed(task) + 0.1 * task.clean.flip(0)


class TakesMore(Shift):
    def changed(self, task: Task) -> Tensor:
        task.gradient(task.clean)
        return super().changed(task)


class Trains(Shift):
    def changed(self, task: Task) -> Tensor:
        next(task.model.parameters()).data += 1e-3
        return super().changed(task)


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (DrawsFromTorch, "expected torch's own generator untouched"),
        (DrawsFromElsewhere, "expected one result for equal seeds"),
        (DrawsUnsaid, "is_stochastic says that it does not draw"),
        (DrawsNothing, "is_stochastic says that it draws"),
        (Couples, "expected a batch to give what its samples give"),
        (TakesMore, r"promised 1 passes per sample, forward or backward, but took \(2, 2\)"),
        (Trains, "expected the model as it was found"),
    ],
)
def test_an_attack_that_breaks_a_promise_is_told_which(attack: type[Shift], message: str) -> None:
    testing.check_attack(Shift())
    with pytest.raises(AssertionError, match=f"{attack.__name__}: {message}"):
        testing.check_attack(attack())


class AnyNumber(Balls):
    def chosen(self, case_ids: Any) -> Any:
        return case_ids


class Twins(Balls):
    def refs(self, split: str | None = None) -> tuple[CaseRef, ...]:
        return super().refs(split)[:1] * 2


class Unplain(Balls):
    def recipe(self) -> dict[str, Any]:
        return {"loader": "balls", "size": {self.side, 1}}


class Restless(Balls):
    def native(self, ref: CaseRef) -> NativeCase:
        return replace(super().native(ref), image=torch.rand(1, *ref.shape))


class OneClass(Balls):
    class_names: ClassVar[tuple[str, ...]] = ("background",)


class Large(Balls):
    def native(self, ref: CaseRef) -> NativeCase:
        return replace(super().native(replace(ref, shape=(30, 30, 30))), ref=ref)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (AnyNumber, "expected the first case with `cases: 1`, got 4"),
        (Twins, "expected a case_id of its own"),
        (Unplain, "expected a recipe of plain JSON"),
        (Restless, "ball_0: expected the same volume"),
        (OneClass, r"ball_0: expected classes in 0\.\.0, got 1"),
        (Large, "ball_0: got more voxels than its reference says"),
    ],
)
def test_a_dataset_that_breaks_a_promise_is_told_which(dataset: type[Balls], message: str) -> None:
    with pytest.raises(AssertionError, match=f"{dataset.__name__}: {message}"):
        testing.check_dataset(dataset(name="balls"))


class Sigmoids(Tiny):
    def forward(self, images: Tensor) -> Tensor:
        return (3 + super().forward(images)).sigmoid()


class Sure(Tiny):
    def forward(self, images: Tensor) -> Tensor:
        return 40 * super().forward(images).argmax(1, keepdim=True).float().repeat(1, 2, 1, 1, 1) + 0 * images


class Normalised(Tiny):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward((images - images.mean()) / images.std())


class Counts(Tiny):
    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(images)


class Fills(Tiny):
    def forward(self, images: Tensor) -> Tensor:
        images.data[:] = 0.5
        return super().forward(images)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Tiny(classes=3), r"expected logits of shape \(1, 2, 8, 8, 8\), got \(1, 3, 8, 8, 8\)"),
        (Sure(classes=2), "expected finite gradients"),
        (Sigmoids(classes=2), r"expected logits, got numbers in \[0, 1\] that do not add up to 1 over classes"),
        (Normalised(classes=2), "expected a batch to give what its samples give"),
        (Counts(classes=2), "expected parameters and buffers as they were"),
        (Fills(classes=2), "expected a network that leaves its input as it is"),
    ],
)
def test_a_network_that_breaks_a_promise_is_told_which(network: nn.Module, message: str) -> None:
    with pytest.raises(AssertionError, match=f"{type(network).__name__}: {message}"):
        testing.check_network(network, num_classes=2, roi=ROI)


class Overlap(LabelMetric):
    """Sound, but for what its subclasses change."""

    title, unit, direction = "Overlap", "fraction", "higher"

    def score(self, pred: Tensor, label: Tensor, num_classes: int, spacing: tuple[float, float, float]) -> list[float]:
        return [float(((pred == k) & (label == k)).sum()) for k in range(num_classes)]


class Untitled(Overlap):
    title = None


class Upwards(Overlap):
    direction = "up"


class Inverted(Overlap):
    direction = "lower"


class Infinite(Overlap):
    def score(self, *given: Any) -> list[float]:
        return [value or math.inf for value in super().score(*given)]


class OneMean(Overlap):
    def score(self, *given: Any) -> Any:
        return super().score(*given)[1]


class Unsteady(Overlap):
    def score(self, *given: Any) -> list[float]:
        return [value + next(SHIFTS) for value in super().score(*given)]


class InPlace(Overlap):
    def score(self, pred: Tensor, *given: Any) -> list[float]:
        return super().score(pred.fill_(1), *given)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (Untitled, "expected texts as title and unit"),
        (Upwards, "expected direction 'higher' or 'lower', got 'up'"),
        (Inverted, "expected lower to be better, got a wrong map with a better value"),
        (Infinite, "expected 2 numbers, one a class, NaN where it has none, got an infinite one"),
        (OneMean, r"expected 2 numbers, one a class, NaN where it has none, got float64 of shape \(\)"),
        (Unsteady, "expected the same values on every call"),
        (InPlace, "changed its maps: work on copies"),
    ],
)
def test_a_metric_that_breaks_a_promise_is_told_which(metric: type[LabelMetric], message: str) -> None:
    testing.check_metric(Overlap())
    with pytest.raises(AssertionError, match=f"{metric.__name__}: {message}"):
        testing.check_metric(metric())
