"""BASES: weights that are known, what it asks the network and its surrogates, and what it makes of the answers."""

import math
from typing import Any

import pytest
import torch
from attacks.asked import Asked
from attacks.examples import SmallNet
from attacks.test_rays import Linear, NoBackward
from torch import Tensor, nn

from freqbench.attacks import AttackResult, make
from freqbench.ops.losses import dice_ce
from freqbench.testing import volumes

EPS = 4 / 255
ANGLES = torch.linspace(0, 2 * math.pi, 401, dtype=torch.float64)[:-1].reshape(1, 1, 10, 8, 5)
FIRST = ANGLES.cos()
SECOND = ANGLES.sin()


def mixed(*weights: float) -> Tensor:
    """The signs of the weighted gradients of the surrogates FIRST and SECOND."""
    return (weights[0] * FIRST + weights[1] * SECOND).sign()


def search(victim: nn.Module, batch: int = 1, surrogates: Any = (FIRST, SECOND), **changes: Any) -> AttackResult:
    images = torch.full((batch, *ANGLES.shape[1:]), 0.5, dtype=torch.float64)
    attack = make("bases", **({"eps": EPS, "queries": 41, "weight_step": 0.05, "loss": "ce"} | changes))
    networks = [each if isinstance(each, nn.Module) else Linear(each) for each in surrogates]
    return attack(victim, images, torch.ones_like(images).long(), surrogates=networks)


@pytest.mark.parametrize("best", [(0.8, 0.2), (0.3, 0.7)])
def test_bases_recovers_weights_that_hurt_linear_network_most(best: tuple[float, float]) -> None:
    result = search(Linear(mixed(*best)))
    assert (result.state[0].tolist(), float(result.state.sum())) == (pytest.approx(best, abs=0.05), pytest.approx(1))
    assert ((result.adversarial - 0.5).sign() == mixed(*best)).double().mean() > 0.98


def test_null_row_has_equal_weights_which_hurt_less() -> None:
    """Signs are wrong at angles between the two directions: 2 (45 - 14) of 360 degrees."""
    result = search(Linear(mixed(0.8, 0.2)), control="uniform")
    assert torch.allclose(result.adversarial, 0.5 + EPS * mixed(0.5, 0.5), atol=1e-9)
    assert result.state.tolist() == [[0.5, 0.5]]
    agreed = float(((result.adversarial - 0.5).sign() == mixed(0.8, 0.2)).double().mean())
    assert agreed == pytest.approx(1 - 2 * (45 - math.degrees(math.atan(0.25))) / 360, abs=0.01)


def test_each_sample_has_weights_of_its_own() -> None:
    result = search(Linear(torch.cat([mixed(0.8, 0.2), mixed(0.3, 0.7)])), batch=2)
    assert result.state.flatten().tolist() == pytest.approx([0.8, 0.2, 0.3, 0.7], abs=0.05)


def test_a_weight_does_not_fall_below_zero() -> None:
    result = search(Linear(mixed(1, -1)), weight_step=0.4)
    assert (result.state >= 0).all()
    assert result.state.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("changes", "runs"),
    [
        *(({"control": "uniform", "queries": queries}, queries) for queries in (1, 4)),
        *(({"queries": queries}, runs) for queries, runs in ((1, 1), (2, 2), (3, 2), (4, 3), (5, 3))),
        ({"queries": 4, "surrogates": (FIRST,)}, 4),
    ],
)
def test_each_run_begins_at_the_end_of_the_kept_one(changes: dict[str, Any], runs: int) -> None:
    """Two steps of eps / 20 a query: of a pair of queries one is kept, without a search every one."""
    moved = (search(Linear(FIRST), **changes, steps=2, step_size="eps/20").adversarial - 0.5).abs().max()
    assert float(moved) == pytest.approx(EPS * 2 * runs / 20)


def test_the_paper_s_step_is_three_radii_over_all_steps() -> None:
    moved = search(Linear(FIRST), queries=1, steps=12).adversarial - 0.5
    assert moved.abs().max() == pytest.approx(EPS)


def nets(*seeds: int) -> list[Asked]:
    made = []
    for seed in seeds:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            made.append(Asked(SmallNet()))
            made[-1].net.first.reset_parameters()
    return made


@pytest.mark.parametrize("queries", [1, 6, 7])
@pytest.mark.parametrize("control", ["none", "uniform"])
def test_passes_are_as_declared_and_without_gradient(queries: int, control: str) -> None:
    victim, *surrogates = nets(1, 2, 3)
    attack = make("bases", eps=EPS, queries=queries, steps=3, control=control)
    result = attack(victim, *volumes(), surrogates=surrogates)
    assert (len(victim.volumes), result.forwards, result.backwards) == (queries, (queries,) * 2, (0,) * 2)
    assert not any(victim.with_gradient)
    assert result.losses.shape == (0, 2)
    assert [len(each.volumes) for each in surrogates] == [3 * queries] * 2
    assert all(all(each.with_gradient) for each in surrogates)
    assert attack.passes == (queries, 0)
    assert attack.surrogate_passes == (3 * queries,) * 2


class Sealed(SmallNet):
    """A network without a gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(NoBackward.apply(x))


def test_no_gradient_of_the_network_is_taken() -> None:
    attack = make("bases", eps=EPS, queries=5, steps=2, keep="best")
    (_, *surrogates) = nets(1, 2, 3)
    sealed, open_ = (attack(net, *volumes(), surrogates=surrogates) for net in (Sealed(), SmallNet()))
    assert torch.equal(sealed.adversarial, open_.adversarial)


@pytest.mark.parametrize(("keep", "more"), [("last", 0), ("best", 1)])
def test_result_is_the_queried_volume_of_the_highest_loss(keep: str, more: int) -> None:
    """Sample by sample; the loss is Dice + cross-entropy. It is not the last, and none that surrogates alone saw."""
    victim, *surrogates = nets(1, 2, 3)
    images, labels = volumes(3)
    attack = make("bases", eps=EPS, queries=9, steps=2, step_size="eps/2", weight_step=0.9, keep=keep)
    result = attack(victim, images, labels, surrogates=surrogates)
    losses = torch.stack([dice_ce(logits, labels) for logits in victim.logits])
    assert len(losses) == 9 + more
    assert (losses[7:9] < losses.amax(0)).all(0).any()
    for i, query in enumerate(losses[:9].argmax(0).tolist()):
        assert torch.equal(result.adversarial[i], victim.volumes[query][i])


@pytest.mark.integration
def test_surrogates_go_to_the_networks_least_likely_classes() -> None:
    """The network is sure of class 1 at first, its surrogates of class 0, whose own target would be the other way."""
    surrogates = [Linear(each, bound=-1.0) for each in (FIRST, SECOND)]
    towards, rule = (search(Linear(FIRST), surrogates=surrogates, target=t) for t in ("least-likely", "next-class"))
    assert torch.equal(towards.adversarial, rule.adversarial)
    assert (towards.num_forwards, rule.num_forwards) == (42, 41)
    assert ((rule.adversarial - 0.5) * FIRST).sum() > 0
