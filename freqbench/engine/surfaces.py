"""Scores surfaces and components apart from workers: they take cores, not the device that attacks."""

import logging
from dataclasses import dataclass

from freqbench.core.errors import UserError, one_line
from freqbench.engine import evaluate, rows
from freqbench.engine.evaluate import LabelMaps, PredictionScores
from freqbench.engine.rows import Outcome
from freqbench.job.grid import Unit

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Masks:
    """What surfaces and components are scored from, by any core: all that leaves a worker beside rows."""

    pairs: tuple[LabelMaps, ...]  # one a target
    metrics: tuple[str, ...]


def score_masks(masks: Masks) -> list[PredictionScores]:
    """Scores of every prediction in the metrics of `evaluate.SHAPES` that are asked for."""
    return [evaluate.score_shapes(maps, masks.metrics) for maps in masks.pairs]


def with_surfaces(unit: Unit, outcome: Outcome, masks: Masks | None) -> Outcome:
    """An outcome with the scores of its masks; what goes wrong there becomes failed rows."""
    if masks is None:
        return outcome
    try:
        return outcome.with_scores(score_masks(masks))
    except Exception as error:  # noqa: BLE001 (as in Worker.run)
        return rows.failed(unit, reason_of(error), outcome.measured())


def reason_of(error: Exception) -> str:
    """One line of what went wrong; the whole of it goes to the log."""
    logger.info("unit failed", exc_info=error)
    text = one_line(error)
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
