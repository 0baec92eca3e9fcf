"""The certificate: its test against scipy, its set on models that are known by heart, and that it holds."""

import math
from functools import partial
from statistics import NormalDist

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from freqbench.analysis.statistics import holm
from freqbench.models.defences.randomized_smoothing import RandomizedSmoothing, holm_rejected, largest


@pytest.mark.parametrize(("tau", "alpha"), [(0.5, 0.05), (0.75, 0.001), (0.9, 0.9)])
def test_rejected_voxels_are_holms_on_scipys_tests(tau: float, alpha: float) -> None:
    counts = torch.from_numpy(np.random.default_rng(0).binomial(60, np.linspace(tau, 1, 400), 400)).reshape(20, 20)
    tail = [stats.binomtest(int(count), 60, tau, alternative="greater").pvalue for count in counts.flatten()]
    expected = (holm(tail) <= alpha).reshape(20, 20)
    assert 0 < expected.sum() < 400
    assert np.array_equal(holm_rejected(counts, 60, tau, alpha).numpy(), expected)


def test_radius_is_sigma_times_the_quantile() -> None:
    assert RandomizedSmoothing(sigma=0.1, tau=0.75).radius == pytest.approx(0.1 * 0.6744897501960817)
    assert RandomizedSmoothing(sigma=0.1, tau=0.5).radius == 0


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
        self.weights, self.bias = weights, bias

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
    generator = torch.Generator().manual_seed(1)
    weights, image = torch.randn(1, 3, 3, 3, generator=generator), torch.rand(1, 1, 3, 3, 3, generator=generator)
    defence, norm = RandomizedSmoothing(sigma=0.2, samples=400, alpha=0.001), float(weights.norm())
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


def test_a_vote_repeats_to_the_bit_and_hangs_on_its_key() -> None:
    defence, image = RandomizedSmoothing(sigma=0.2, samples=9), torch.rand(1, 1, 8, 8, 8)
    first, again, other = (defence.vote(partial(map, threshold), image, key) for key in (3, 3, 4))
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.labels, other.labels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("classes", [1, 2, 7])
def test_the_largest_class_is_argmax_to_the_tie(classes: int, dtype: torch.dtype) -> None:
    values = (2 + torch.randn(classes, 6, 5, 4, generator=torch.Generator().manual_seed(0))).round().to(dtype)
    assert torch.equal(largest(values), values.argmax(dim=0).to(torch.uint8))
