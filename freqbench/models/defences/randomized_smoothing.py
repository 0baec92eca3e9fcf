"""Smooths segmentations with noise and certifies them.  Fischer, Baader, Vechev, ICML 2021, arXiv:2107.00228."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from freqbench.models.defences.base import Back, Defence, draw_seed, keep_logits

Segment = Callable[[Iterable[Tensor]], Iterator[Tensor]]  # yields the label map of each volume `[1, C, H, W, D]`


@dataclass(frozen=True, kw_only=True)
class VolumePrediction:
    """A model's prediction for one volume; None: what was not requested, or draws that nothing judged."""

    labels: Tensor  # uint8 `[H, W, D]`; of a smoothed model the class of most votes, the lowest class on a tie
    certified: Tensor | None = None  # the voxels whose class is certified, bool `[H, W, D]`
    radius: float = 0.0  # Euclidean norm of the changes of the volume that the certificate covers
    confidence: Tensor | None = None  # of each voxel's class, float32 in [0, 1]: the softmax's mean, or share of votes
    draws: Mapping[str, Sequence[float]] | None = None  # by name, scores of all draws of a model, in rising order
    suspicion: float | None = None  # of the network's detector
    in_file: "VolumePrediction | None" = None  # labels and confidence on the grid of the case's file

    @property
    def scored(self) -> "VolumePrediction":
        """The prediction on the grid on which it is scored."""
        return self.in_file or self


