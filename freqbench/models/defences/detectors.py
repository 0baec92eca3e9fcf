"""Detectors: numbers by which attacked volumes differ from clean ones, told by their distance from clean volumes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Protocol

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from freqbench.core.errors import UserError
from freqbench.models.defences.base import Back, Defence, keep_logits
from freqbench.models.defences.transforms import GaussianSmoothing
from freqbench.ops.blocks import cut_block, split
from freqbench.ops.dct import BlockDCT

FEWEST = 3  # clean volumes that a detector learns from
TINY = 1e-12


class AskedNetwork(Protocol):
    """A network that a detector may ask about further volumes: `freqbench.models.SlidingWindowModel`."""

    def logits(self, images: Tensor) -> Tensor:
        """Returns the logits `[1, K, H, W, D]` of a volume, `images` `[1, C, H, W, D]` in [0, 1]."""

    def activations(self, images: Tensor) -> Sequence[Tensor]:
        """Returns the outputs `[W, F, ...]` of the network's convolutions for the W windows of a volume, `images`
        `[1, C, H, W, D]`, in order."""

    def foreground(self, logits: Tensor) -> Tensor:
        """Returns the probabilities of the foreground classes, or regions, of logits."""


class Detector(Defence):
    r"""A detector beside a network, whose input and predictions stay as they are.

    Features v of a volume are held against those of clean volumes of the dataset's split `clean_split`, which are not
    scored. With their mean m and their covariance C, shrunk (Chen et al., IEEE TSP 2010, arXiv:0907.4698), a volume is
    as suspicious as it is far from them (Lee et al., NeurIPS 2018, arXiv:1807.03888):

    .. math:: s(x) = \sqrt{(v(x) - m)^T C^{-1} (v(x) - m)}

    Records hold s as `suspicion`. An adaptive attacker allows itself that of the clean volume, or the median of the
    volumes that the detector learned from, if that is more: it keeps no volume above, and steps beside the detector
    (`freqbench.attacks.apgd.unseen_step`). With `adaptive: false` an attacker does not know the detector. A class of
    another package derives from this one and defines `features`.

    Attributes:
        steps_back: True if s bends so much that an attacker needs steps of full length to lower it
            (`freqbench.attacks.apgd.unseen_step`).
        clean_split: split of clean volumes to learn from.
        clean_cases: their number, the first of the split; None: all.

    **Differs from the papers**: one covariance for all volumes, as a volume has no class of its own.
    """

    steps_back: ClassVar[bool] = False

    clean_split: str = "validation"
    clean_cases: PositiveInt | None = None

    def features(self, volume: Tensor, logits: Tensor, network: AskedNetwork) -> Tensor:
        """Returns numbers `[F]` of a volume `[1, C, H, W, D]` in [0, 1], through which a gradient goes.

        Args:
            logits: the network's of this volume, `[1, K, H, W, D]`.
            network: the network, for further passes.
        """
        raise NotImplementedError

    def require_enough(self, count: int) -> None:
        """Raises a UserError if the `count` of clean volumes is below FEWEST."""
        if count < FEWEST:
            expected = f"expected at least {FEWEST} clean volumes in the split {self.clean_split!r}"
            raise UserError(f"{self.name}: {expected}, got {count}: set clean_split or clean_cases")

    def defend(self, images: Tensor, seeds: Sequence[int], adaptive: bool) -> tuple[Tensor, Back]:
        """Returns the windows, `images`, unchanged; neither `seeds` nor `adaptive` are asked for."""
        return images, keep_logits


@dataclass(frozen=True, kw_only=True)
class Watch:
    """A detector that has seen clean volumes: their features' mean and spread `[F]`, and the inverse covariance."""

    detector: Detector
    mean: Tensor
    spread: Tensor
    precision: Tensor  # of features in units of their spread, `[F, F]`
    usual: Tensor  # median suspicion of these volumes

    @classmethod
    def learn(cls, detector: Detector, clean: Sequence[Tensor]) -> "Watch":
        """Learns what is usual for a detector from the features `[F]` of clean volumes; raises UserError for fewer than
        FEWEST."""
        detector.require_enough(len(clean))
        x = torch.stack([*clean]).double()
        mean = x.mean(dim=0)
        spread = x.std(dim=0)
        spread = spread.where(spread > TINY, torch.inf)  # what never changes tells nothing
        x = (x - mean) / spread
        n, p = x.shape
        covariance = x.T @ x / n
        scale = covariance.trace() / p
        square = covariance.square().mean()
        share = (square + scale**2) / ((n + 1) * (square - scale**2 / p)).clamp(min=TINY)
        share = share.clamp(max=1)  # of oracle approximating shrinkage
        shrunk = (1 - share) * covariance + share * scale * torch.eye(p).to(x)
        precision = shrunk.inverse()
        kind = clean[0]
        usual = ((x @ precision) * x).sum(dim=1).sqrt().median()
        learned = {"mean": mean, "spread": spread, "precision": precision, "usual": usual}
        return cls(detector=detector, **{name: value.to(kind) for name, value in learned.items()})

    def suspicion(self, volume: Tensor, logits: Tensor, network: AskedNetwork) -> Tensor:
        """Returns s of a volume `[1, C, H, W, D]` with these logits `[1, K, H, W, D]` of the network, a scalar."""
        away = (self.detector.features(volume, logits, network) - self.mean) / self.spread
        return (away @ self.precision @ away).clamp(min=TINY).sqrt()


