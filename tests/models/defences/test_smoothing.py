"""The defence `smoothing`: draws of a whole volume, the median draw, and the logits that an attacker follows."""

from functools import partial

import pytest
import torch
from torch import Tensor

from freqbench.models import SegmentationModel, SlidingWindowModel, prediction
from freqbench.models.defences.base import draw_seed
from freqbench.models.defences.smoothing import Smoothing
from freqbench.models.entry import defence_of
from freqbench.ops.changes import CHANGES
from freqbench.testing import SmallNet

ROI = (8, 8, 8)


def score(labels: Tensor) -> dict[str, float]:
    return {"share": float(labels.float().mean()), "minus": -float(labels.float().mean())}


def brighter(volume: Tensor) -> Tensor:
    return (volume[0, 0] > 0.5).to(torch.uint8)


@pytest.mark.parametrize("samples", [9, 10])
def test_the_prediction_is_the_draw_of_median_score(samples: int) -> None:
    image = torch.rand(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    vote = Smoothing(kind="gain_offset", sigma=0.3, samples=samples).vote(
        partial(map, brighter), image, key=1, judge=score
    )
    assert vote.draws is not None
    assert list(vote.draws["share"]) == sorted(vote.draws["share"])
    assert len(set(vote.draws["share"])) > 1
    assert float(vote.labels.float().mean()) == vote.draws["share"][(samples - 1) // 2]
    assert vote.draws["minus"] == [-value for value in vote.draws["share"][::-1]]


def test_the_sets_of_several_seeds_are_one_large_set() -> None:
    image = torch.rand(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    whole, part = (Smoothing(kind="gain_offset", sigma=0.3, samples=samples) for samples in (9, 3))
    sets = [part.vote(partial(map, brighter), image, 1, score, seed).draws for seed in range(3)]
    pooled = sorted(value for scores in sets if scores for value in scores["share"])
    draws = whole.vote(partial(map, brighter), image, 1, score).draws
    assert draws is not None
    assert pooled == draws["share"]
    assert len(set(pooled)) > 3


@pytest.mark.parametrize("kind", CHANGES)
def test_the_clamp_comes_after_the_draw(kind: str) -> None:
    defence, volume = Smoothing(kind=kind, sigma=0.5), 3 * torch.rand(1, 1, 8, 8, 8) - 1
    noise = torch.randn(CHANGES[kind].layout(volume.shape[1:]), generator=torch.Generator().manual_seed(3))
    assert torch.equal(defence.apply_draw(volume, seed=3), CHANGES[kind].apply(volume, 0.5 * noise[None]).clamp(0, 1))
    assert kind == "voxel_shift" or any(  # which makes no new values, so that either order is one
        not torch.equal(defence.apply_draw(volume, seed), defence.apply_draw(volume.clamp(0, 1), seed))
        for seed in range(9)
    )


@pytest.mark.parametrize("shape", [(8, 8, 8), (12, 8, 8)])
@pytest.mark.parametrize("kind", ["bias_field", "voxels"])
def test_attacker_follows_mean_over_draws_of_whole_volume(kind: str, shape: tuple[int, ...]) -> None:
    net, defence = SmallNet().eval(), Smoothing(kind=kind, sigma=0.3, eot=3)
    bare = SlidingWindowModel(SegmentationModel(net, ROI), window_batch=2)
    model = SlidingWindowModel(SegmentationModel(net, ROI, defence=defence), window_batch=2)
    images = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(0))
    draws = [bare(defence.apply_draw(images, draw_seed(5, draw))).softmax(1) for draw in range(3)]
    assert torch.allclose(model(images, keys=[5]).softmax(1), torch.stack(draws).mean(0), atol=1e-6)
    assert model.takes_keys
    assert model.clamps_last
    assert model.num_forwards == 3 * len(model.windows(images))


def test_one_window_is_attacked_alike_as_a_volume() -> None:
    model = SegmentationModel(SmallNet().eval(), ROI, defence=Smoothing(kind="bias_field", sigma=0.3, eot=2))
    images = torch.rand(1, 1, *ROI)
    assert torch.allclose(model(images, keys=[5]), SlidingWindowModel(model)(images, keys=[5]), atol=1e-5)


def test_a_naive_attacker_sees_one_draw_that_never_changes() -> None:
    model = SegmentationModel(SmallNet().eval(), ROI, defence=Smoothing(kind="bias_field", sigma=0.3), adaptive=False)
    sliding = SlidingWindowModel(model)
    assert not sliding.takes_keys
    assert torch.equal(sliding(images := torch.rand(1, 1, *ROI)), sliding(images))


def test_predictions_differ_with_the_case_and_the_draws_only() -> None:
    model = SegmentationModel(SmallNet().eval(), ROI, defence=Smoothing(kind="voxels", sigma=0.4))
    image = torch.rand(1, *ROI)
    first, again, other = (prediction(model, image, case=case).labels for case in ("a", "a", "b"))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"sigma": 0}, "smoothing.*sigma: .*greater than 0"), ({"kind": "deformation"}, "kind: .*bias_field"),
     ({"samples": 0}, "samples: ")],
)  # fmt: skip
def test_a_wrong_entry_is_refused_in_a_line(changes: dict[str, object], message: str) -> None:
    with pytest.raises(Exception, match=message):
        defence_of({"name": "smoothing", "kind": "voxels", "sigma": 0.1, **changes})
