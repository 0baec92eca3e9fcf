"""The rows of a unit as a worker makes them, without a network: what is measured is the rest of a run."""

from datetime import UTC, datetime
from types import SimpleNamespace

from freqbench.engine import rows
from freqbench.engine.rows import Outcome
from freqbench.engine.scoring import PredictionScores
from freqbench.job.cells import Unit
from freqbench.metrics import Scores


def answer(unit: Unit, run_id: str) -> Outcome:
    """The rows of a unit as a worker makes them, with made-up scores."""
    measured = {
        "run_id": run_id,
        "finished_at": datetime.now(UTC),
        "attack_seconds": 0.001,
        "peak_memory_bytes": 2**30,
        "device": "cpu",
        "threads": 1,
        "window_batch": 1,
    }
    passes = {"num_windows": unit.num_windows, "num_forwards": 0, "num_backwards": 0}
    record = {"dsc": 0.5, "dsc_clean": 0.75, "dsc_foreground": 0.4, "dsc_foreground_clean": 0.7}
    one_class = {"label_voxels": 900, "pred_voxels": 800, "dsc": 0.5, "pred_voxels_clean": 850, "dsc_clean": 0.75}
    scores = PredictionScores(
        record=record | {"missed_classes": 0, "hallucinated_classes": 1},
        classes=tuple(one_class for _ in unit.cell.dataset.class_names),
    )
    return rows.scored_outcome(
        unit,
        SimpleNamespace(native_ranges=((-175.0, 250.0),)),
        Scores(values={}),
        [(scores,) for _ in unit.targets],
        [{"voxel_success": 0.25, "score_seconds": 0.001} for _ in unit.targets],
        ("dsc",),
        measured | passes,
    )
