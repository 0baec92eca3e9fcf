"""What is left of a grid in a store, and where its volumes are."""

from collections.abc import Callable

from freqbench.core import storage
from freqbench.core.types import CaseRef
from freqbench.job.grid import Cell, Grid, Plan, make_plan
from freqbench.job.schema import JobSpec
from freqbench.results import Store
from freqbench.results.volumes import VOLUMES as VOLUMES

Saved = Callable[[Cell, CaseRef], bool]


def current_plan(grid: Grid, store: Store, is_saved: Saved | None = None) -> Plan:
    """What is left of a grid in a store; resuming, planning and status are this one function.

    Args:
        grid: all of it.
        store: with the rows that are there.
        is_saved: whether the volume of a cell and case is there, without which a unit does not count as done; None: its
            rows are enough.
    """
    covered = store.covered()
    unsaved = set()
    if is_saved and covered:
        units = (unit for unit in grid.units() if not is_saved(unit.cell, unit.ref))
        unsaved = {unit.cell.key(unit.ref, target) for unit in units for target in unit.targets}
    return make_plan(grid, covered, again=unsaved)


def volumes_root(job: JobSpec, out: str) -> str | None:
    """Where a job saves its volumes; None if it saves none."""
    return storage.join(out, VOLUMES) if job.save_adversarial == "nifti" else None
