"""Keeps the additions of `score` to a store beyond its job's grid: further targets and imported volumes."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from freqbench.core import config
from freqbench.core.config import Strict
from freqbench.core.files import storage
from freqbench.job.grid import Grid
from freqbench.job.schema import JobSpec
from freqbench.results import Store


class ImportedCell(Strict):
    """A cell whose volumes were imported: its entry in the index of a store's job, and the facts to remake it from."""

    cell_id: str
    dataset: str
    targets: list[str]
    cases: list[str]
    source: str
    label: str
    content: str


class Additions(Strict):
    """Additions of `score` to a store beyond its job's grid, kept in `run.json` so that every later report has them."""

    scored: dict[str, list[str]] = Field(default_factory=dict)  # ids of further targets, by cell id
    imported: list[ImportedCell] = Field(default_factory=list)  # by freqbench.exchange.adversarial_volumes

    @classmethod
    def of(cls, store: Store) -> "Additions":
        """Reads the additions of a store; empty if it has no job yet."""
        content = store.job() if _has_job(store) else {}
        parts = {name: content[name] for name in cls.model_fields if name in content}
        return config.validate(parts, cls, f"{store.root}/run.json")

    def with_targets(self, grid: Grid) -> "Additions":
        """Returns a copy with the targets of a grid's cells added."""
        scored = dict(self.scored)
        for cell in grid.cells:
            model_ids = [target.model_id for target in cell.targets]
            scored[cell.cell_id] = list(dict.fromkeys([*scored.get(cell.cell_id, []), *model_ids]))
        return self.model_copy(update={"scored": scored})

    def with_imported(self, cell: ImportedCell) -> "Additions":
        """Returns a copy with one more imported cell."""
        others = [other for other in self.imported if other.cell_id != cell.cell_id]
        return self.model_copy(update={"imported": [*others, cell]})

    def onto(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a job's content with the additions, also in its index, which reports read."""
        imported = {cell.cell_id: cell for cell in self.imported}
        grid_cells = [cell for cell in content["index"]["cells"] if cell["cell_id"] not in imported]
        imported_cells = [cell.model_dump(exclude={"source", "label", "content"}) for cell in self.imported]
        cells = [
            {**cell, "targets": list(dict.fromkeys([*cell["targets"], *self.scored.get(cell["cell_id"], [])]))}
            for cell in (*grid_cells, *imported_cells)
        ]
        added = self.model_dump() if self.imported else {"scored": self.scored}
        return {**content, "index": {**content["index"], "cells": cells}, **added}

    def write(self, store: Store, job: JobSpec) -> None:
        """Writes the additions into a store's job; if there is none yet, `job` becomes it, with an empty index."""
        empty = {"spec": job.model_dump(mode="json"), "index": {"cells": [], "cases": {}}}
        store.write_job(self.onto(store.job() if _has_job(store) else empty))


def _has_job(store: Store) -> bool:
    return storage.exists(storage.join(store.root, "run.json"))
