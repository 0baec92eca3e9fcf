"""Draws a change of one kind before each prediction.  Chiang et al., NeurIPS 2020, arXiv:2007.03730."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from freqbench.models.defences.base import Back, Defence, draw_seed, keep_logits
from freqbench.models.defences.randomized_smoothing import Segment, VolumePrediction
from freqbench.ops.changes import draws_of

Judge = Callable[[Tensor], Mapping[str, float]]  # maps a label map to its scores, the leading one first


class Smoothing(Defence):
    r"""A randomised network: a random change of one kind comes first, then the clamp to [0, 1], then one prediction.

    With T a kind of `freqbench.ops.changes`, f the segmentation of a whole volume and d a score of its labels, a
    prediction of the volume x has the random score

    .. math:: d\bigl(f(\mathrm{clamp}(T_c(x)))\bigr), \qquad c \sim N(0, \sigma^2)

    Its quantiles under any change of the same kind and of norm R or less are bounded by those of the volume itself
    (Chiang et al., arXiv:2007.03730; `freqbench.analysis.certificates`). In a run the label of a case judges `samples`
    draws. The prediction is the draw of median foreground DSC, so that all scores of a record are those of an actual
    prediction; a record keeps the scores of all draws. A certificate uses
    the draws of the clean volume, pooled over seeds. It is about this randomised network and an
    attacker who does not know the draw. A draw is one change of the whole volume. An adaptive attacker follows the mean
    of the softmax over `eot` fresh draws.

    Attributes:
        kind: a name in CHANGES.
        sigma: standard deviation of each parameter.
        samples: draws of one record.

    **Differs from the paper**: the score of a segmentation in place of the boxes of a detector.
    """

    is_random: ClassVar[bool] = True
    is_smooth: ClassVar[bool] = True
    votes: ClassVar[bool] = True

    name: Literal["smoothing"] = "smoothing"
    kind: Literal["voxels", "bias_field", "gain_offset", "dct_bands", "fourier_shift", "voxel_shift"]
    sigma: PositiveFloat
    samples: Annotated[int, Field(ge=1, le=30_000)] = 100
    eot: Annotated[int, Field(ge=1, le=1000)] = 8

    @property
    def predictions(self) -> int:
        """One sliding window pass per draw, and one more for the median draw."""
        return self.samples + 1

    def defend(self, images: Tensor, seeds: Sequence[int], adaptive: bool) -> tuple[Tensor, Back]:
        """Returns windows, `images` `[B, C, h, w, d]`, each after a change of its own, drawn by its seed of `seeds`,
        for an attacker, `adaptive` or not. `vote` makes the prediction."""
        changed = [self.apply_draw(window[None], seed) for window, seed in zip(images, seeds, strict=True)]
        return torch.cat(changed), keep_logits

    def vote(
        self, segment: Segment, image: Tensor, key: int, judge: Judge | None = None, seed: int = 0
    ) -> VolumePrediction:
        """Predicts a volume: the draw of median score, or the first draw without a judge.

        Args:
            segment: yields the label maps of changed volumes.
            image: the volume, `[1, C, H, W, D]` in [0, 1].
            key: makes an endless row of draws.
            judge: scores a label map; None: only the first draw is predicted.
            seed: number of the set of draws: those from `seed * samples` on.
        """
        samples = range(seed * self.samples, (seed + 1) * self.samples)
        changed = draws_of(image, self.kind, self.sigma)

        def predict_samples(samples: Iterable[int]) -> Iterator[Tensor]:
            """Yields the label maps of the draws of these numbers, `samples`."""
            return segment(changed(draw_seed("smoothing", key, sample)) for sample in samples)

        if judge is None:
            return VolumePrediction(labels=next(predict_samples(samples[:1])))
        scores = [*map(judge, predict_samples(samples))]
        leading = [next(iter(of_draw.values())) for of_draw in scores]
        middle = sorted(range(len(samples)), key=leading.__getitem__)[(len(samples) - 1) // 2]
        columns = {}
        for name in scores[0]:
            columns[name] = sorted(of_draw[name] for of_draw in scores)
        return VolumePrediction(labels=next(predict_samples(samples[middle : middle + 1])), draws=columns)

    def apply_draw(self, volumes: Tensor, seed: int) -> Tensor:
        """Applies the draw of `seed` to volumes `[B, C, H, W, D]`, and clamps the result."""
        return draws_of(volumes, self.kind, self.sigma)(seed)
