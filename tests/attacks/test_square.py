"""Square Attack: what it asks the model, what it keeps of it, and by which schedule."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from attacks.asked import EPS, SEEDS, Asked, entropies, run, task
from attacks.examples import generators
from attacks.small import Fixed
from torch import Tensor, nn

from freqbench.attacks import AttackResult, make
from freqbench.attacks.square import share


def search(**changes: Any) -> tuple[Asked, AttackResult]:
    return run("square", **({"queries": 120, "p_init": 0.3, "loss": "ce"} | changes))


def trials(model: Asked, i: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Every query of one sample but the first: its number, the best volume before it, and its own."""
    best = 0
    values = entropies(model, task()[1])[:, i]
    for k in range(1, len(model.volumes)):
        yield k, model.volumes[best][i, 0], model.volumes[k][i, 0]
        if values[k] > values[best]:
            best = k


def test_share_is_halved_as_in_the_authors_code() -> None:
    for halvings, (before, last) in enumerate(pairwise((-1, 10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000, 9999))):
        assert share(0.8, before + 1, 10_000) == share(0.8, last, 10_000) == 0.8 / 2**halvings
    expected = [0.8 / n for n in (1, 4, 4, 8, 512)]
    assert [share(0.8, query, 100) for query in (0, 1, 2, 3, 99)] == expected


@pytest.mark.parametrize("loss", ["ce", "mask-ce"])
def test_square_keeps_each_samples_best_query(loss: str) -> None:
    """The cross-entropy decides, also for a masked loss; a query is one forward pass without a gradient."""
    model, result = search(loss=loss)
    assert (len(model.volumes), any(model.with_gradient)) == (120, False)
    highest = entropies(model, task()[1]).argmax(0).tolist()
    assert len(set(highest)) > 1, "all samples have the same best query: nothing is tested"
    for i, k in enumerate(highest):
        assert torch.equal(result.adversarial[i], model.volumes[k][i])


def test_square_keeps_no_query_that_does_not_raise_the_loss() -> None:
    images, labels = task()
    one, many = (make("square", eps=EPS, queries=n)(Fixed(1), images, labels).adversarial for n in (1, 30))
    assert torch.equal(one, many)


def test_first_query_has_stripes_along_the_first_axis() -> None:
    model, _ = search(eps=0.1)
    images, _ = task()
    inside = (images > 0.1) & (images < 0.9)
    change = torch.where(inside, model.volumes[0] - images, torch.nan)
    assert torch.allclose(change[inside].abs(), torch.tensor(0.1))
    up = change.nan_to_num(-1).amax(dim=2) > 0
    assert not (up & (change.nan_to_num(1).amin(dim=2) < 0)).any()
    assert 0 < up.double().mean() < 1


def test_further_queries_are_one_cube_of_clean_plus_minus_eps() -> None:
    """The cube has the schedule's side, changes the best volume so far, and never changes nothing."""
    model, _ = search()
    images, _ = task()
    low = (images - EPS).clamp(min=0)
    high = (images + EPS).clamp(max=1)
    sides = set()
    for i in range(3):
        for k, before, asked in trials(model, i):
            changed = (asked != before).nonzero()
            assert len(changed) > 0
            side = max(round((share(0.3, k - 1, 120) * before.numel()) ** (1 / 3)), 1)
            assert (changed.amax(0) - changed.amin(0) < side).all()
            edges = [edge[i, 0][tuple(changed.T)] for edge in (low, high)]
            assert any(torch.equal(asked[tuple(changed.T)], edge) for edge in edges)
            sides.add(side)
    assert len(sides) > 2


def test_a_cube_longer_than_the_window_is_cut_to_it() -> None:
    """A share of 0.8 of 8 x 8 x 4 voxels is a side of 6; from a start at -eps the whole cube goes up."""
    images, labels = task()
    model = Asked()
    make("square", eps=EPS, queries=2, p_init=0.8)(model, images, labels, start=torch.full_like(images, -EPS))
    places = set()
    for before, asked in zip(model.volumes[0][:, 0], model.volumes[1][:, 0], strict=True):
        changed = (asked != before).nonzero()
        first = changed.amin(0)
        assert ((changed.amax(0) - first + 1).tolist(), len(changed)) == ([6, 6, 4], 6 * 6 * 4)
        places.add(tuple(first.tolist()))
    assert len(places) > 1


class Corner(nn.Module):
    """Sees class 1 in a corner of 3 x 2 x 2 voxels of the second window alone; its logits follow the voxels."""

    def forward(self, x: Tensor) -> Tensor:
        seen = torch.full_like(x, -9.0)
        seen[1:, :, 5:, 6:, 2:] = 9.0
        return torch.cat([torch.zeros_like(x), seen + x], dim=1)


def moved(aim: str, sample: int, **changes: Any) -> Tensor:
    """Voxels of a sample that some query moved from where the first one put them."""
    images = task()[0]
    model = Asked(Corner())
    settings = {"eps": EPS, "queries": 80, "p_init": 1e-9, "loss": "ce"} | changes
    labels = torch.zeros_like(images, dtype=torch.long)
    make("square", aim=aim, **settings)(model, images, labels, generator=generators(*SEEDS))
    assert len(model.volumes) == 80
    return (torch.stack(model.volumes)[:, sample, 0] != model.volumes[0][sample, 0]).any(dim=0)


def test_aimed_cubes_have_their_middle_on_foreground_predicted() -> None:
    corner = torch.zeros(task()[0].shape[2:], dtype=torch.bool)
    corner[5:, 6:, 2:] = True
    assert torch.equal(moved("foreground", 1), corner)
    assert (moved("window", 1) & ~corner).any()
    without = moved("foreground", 0), moved("window", 0)
    assert (without[0] & ~corner).any(), "a window without foreground is searched everywhere"
    assert torch.equal(*without)
    larger = moved("foreground", 1, p_init=27 / corner.numel())
    grown = torch.zeros_like(corner)
    grown[4:, 5:, 1:] = True
    assert (larger & ~corner).any(), "a cube of three voxels a side reaches one beyond its middle"
    assert not (larger & ~grown).any()
    assert not torch.equal(moved("foreground", 1, norm="l2"), moved("window", 1, norm="l2"))
