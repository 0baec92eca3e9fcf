"""What `score` added to a store beside its job's grid: it stays in `run.json`, so that every later report has it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import Field

from freqbench.core import config, storage
from freqbench.core.config import Strict
from freqbench.job.grid import Grid
from freqbench.job.schema import JobSpec
from freqbench.results import Store

Entry = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Additions:
    """Further targets of cells, and cells whose volumes were brought in.

    Attributes:
        scored: ids of further targets, by cell id.
        imported: of each such cell what an index holds of a cell, the keys of its `cases`, and what it is made again
            from (`freqbench.exchange.adversarial_volumes`).
    """

    scored: Mapping[str, Sequence[str]] = field(default_factory=dict)
    imported: Sequence[Entry] = ()

    def with_targets(self, grid: Grid) -> "Additions":
        """The same with the targets of a grid's cells."""
        scored = {key: list(targets) for key, targets in self.scored.items()}
        for cell in grid.cells:
            former, own = scored.get(cell.cell_id, []), [target.model_id for target in cell.targets]
            scored[cell.cell_id] = list(dict.fromkeys([*former, *own]))
        return replace(self, scored=scored)

    def with_imported(self, entry: Entry) -> "Additions":
        """The same with one more cell that was brought in."""
        others = [each for each in self.imported if each["cell_id"] != entry["cell_id"]]
        return replace(self, imported=(*others, entry))

    def onto(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """A job's content whose index, and so every report, has them."""
        brought = {entry["cell_id"] for entry in self.imported}
        own = [cell for cell in content["index"]["cells"] if cell["cell_id"] not in brought]
        index = [{name: entry[name] for name in ("cell_id", "dataset", "targets", "cases")} for entry in self.imported]
        cells = [
            {**cell, "targets": list(dict.fromkeys([*cell["targets"], *self.scored.get(cell["cell_id"], [])]))}
            for cell in (*own, *index)
        ]
        added = {"scored": dict(self.scored)} | ({"imported": list(self.imported)} if self.imported else {})
        return {**content, "index": {**content["index"], "cells": cells}, **added}


class _Imported(Strict):
    """A cell that was brought in, as a store's job has it."""

    cell_id: str
    dataset: str
    targets: list[str]
    cases: list[str]
    source: str
    label: str
    content: str


class _Stored(Strict):
    """What a store's job may hold of additions: whoever can write to it can write anything."""

    scored: dict[str, list[str]] = Field(default_factory=dict)
    imported: list[_Imported] = Field(default_factory=list)


def of_store(store: Store) -> Additions:
    """Those of a store; none where it has no job yet.

    Raises:
        UserError: the store's job holds something else.
    """
    if not _has_job(store):
        return Additions()
    content = store.job()
    stored = {name: content[name] for name in ("scored", "imported") if name in content}
    config.validate(stored, _Stored, f"{store.root}/run.json")
    return Additions(scored=stored.get("scored", {}), imported=tuple(stored.get("imported", ())))


def write(store: Store, job: JobSpec, additions: Additions) -> None:
    """Put them into a store's job; of a store that has none yet, `job` is it, and nothing of it is done."""
    empty = {"spec": job.model_dump(mode="json"), "index": {"cells": [], "cases": {}}}
    store.write_job(additions.onto(store.job() if _has_job(store) else empty))


def _has_job(store: Store) -> bool:
    return storage.exists(storage.join(store.root, "run.json"))
