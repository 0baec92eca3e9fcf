"""`smoothing` and `randomized_smoothing`: draws, votes, logits for attackers, and certificates that hold."""

import math
from functools import partial
from statistics import NormalDist

import numpy as np
import pytest
import torch
from draws import seeded
from scipy import stats
from torch import Tensor

from freqbench.analysis.statistics import holm
from freqbench.models import SegmentationModel, SlidingWindowModel, prediction
from freqbench.models.defences.base import draw_seed
from freqbench.models.defences.randomized_smoothing import RandomizedSmoothing, holm_rejected, largest
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
    image = torch.rand(1, 1, 8, 8, 8, generator=seeded(0))
    vote = Smoothing(kind="gain_offset", sigma=0.3, samples=samples).vote(
        partial(map, brighter), image, key=1, judge=score
    )
    assert vote.draws is not None
    assert list(vote.draws["share"]) == sorted(vote.draws["share"])
    assert len(set(vote.draws["share"])) > 1
    assert float(vote.labels.float().mean()) == vote.draws["share"][(samples - 1) // 2]
    assert vote.draws["minus"] == [-value for value in vote.draws["share"][::-1]]


def test_the_sets_of_several_seeds_are_one_large_set() -> None:
    image = torch.rand(1, 1, 8, 8, 8, generator=seeded(0))
    whole, part = (Smoothing(kind="gain_offset", sigma=0.3, samples=samples) for samples in (9, 3))
    sets = [part.vote(partial(map, brighter), image, 1, score, seed).draws for seed in range(3)]
    pooled = sorted(value for scores in sets if scores for value in scores["share"])
    draws = whole.vote(partial(map, brighter), image, 1, score).draws
    assert draws is not None
    assert pooled == draws["share"]
    assert len(set(pooled)) > 3


@pytest.mark.parametrize("kind", CHANGES)
def test_the_clamp_comes_after_the_draw(kind: str) -> None:
    defence = Smoothing(kind=kind, sigma=0.5)
    volume = 3 * torch.rand(1, 1, 8, 8, 8) - 1
    noise = torch.randn(CHANGES[kind].layout(volume.shape[1:]), generator=seeded(3))
    assert torch.equal(defence.apply_draw(volume, seed=3), CHANGES[kind].apply(volume, 0.5 * noise[None]).clamp(0, 1))
    assert kind == "voxel_shift" or any(  # which makes no new values, so that either order is one
        not torch.equal(defence.apply_draw(volume, seed), defence.apply_draw(volume.clamp(0, 1), seed))
        for seed in range(9)
    )


@pytest.mark.parametrize("shape", [(8, 8, 8), (12, 8, 8)])
@pytest.mark.parametrize("kind", ["bias_field", "voxels"])
def test_attacker_follows_mean_over_draws_of_whole_volume(kind: str, shape: tuple[int, ...]) -> None:
    net = SmallNet().eval()
    defence = Smoothing(kind=kind, sigma=0.3, eot=3)
    bare = SlidingWindowModel(SegmentationModel(net, ROI), window_batch=2)
    model = SlidingWindowModel(SegmentationModel(net, ROI, defence=defence), window_batch=2)
    images = torch.rand(1, 1, *shape, generator=seeded(0))
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
    [
        ({"sigma": 0}, "smoothing.*sigma: .*greater than 0"),
        ({"kind": "deformation"}, "kind: .*bias_field"),
        ({"samples": 0}, "samples: "),
    ],
)
def test_a_wrong_entry_is_refused_in_a_line(changes: dict[str, object], message: str) -> None:
    with pytest.raises(Exception, match=message):
        defence_of({"name": "smoothing", "kind": "voxels", "sigma": 0.1, **changes})


@pytest.mark.parametrize(("tau", "alpha"), [(0.5, 0.05), (0.75, 0.001), (0.9, 0.9)])
def test_rejected_voxels_are_holms_on_scipys_tests(tau: float, alpha: float) -> None:
    counts = torch.from_numpy(np.random.default_rng(0).binomial(60, np.linspace(tau, 1, 400), 400)).reshape(20, 20)
    tail = [stats.binomtest(int(count), 60, tau, alternative="greater").pvalue for count in counts.flatten()]
    expected = (holm(tail) <= alpha).reshape(20, 20)
    assert 0 < expected.sum() < 400
    assert np.array_equal(holm_rejected(counts, 60, tau, alpha).numpy(), expected)


