"""Attacks that share the passes of a network."""

import signal
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from attacks.examples import GRADIENT, SmallNet, example, generators, volumes
from torch import Tensor, nn

from freqbench.attacks import AttackResult
from freqbench.attacks.core.in_step import in_step

SHARING = [name for name in GRADIENT if not example(name).needs and not example(name).couples_batch]


class Counted(SmallNet):
    """Counts its passes, and the samples of each; from `fails` on they fail."""

    def __init__(self, fails: int = 1000) -> None:
        super().__init__()
        self.sizes, self.fails = list[int](), fails
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        if len(self.sizes) > self.fails:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(x)


def call(name: str, seed: int, **changes: Any) -> Callable[[nn.Module], AttackResult]:
    images, labels = volumes()
    return lambda network: example(name, **changes)(network, images, labels, generator=generators(seed, seed + 1))


def sizes_of(calls: list[Callable[[nn.Module], Any]]) -> list[int]:
    network = Counted()
    in_step(network, calls)
    return network.sizes


def test_every_attack_makes_in_step_the_volumes_that_it_makes_alone() -> None:
    calls = [partial(call(name, seed)) for seed, name in enumerate(SHARING)]
    alone, network = [each(Counted()) for each in calls], Counted()
    for name, one, other in zip(SHARING, alone, in_step(network, calls), strict=True):
        assert isinstance(other, AttackResult), other
        torch.testing.assert_close(other.adversarial, one.adversarial, atol=2e-6, rtol=0, msg=name)
        torch.testing.assert_close(other.losses, one.losses, atol=1e-5, rtol=1e-5, msg=name)
        assert (other.forwards, other.backwards) == (one.forwards, one.backwards)
    assert len(network.sizes) == max(max(one.forwards) for one in alone), "the passes of the longest serve all"
    assert sum(network.sizes) == 2 * sum(max(one.forwards) for one in alone)


def test_budgets_and_seeds_share_passes_and_a_longer_attack_goes_on_alone() -> None:
    budgets = [call("pgd", seed, eps=eps, steps=4) for eps in (2 / 255, 8 / 255) for seed in (0, 7)]
    assert sizes_of(budgets) == [8, 8, 8, 8]
    assert sizes_of([*budgets, call("pgd", 3, steps=6)]) == [10, 10, 10, 10, 2, 2]


def test_an_attack_that_looks_once_more_stays_in_step_with_the_others() -> None:
    """A pass without a gradient puts it behind; the others wait for it, or none would share a pass from there on."""
    images, _ = volumes()
    ahead = call("pgd", 0, steps=4)

    def behind(network: nn.Module) -> AttackResult:
        with torch.no_grad():
            network(images)
        return ahead(network)

    assert sizes_of([ahead, behind]) == [4, 4, 4, 4, 2]


def test_an_error_is_its_own_and_a_failed_pass_is_that_of_all_who_waited() -> None:
    def broken(network: nn.Module) -> AttackResult:
        network(volumes()[0])
        raise ZeroDivisionError("mine")

    error, result = in_step(Counted(), [broken, call("pgd", 0)])
    assert str(error) == "mine"
    torch.testing.assert_close(result.adversarial, call("pgd", 0)(Counted()).adversarial)
    assert [type(each) for each in in_step(Counted(fails=3), [call("pgd", 0), call("apgd", 1), call("gn", 2)])] == [
        torch.OutOfMemoryError,
        torch.OutOfMemoryError,
        AttackResult,
    ]


def test_a_network_that_exits_lets_nobody_wait() -> None:
    class Exits(SmallNet):
        def forward(self, x: Tensor) -> Tensor:
            raise SystemExit(3)

    assert [type(each) for each in in_step(Exits().eval(), [call("pgd", 0), call("pgd", 1)])] == [SystemExit] * 2


def test_an_interrupt_ends_all() -> None:
    network = Counted()

    def interrupted(seat: nn.Module) -> Tensor:
        signal.raise_signal(signal.SIGINT)
        while True:
            seat(volumes()[0])

    with pytest.raises(KeyboardInterrupt):
        in_step(network, [interrupted, call("pgd", 0, steps=10**6)])
    for thread in threading.enumerate():
        if thread.name.startswith("in-step"):
            thread.join(timeout=60)
            assert not thread.is_alive()
