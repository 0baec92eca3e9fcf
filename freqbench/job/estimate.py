"""What a grid will cost, before it is computed."""

import pyarrow.compute as pc

from freqbench.core.machine import available_cores
from freqbench.job.grid import Grid, Plan
from freqbench.models import forward_flops, sliding_windows
from freqbench.results import Store

CORE_FLOPS = 30e9
GPU_FLOPS = 10e12
SCORING_S = 0.5  # distances of a small volume
MEASURED = ("status", "source_model_id", "num_forwards", "num_backwards", "attack_seconds", "score_seconds")


def overview(grid: Grid) -> list[tuple[str, str, str, int, int, int]]:
    """Dataset, source, attack, number of cells, cases, and passes over windows, one row for each of the first three."""
    rows: dict[tuple[str, str, str], list[int]] = {}
    for unit in grid.units():
        cell = unit.cell
        row = rows.setdefault((cell.dataset.name, cell.source.name, cell.attack.name), [0, 0, 0])
        row[1] += 1
        row[2] += unit.passes
    for cell in grid.cells:
        rows[cell.dataset.name, cell.source.name, cell.attack.name][0] += 1
    return [(*key, cells, units // cells, passes) for key, (cells, units, passes) in rows.items()]


def hours(plan: Plan, store: Store) -> tuple[float, str]:
    """Hours that one worker needs for a rest that is not empty, and what that is based on.

    Where the store has rows: their mean seconds a pass of each source model, and a record to score. Where it lacks
    them: counted operations over a rate that a core or a card usually reaches, which is right to a factor of some five.
    """
    import torch

    rate = GPU_FLOPS if torch.cuda.is_available() else CORE_FLOPS * available_cores()
    a_pass, a_record = _measured(store)
    models = {model.model_id: model for unit in plan.units for model in (unit.cell.source, *unit.targets)}
    forward = {model_id: forward_flops(model) / rate for model_id, model in models.items()}
    seconds, is_rough = 0.0, False
    for unit in plan.units:
        source = unit.cell.source.model_id
        is_rough |= a_record is None or (unit.passes > 0 and source not in a_pass)
        seconds += unit.passes * a_pass.get(source, forward[source])
        for target in unit.targets:
            shape = unit.cell.dataset.shape_in(unit.ref, target.space)
            windows = len(sliding_windows(shape, target.roi, target.inference.overlap))
            passes = windows * 2 ** len(target.inference.mirror) * target.predictions
            predicting = passes * forward[target.model_id]
            seconds += predicting + SCORING_S if a_record is None else a_record
    return seconds / 3600, "rough: from counted operations" if is_rough else "from the rows that are there"


def text(hours: float) -> str:
    """Hours as a person says them.

    >>> text(0.001), text(0.5), text(12.34)
    ('1 minute', '30 minutes', '12 hours')
    """
    if hours >= 1:
        return f"{hours:.2g} hours"
    minutes = max(1, round(60 * hours))
    return f"{minutes} minute{'s' if minutes > 1 else ''}"


def _measured(store: Store) -> tuple[dict[str, float], float | None]:
    """Seconds a pass of each source model, and seconds a record to score, from the rows of a store."""
    rows = store.records(MEASURED)
    rows = rows.filter(pc.equal(rows["status"], "ok"))
    scoring = pc.mean(rows["score_seconds"]).as_py()
    rows = rows.filter(pc.greater(rows["num_forwards"], 0))
    passes = pc.add(rows["num_forwards"], rows["num_backwards"])
    grouped = (
        rows.append_column("passes", passes)
        .group_by("source_model_id")
        .aggregate([("attack_seconds", "sum"), ("passes", "sum")])
        .to_pylist()
    )
    return {row["source_model_id"]: row["attack_seconds_sum"] / row["passes_sum"] for row in grouped}, scoring
