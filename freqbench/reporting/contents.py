"""Reads once what a page, figures or a comparison show of stores: records, classes and facts."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pandas as pd

from freqbench.analysis.frames import classes_frame, found_records
from freqbench.analysis.tables import current
from freqbench.core.types import dataset_name
from freqbench.results import Key, Store, index_keys, volumes
from freqbench.results.volumes import RegionsOfLabels


@dataclass(frozen=True)
class Contents:
    """Records of the stores' jobs, one row per key, after `current`; their class rows; and the facts of
    each store: `store` (root), `job` (`Store.job()`) and `runs` (`Store.runs()`)."""

    records: pd.DataFrame
    classes: pd.DataFrame
    facts: list[dict[str, Any]]

    @property
    def restricted(self) -> list[str]:
        """Datasets whose volumes must not be passed on: some run does not allow it, or no run names the dataset."""
        kept = set[str]()
        shared = set[str]()
        for run in chain.from_iterable(store["runs"] for store in self.facts):
            for name, dataset in run.get("datasets", {}).items():
                names = shared if dataset.get("redistributable") is True else kept
                names.add(name)
        return sorted(name for name in self.records["dataset"].unique() if dataset_name(name) not in shared - kept)


def regions_of(runs: Iterable[Mapping[str, Any]]) -> dict[str, RegionsOfLabels]:
    """Returns the regions of each label, by name in the job, of those datasets of runs whose classes are regions."""
    stated = {}
    for run in runs:
        for name, dataset in (run.get("datasets") or {}).items():
            stated[name] = volumes.regions_of(dataset, f"run {run['run_id']}: {name}")
    return {name: regions for name, regions in stated.items() if regions}


def keys_of(jobs: Iterable[Mapping[str, Any]]) -> set[Key]:
    """Returns the keys of all rows that jobs (`Store.job`) ask for."""
    return set[Key]().union(*(index_keys(job["index"]) for job in jobs))


def contents(stores: Sequence[Store], columns: Collection[str] | None = None, with_classes: bool = True) -> Contents:
    """Reads what a page, figures or a comparison show.

    Args:
        stores: of rows with the same key in several, the best and latest counts.
        columns: of RECORDS, beside those that identify a row; None: all.
        with_classes: read class records too, many times as many rows; else their frame is empty.

    Raises:
        UserError: a store cannot be read, or there is nothing to show.
    """
    jobs = [store.job() for store in stores]
    stored, records = found_records(stores, keys_of(jobs), columns)
    facts = [{"store": store.root, "job": job, "runs": store.runs()} for store, job in zip(stores, jobs, strict=True)]
    return Contents(current(records, stored), classes_frame(stores, stored) if with_classes else pd.DataFrame(), facts)
