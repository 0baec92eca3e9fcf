"""What is left of a grid in a store, and where its volumes are."""

from freqbench.core import storage
from freqbench.engine import saved_volumes
from freqbench.job.grid import Grid, Plan, make_plan
from freqbench.job.schema import JobSpec
from freqbench.results import Store
from freqbench.results.volumes import VOLUMES as VOLUMES


def current_plan(grid: Grid, store: Store, saved_in: str | None = None) -> Plan:
    """What is left of a grid in a store; resuming, planning and status are this one function.

    Args:
        grid: all of it.
        store: with the rows that are there.
        saved_in: where a unit must also have left its volume to count as done; None: its rows are enough.
    """
    covered = store.covered()
    unsaved = set()
    if saved_in and covered:
        is_saved = saved_volumes.saved(saved_in)
        units = (unit for unit in grid.units() if not is_saved(unit.cell, unit.ref))
        unsaved = {unit.cell.key(unit.ref, target) for unit in units for target in unit.targets}
    return make_plan(grid, covered, again=unsaved)


def volumes_root(job: JobSpec, out: str) -> str | None:
    """Where a job saves its volumes; None if it saves none."""
    return storage.join(out, VOLUMES) if job.save_adversarial == "nifti" else None