def constant(volume: Tensor) -> Tensor:
    """Class 2 wherever it looks."""
    return torch.full(volume.shape[2:], 2, dtype=torch.uint8)


def threshold(volume: Tensor) -> Tensor:
    """Class 1 above 0.5: under noise of sigma, with the probability Phi((x - 0.5) / sigma)."""
    return (volume[0, 0] > 0.5).to(torch.uint8)


def test_labels_are_the_majority_of_the_votes() -> None:
    image = torch.linspace(0.3, 0.7, 1000).reshape(1, 1, 10, 10, 10)
    vote = RandomizedSmoothing(sigma=0.05).vote(partial(map, threshold), image, key=0)
    is_far = (image[0, 0] - 0.5).abs() > 0.03
    assert torch.equal(vote.labels[is_far], threshold(image)[is_far])
    assert torch.equal(vote.labels[vote.certified], threshold(image)[vote.certified])
    assert 0 < vote.certified.sum() < 1000


def test_voxels_at_or_below_tau_are_not_certified() -> None:
    """A voxel at 0.5 + R has the probability tau: each of 512 may be certified, but hardly any family of them is."""
    defence = RandomizedSmoothing(sigma=0.1, samples=200, tau=0.75, alpha=0.05)
    image = torch.full((1, 1, 8, 8, 8), 0.5 + defence.radius)
    families = [defence.vote(partial(map, threshold), image, key).certified.any() for key in range(20)]
    assert sum(map(bool, families)) <= 4  # 20 families of chance at most 0.05: more than 4 has 0.3 %


class Linear:
    """A segmentation whose voxels all hang on w . x + b alone; smoothed, its class changes at w . x + b = 0."""

    def __init__(self, weights: Tensor, bias: float) -> None:
        self.weights = weights
        self.bias = bias

    def __call__(self, volume: Tensor) -> Tensor:
        above = (volume[0] * self.weights).sum() + self.bias > 0
        return torch.full(volume.shape[2:], int(above), dtype=torch.uint8)

    def probability(self, volume: Tensor, sigma: float) -> float:
        """Probability of class 1 under noise, in closed form."""
        margin = float((volume[0] * self.weights).sum()) + self.bias
        return NormalDist().cdf(margin / (sigma * float(self.weights.norm())))


@pytest.mark.parametrize("margin", [0.5, 1.02, 1.6, 3.0])
def test_no_change_within_radius_makes_certified_voxel_another(margin: float) -> None:
    """Margins in units of R: a certificate is given to none within R of the border, whatever the draws."""
    generator = seeded(1)
    weights = torch.randn(1, 3, 3, 3, generator=generator)
    image = torch.rand(1, 1, 3, 3, 3, generator=generator)
    defence = RandomizedSmoothing(sigma=0.2, samples=400, alpha=0.001)
    norm = float(weights.norm())
    segment = Linear(weights, margin * defence.radius * norm - float((image[0] * weights).sum()))
    vote = defence.vote(partial(map, segment), image, key=7)
    # The worst change of norm R is straight to the border.
    worst = image - defence.radius * 0.999 * weights / norm
    changed = segment.probability(image, defence.sigma) > 0.5 >= segment.probability(worst, defence.sigma)
    assert not (changed and vote.certified.any())
    assert bool(vote.certified.all()) == (margin >= 1.6)


def test_noise_is_gaussian_of_sigma_and_no_two_samples_have_same() -> None:
    seen: list[Tensor] = []

    def spy(volume: Tensor) -> Tensor:
        seen.append(volume)
        return constant(volume)

    RandomizedSmoothing(sigma=0.2, samples=6, selection_samples=3).vote(
        partial(map, spy), torch.zeros(1, 2, 16, 16, 16), key=1
    )
    noise = torch.stack(seen).flatten(1)
    assert len(noise) == 9
    assert stats.kstest(noise.flatten().numpy() / 0.2, "norm").pvalue > 1e-3
    assert (torch.corrcoef(noise) - torch.eye(9)).abs().max() < 5 / math.sqrt(noise.shape[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("classes", [1, 2, 7])
def test_the_largest_class_is_argmax_to_the_tie(classes: int, dtype: torch.dtype) -> None:
    values = (2 + torch.randn(classes, 6, 5, 4, generator=seeded(0))).round().to(dtype)
    assert torch.equal(largest(values), values.argmax(dim=0).to(torch.uint8))