class RandomizedSmoothing(Defence):
    r"""The majority vote of a network's segmentations of a volume under Gaussian noise (SegCertify).

    With g the segmentation of a whole volume (sliding window, mirroring and all) and i a voxel:

    .. math:: \hat g_i(x) = \arg\max_k P\bigl(g_i(x + \varepsilon) = k\bigr), \qquad \varepsilon \sim N(0, \sigma^2)

    If the probability of a class is above tau >= 1/2, no change of the volume with Euclidean norm below R = sigma
    Phi^{-1}(tau), over all voxels and channels, changes the class (Cohen et al., ICML 2019, arXiv:1902.02918). The
    majority of `selection_samples` noisy volumes is the guess c_i; n_i of `samples` others vote for c_i. The p-value of
    "its probability is at most tau" is the upper tail of a binomial,

    .. math:: p_i = P\bigl(\mathrm{Bin}(n, \tau) \ge n_i\bigr)

    and Holm's step-down procedure over all N voxels certifies those that it rejects: with probability 1 - alpha or more
    all certificates of a volume hold at once. The other voxels abstain; their labels are the majority of the `samples`
    votes too. A sample draws one noise for the whole volume: with a noise for each window, a change would count once
    for every window that holds it. The noise depends on the case and the sample's number, and is the same for a clean
    and an adversarial volume; nothing is clamped.

    An adaptive attacker follows the mean of the softmax over `eot` fresh noises at every step (SmoothAdv, Salman et
    al., NeurIPS 2019, arXiv:1906.04584; Athalye et al., ICML 2018, arXiv:1802.00420); with `adaptive: false` it follows
    one noise, the same at every step.

    Attributes:
        sigma: standard deviation of the noise on the [0, 1] scale.
        samples: n. No voxel of a volume of N can be certified if tau^n > alpha / N.
        tau: in [1/2, 1).
        alpha: in (0, 1).

    **Differs from the paper**: three dimensions and sliding windows, in place of resized pictures.
    """

    is_random: ClassVar[bool] = True
    is_smooth: ClassVar[bool] = True
    votes: ClassVar[bool] = True

    name: Literal["randomized_smoothing"] = "randomized_smoothing"
    sigma: PositiveFloat
    samples: Annotated[int, Field(ge=1, le=30_000)] = 100
    selection_samples: Annotated[int, Field(ge=1, le=30_000)] = 10
    tau: Annotated[float, Field(ge=0.5, lt=1)] = 0.75
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.001
    eot: Annotated[int, Field(ge=1, le=1000)] = 8

    @property
    def radius(self) -> float:
        """R, on the [0, 1] scale."""
        return self.sigma * NormalDist().inv_cdf(self.tau)

    @property
    def predictions(self) -> int:
        """One sliding window pass per noisy volume."""
        return self.selection_samples + self.samples

    def defend(self, images: Tensor, seeds: Sequence[int], adaptive: bool) -> tuple[Tensor, Back]:
        """Returns windows, `images` `[B, C, h, w, d]`, under noise drawn by `seeds`, one per window, for an attacker,
        `adaptive` or not. `vote` makes the prediction."""
        return torch.stack([self._noisy(window, seed) for window, seed in zip(images, seeds, strict=True)]), keep_logits

    def vote(self, segment: Segment, image: Tensor, key: int) -> VolumePrediction:
        """Predicts a volume, `image` `[1, C, H, W, D]`: `segment` gives label maps, the noise depends on `key`."""

        def count(kind: str, samples: int) -> Tensor:
            """Counts the label maps that vote for each class, `[K, H, W, D]`; K - 1 is the highest label there.
            `samples` is the number of noisy volumes, `kind` tells their noises from others."""
            votes: list[Tensor] = []
            for labels in segment(self._noisy(image, draw_seed(kind, key, sample)) for sample in range(samples)):
                while len(votes) <= int(labels.max()):
                    votes.append(torch.zeros_like(labels, dtype=torch.uint8 if samples < 256 else torch.int16))
                for k, of_class in enumerate(votes):
                    of_class += labels == k
            return torch.stack(votes)

        guess = largest(count("selection", self.selection_samples))
        votes = count("vote", self.samples)
        agreeing = torch.zeros_like(guess, dtype=votes.dtype)
        for k, of_class in enumerate(votes):
            agreeing = torch.where(guess == k, of_class, agreeing)
        certified = holm_rejected(agreeing, self.samples, self.tau, self.alpha)
        share = votes.amax(dim=0) / self.samples
        return VolumePrediction(labels=largest(votes), certified=certified, radius=self.radius, confidence=share)

    def _noisy(self, volume: Tensor, seed: int) -> Tensor:
        noise = torch.randn(volume.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
        return volume + self.sigma * noise.to(volume)


def holm_rejected(counts: Tensor, samples: int, tau: float, alpha: float) -> Tensor:
    r"""Returns the voxels for which Holm's procedure (Scandinavian Journal of Statistics 6, 1979) rejects that their
    class has a probability of at most tau. Of N p-values in rising order, those before the first :math:`p_{(j)} >
    \alpha / (N - j + 1)` are rejected. `counts` are the votes for each voxel's guess, out of `samples`; voxels of one
    count are rejected together, as the bound is tightest at the first of them."""
    from scipy.special import betainc

    voxels = torch.bincount(counts.flatten().long(), minlength=samples + 1).tolist()
    left = counts.numel()
    fewest = samples + 1
    for count in range(samples, 0, -1):
        # The upper tail of a binomial is a regularised incomplete beta function.
        if voxels[count] and float(betainc(count, samples - count + 1, tau)) > alpha / left:
            break
        left -= voxels[count]
        fewest = count
    return counts >= fewest


def largest(votes: Tensor) -> Tensor:
    """Returns the class of the largest of `votes`, `[K, H, W, D]`, as uint8 `[H, W, D]`; the lowest class on a tie. It
    is `argmax` over the first axis, several times as fast on a CPU, which reads there from afar. NumPy compares several
    numbers at once."""
    if not votes.is_cpu or votes.dtype == torch.bfloat16:
        return votes.argmax(dim=0).to(torch.uint8)
    best = votes.amax(dim=0).numpy()
    classes = votes.numpy()
    # open: no class yet is the largest
    labels = np.zeros(best.shape, np.uint8)
    is_open = np.ones(best.shape, np.bool_)
    for of_class in classes[:-1]:
        is_open &= of_class < best
        labels += is_open
    return torch.from_numpy(labels)
