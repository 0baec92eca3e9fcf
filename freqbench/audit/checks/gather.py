"""The audit's evidence from stores: their rows, those of the cells that `audit --run` added, and what it measured."""

from collections.abc import Collection, Sequence

from freqbench.analysis.frames import classes_frame, found_records
from freqbench.analysis.strength import checked
from freqbench.audit.checks.evidence import COLUMNS, Evidence, evidence_of
from freqbench.audit.measurements import read_gradients, read_saved, root_of
from freqbench.core import storage
from freqbench.results import Key, Store

MAX_RECORDS = 100_000
"""Records beyond which a report does not read their classes for the audit."""


def gathered(
    stores: Sequence[Store],
    job_keys: Collection[Key] | None = None,
    always_classes: bool = False,
    may_be_empty: bool = False,
) -> Evidence:
    """The evidence of stores and of their audits.

    Args:
        stores: that `run` wrote.
        job_keys: the keys of their jobs; None: all rows.
        always_classes: read rows of classes however many there are.
        may_be_empty: whether a run that has no rows yet is something to look at.

    Raises:
        UserError: a store that cannot be read, or nothing in it.
    """
    roots = [root_of(store.root) for store in stores]
    beside = [Store(root) for root in roots if storage.exists(storage.join(root, "run.json"))]
    everything = [*stores, *beside]
    keys = None if job_keys is None else {*job_keys, *_audited(beside, {target for _, _, target in job_keys})}
    stored, records = found_records(everything, keys, COLUMNS, may_be_empty)
    classes = None
    if always_classes or len(records) <= MAX_RECORDS:
        classes = classes_frame(everything, stored)
    measured = filter(None, (read_gradients(store.root) for store in stores))
    rescored = filter(None, (read_saved(store.root) for store in stores))
    added = frozenset(_cells(beside) - _cells(stores)) if beside else frozenset[str]()
    return evidence_of(checked(records, stored), classes, tuple(measured), tuple(rescored), added)


def _cells(stores: Sequence[Store]) -> set[str]:
    return {cell_id for store in stores for (cell_id,) in store.rows(("cell_id",))}


def _audited(stores: Sequence[Store], targets: Collection[str]) -> set[Key]:
    """The keys of what audits computed for models of the job, by their last call or by a former one."""
    return {key for store in stores for key in store.covered() if key[2] in targets}
