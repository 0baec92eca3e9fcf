"""Label maps on their way to surface distances, which any core can compute."""

from dataclasses import dataclass

from torch import Tensor

from freqbench.core.types import Spacing
from freqbench.engine import evaluate
from freqbench.engine.evaluate import PredictionScores


@dataclass(frozen=True, kw_only=True)
class Masks:
    """What surface distances need, and all that leaves a worker beside rows.

    Attributes:
        pairs: of each target, the label and its prediction, uint8 `[H, W, D]`, and the millimetres a voxel.
        num_classes: background included.
    """

    pairs: tuple[tuple[Tensor, Tensor, Spacing], ...]
    num_classes: int


def score_masks(masks: Masks) -> list[PredictionScores]:
    """Surface distances of every prediction; runs wherever there is a core."""
    return [evaluate.score_surfaces(pred, label, masks.num_classes, spacing) for label, pred, spacing in masks.pairs]
