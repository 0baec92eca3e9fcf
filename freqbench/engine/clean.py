"""What a target makes of the clean volume, once a case, and what of any prediction is scored at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from freqbench.core.types import Case
from freqbench.engine import evaluate
from freqbench.engine.evaluate import PredictionScores
from freqbench.models import Prediction


@dataclass(frozen=True, kw_only=True)
class CleanPrediction:
    """A model's label map of a clean case and its scores.

    Attributes:
        pred: uint8 `[H, W, D]`.
        scores: of `score_overlap` and `score_surfaces`, where they are asked for, as `_clean` columns.
        certified: of `score_certificate`, likewise; empty where the model certifies nothing.
    """

    pred: Tensor
    scores: tuple[PredictionScores, ...]
    certified: Mapping[str, float | int]


def scored_clean(prediction: Prediction, case: Case, num_classes: int, metrics: Sequence[str]) -> CleanPrediction:
    """The scores of a clean case's prediction."""
    pred, label, scores = prediction.labels, case.label[0], []
    if "dsc" in metrics:
        scores.append(evaluate.score_overlap(pred, label, num_classes))
    if "hd95" in metrics:
        scores.append(evaluate.score_surfaces(pred, label, num_classes, case.spacing))
    certificate = PredictionScores(record=evaluate.score_certificate(prediction, label, num_classes), classes=())
    return CleanPrediction(
        pred=pred,
        scores=tuple(evaluate.as_clean(part) for part in scores),
        certified=evaluate.as_clean(certificate).record,
    )