class BandEnergy(Detector):
    r"""The energy of DCT bands: of each of `bands` shells of frequencies the logarithm of the mean absolute value.

    With i, j, k the indices of a coefficient in a block of h x w x d voxels, shell b holds those with
    :math:`\lfloor bands \, (i/h + j/w + k/d) / 3 \rfloor = b`; all channels count together. No pass of the network.
    """

    name: Literal["band_energy"] = "band_energy"
    block: PositiveInt = 8
    bands: Annotated[int, Field(ge=2, le=64)] = 8

    def features(self, volume: Tensor, logits: Tensor, network: AskedNetwork) -> Tensor:
        """Returns the logarithms of the volume's bands, the lowest frequencies first; shells without a coefficient are
        left out. Neither `logits` nor `network` are asked for."""
        block = cut_block(self.block, volume.shape[2:])
        size = split(BlockDCT.of(volume, block).spectrum(volume), block).abs().mean(dim=(0, 1, 2))
        h, w, d = (torch.arange(side, device=volume.device) / side for side in block)
        shell = (self.bands * (h[:, None, None] + w[:, None] + d) / 3).long().flatten()
        mean = size.new_zeros(self.bands).scatter_reduce(0, shell, size.flatten(), "mean", include_self=False)
        return (mean[torch.unique(shell)] + TINY).log()


class FeatureDistance(Detector):
    """The network's own features: the outputs of its deepest convolution, averaged over voxels and windows.

    The deepest is the last of those with the fewest voxels, as in Gonzalez et al., MICCAI 2021, arXiv:2107.05975, who
    tell by it which volumes nnU-Net fails on. One more pass of each window.
    """

    name: Literal["feature_distance"] = "feature_distance"

    def features(self, volume: Tensor, logits: Tensor, network: AskedNetwork) -> Tensor:
        """Returns the mean of each channel of the network's deepest convolution for a volume `[1, C, H, W, D]`; its
        `logits` are not asked for."""
        outputs = network.activations(volume)
        if not outputs:
            raise UserError(f"{self.name}: expected a network with convolutions, got none: take another detector")
        deepest = min(reversed(outputs), key=lambda each: each[0, 0].numel())
        return deepest.flatten(2).mean(dim=(0, 2))


class PredictionChange(Detector):
    r"""The change of the prediction under a Gaussian of `sigma` voxels: feature squeezing of Xu et al., NDSS 2018.

    With p and p' the probabilities of the volume and of the smoothed one, sums over voxels and foreground classes
    (regions), as the logarithm of (arXiv:1704.01155 takes the largest of several L1 distances):

    .. math:: \frac{\sum |p - p'|}{\sum (p + p')}

    One more pass of each window.
    """

    steps_back: ClassVar[bool] = True

    name: Literal["prediction_change"] = "prediction_change"
    sigma: PositiveFloat = 0.5

    def features(self, volume: Tensor, logits: Tensor, network: AskedNetwork) -> Tensor:
        """Returns the logarithm `[1]`, of a volume `[1, C, H, W, D]` and the network's logits `[1, K, H, W, D]`."""
        smooth = GaussianSmoothing(sigma=self.sigma).transform(volume)
        p, other = (network.foreground(each) for each in (logits, network.logits(smooth)))
        return ((p - other).abs().sum() / (p + other).sum().clamp(min=TINY) + TINY).log()[None]
