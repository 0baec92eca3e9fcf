"""The ids of cells against their settings, as the jobs of a store make them."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from freqbench.core import config
from freqbench.core.documents import object_of
from freqbench.core.errors import UserError
from freqbench.exchange import adversarial_volumes
from freqbench.job.grid import Cell
from freqbench.job.schema import JobSpec, expand
from freqbench.results import Store
from freqbench.results.findings import Check, Findings
from freqbench.results.soundness import CELL, MOST_KINDS, Row, Survey

MOST_JOBS = 20
TEXT = "params"


def check_cells(
    store: Store, job: Mapping[str, Any], survey: Survey, runs: Mapping[str, Mapping[str, Any]], findings: Findings
) -> Check:
    """Settings of a cell are the same in all its rows, and its id is theirs where a job of the store says so.

    The jobs are expanded as a run would, so that data and checkpoints have to be here for the second; code of others
    is not run for it.
    """
    known: dict[str, Row] = {}
    for row in survey.cells.values():
        first = known.setdefault(row["cell_id"], row)
        for name in _differing(first, row):
            findings.wrong("cells", f"cell {row['cell_id']}: {name}: {first[name]} and {row[name]} in its rows")
    jobs = {
        json.dumps(spec, sort_keys=True): spec for spec in (job.get("spec"), *(r.get("job") for r in runs.values()))
    }
    expected: dict[str, Row] = {}
    reasons: list[str] = []
    for spec in list(jobs.values())[:MOST_JOBS]:
        if not isinstance(spec, dict):
            continue
        try:
            made = config.validate({**spec, "trust_code": False}, JobSpec, where="the stored job")
            grid = adversarial_volumes.joined(expand(made, where="the stored job"), store.root)
            expected |= {cell.cell_id: _settings(cell) for cell in grid.cells}
        except UserError as error:
            reasons.append(" ".join(str(error).split()))
    by_settings = {_settings_key(row): cell_id for cell_id, row in expected.items()}
    unknown = 0
    for cell_id, row in known.items():
        if cell_id in expected:
            for name in _differing(expected[cell_id], row):
                text = f"{name}: {row[name]} in its rows, {expected[cell_id][name]} by the job"
                findings.wrong("cells", f"cell {cell_id}: {text}")
        elif other := by_settings.get(_settings_key(row)):
            findings.wrong("cells", f"cell {cell_id}: the job makes {other} of the same settings")
        else:
            unknown += 1
    why = reasons[0] if reasons else "they are of former jobs, or data and checkpoints are others here"
    missing = f"{unknown} of {len(known)} cells are none of the stored jobs as they are here: {why}" if unknown else ""
    if survey.left_out:
        missing = f"{survey.left_out} kinds of rows beyond the first {MOST_KINDS} were not looked at"
    return findings.check("cells", f"{len(known)} cells have the ids of their settings", missing)


def _settings(cell: Cell) -> Row:
    """The columns of a cell's rows, as a worker writes them."""
    attack = cell.attack
    budget = float(getattr(attack, attack.budget_name)) if attack.budget_name else None
    return {
        "cell_id": cell.cell_id,
        "source_model_id": cell.source.model_id,
        "attack": attack.name,
        "variant": attack.variant,
        "budget_name": attack.budget_name,
        "budget": budget,
        "threat_model": attack.threat_model,
        "seed": cell.seed,
        "precision": cell.precision,
        "compile": cell.compile,
        "num_classes": cell.dataset.num_classes,
        "params": cell.params,
    }


def _settings_key(row: Row) -> str:
    """All but the id."""
    return json.dumps([row[name] for name in CELL[1:]], sort_keys=True, default=str)


def _differing(one: Row, other: Row) -> Iterable[str]:
    """The columns in which two rows of a cell differ; of their parameters those count that both have."""
    for name in CELL:
        if name != TEXT and one[name] != other[name]:
            yield name
    first, second = (object_of(row[TEXT] or "{}", TEXT) for row in (one, other))
    if any(first[name] != second[name] for name in first.keys() & second.keys()):
        yield TEXT
