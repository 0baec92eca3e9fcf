"""What a grid will cost, before it is computed."""

import pyarrow.compute as pc

from freqbench.engine.facts import available_cores
from freqbench.grid import Grid, Plan
from freqbench.models import forward_flops
from freqbench.results import Store

CORE_FLOPS = 30e9
GPU_FLOPS = 10e12


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
    """Hours that one worker needs for the rest, and what that is based on.

    Where the store has rows: their mean seconds a pass of each source model, and the mean time to score. Where it has
    none, or none of a model: the operations of the passes over a rate that a core or a card usually reaches, which is
    right to a factor of about three.
    """
    import torch

    rate = GPU_FLOPS if torch.cuda.is_available() else CORE_FLOPS * available_cores()
    measured, scoring = _measured(store)
    sources = {unit.cell.source.model_id: unit.cell.source for unit in plan.units}
    a_pass = {
        model_id: measured[model_id] if model_id in measured else forward_flops(source) / rate
        for model_id, source in sources.items()
    }
    seconds = sum(unit.passes * a_pass[unit.cell.source.model_id] + scoring * len(unit.targets) for unit in plan.units)
    known = len(sources.keys() & measured.keys())
    basis = "from the rows that are there" if sources and known == len(sources) else "rough: from counted operations"
    return seconds / 3600, basis if plan.units else "nothing is left"


def _measured(store: Store) -> tuple[dict[str, float], float]:
    """Seconds a pass of each source model, and seconds a record to score, from the rows of a store."""
    rows = store.records()
    rows = rows.filter(pc.and_(pc.equal(rows["status"], "ok"), pc.greater(rows["num_forwards"], 0)))
    if not len(rows):
        return {}, 0.0
    passes = pc.add(rows["num_forwards"], rows["num_backwards"])
    grouped = (
        rows.append_column("passes", passes)
        .group_by("source_model_id")
        .aggregate([("attack_seconds", "sum"), ("passes", "sum")])
        .to_pylist()
    )
    a_pass = {row["source_model_id"]: row["attack_seconds_sum"] / row["passes_sum"] for row in grouped}
    targets = len(pc.unique(rows["target_model_id"]))
    return a_pass, float(pc.mean(rows["score_seconds"]).as_py()) / targets
