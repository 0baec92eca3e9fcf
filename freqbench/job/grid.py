"""Holds the grid of a job: cells, units, and the identities that their records are kept under."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from functools import cached_property
from typing import Any

from freqbench.attacks import Attack
from freqbench.attacks.core.frequency import BlockAttack
from freqbench.core.identity import digest
from freqbench.core.plugins import provenance
from freqbench.core.types import CaseRef
from freqbench.data import Dataset
from freqbench.models import ModelSpec, attack_windows, sliding_windows
from freqbench.results import Key, Shard

PROTOCOL_VERSION = 1
BLOCK_CUT = "block_cut"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """dataset x source model x attack x seed: the grid's element, with the models that score its volumes.

    `window_batch` is how many windows are attacked at once where the attack couples them; None where it does not, as
    their number is then free.
    """

    dataset: Dataset
    source: ModelSpec
    attack: Attack
    seed: int | None
    precision: str
    compile: bool
    targets: tuple[ModelSpec, ...]
    window_batch: int | None = None

    @cached_property
    def cell_id(self) -> str:
        """16 hex digits of all that the adversarial volumes depend on beside the case."""
        return digest(
            {
                "protocol": PROTOCOL_VERSION,
                "recipe": self.dataset.whole_recipe(),
                "source": self.source.model_id,
                "attack": attack_identity(self.attack),
                "seed": self.seed,
                "precision": self.precision,
                "compile": self.compile,
                **self._coupling,
                # What the reference is drawn from, not which it is: that depends on the seed and the case.
                **({"references": self.dataset.references} if self.attack.needs_reference else {}),
            }
        )

    @property
    def params(self) -> str:
        """All parameters of the attack as JSON text, and what the cell makes of them.

        That is `window_batch`, the windows attacked at once, where the attack couples them, and `block_cut`, the sides
        of its block, where the source's ROI cuts it.
        """
        return attack_params(self.attack, **self._coupling, **self._block_cut)

    @property
    def _coupling(self) -> dict[str, int]:
        return {} if self.window_batch is None else {"window_batch": self.window_batch}

    @property
    def _block_cut(self) -> dict[str, str]:
        """In no identity, as block and ROI are; of a volume that is attacked as one the ROI cuts none."""
        attack = self.attack
        cut = None
        if isinstance(attack, BlockAttack) and not attack.attacks_volume:
            cut = attack.shortened(self.source.roi)
        return {BLOCK_CUT: "x".join(map(str, cut))} if cut else {}

    def key(self, ref: CaseRef, target: ModelSpec) -> Key:
        """The key of one record."""
        return self.cell_id, self.dataset.case_key(ref), target.model_id


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One cell on one case with the targets still wanted: what a worker is given."""

    cell: Cell
    ref: CaseRef
    targets: tuple[ModelSpec, ...]

    @property
    def num_windows(self) -> int:
        """Windows to run; an upper bound where the source's space crops to foreground."""
        source = self.cell.source
        shape = self.cell.dataset.shape_in(self.ref, source.space)
        if self.cell.attack.attacks_volume:
            return len(sliding_windows(shape, source.roi, source.inference.overlap))
        return len(attack_windows(shape, source.roi))

    @property
    def passes(self) -> int:
        """Forward and backward passes over windows, those of every draw of a random defence."""
        forwards, backwards = self.cell.attack.passes
        if self.cell.attack.attacks_volume and self.num_windows > 1:
            forwards += backwards  # see SlidingWindowModel
        return self.num_windows * (forwards + backwards) * self.cell.source.passes


@dataclass(frozen=True, kw_only=True)
class Grid:
    """All that a job asks for.

    Attributes:
        cells: in the job's order, each once.
        cases: of each dataset, by its name.
        metrics: that every record is to cover.
        warnings: what a user should know before the run.
    """

    cells: tuple[Cell, ...]
    cases: Mapping[str, tuple[CaseRef, ...]]
    metrics: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    def units(self) -> Iterator[Unit]:
        """Every cell on every case with all its targets."""
        for cell in self.cells:
            for ref in self.cases[cell.dataset.name]:
                yield Unit(cell=cell, ref=ref, targets=cell.targets)

    def shard(self, shard: Shard) -> "Grid":
        """The cells of one shard."""
        return replace(self, cells=tuple(cell for cell in self.cells if shard.holds(cell.cell_id)))

    @cached_property
    def case_keys(self) -> Mapping[str, tuple[str, ...]]:
        """The key of every case, in the order of `cases`: found once, as every cell asks for them."""
        by_name = {cell.dataset.name: cell.dataset for cell in self.cells}
        return {name: tuple(by_name[name].case_key(ref) for ref in refs) for name, refs in self.cases.items()}

    def index(self) -> dict[str, Any]:
        """The keys of all records in a compact form that JSON can hold; `results.index_keys` spells them out."""
        return {
            "cells": [
                {
                    "cell_id": cell.cell_id,
                    "dataset": cell.dataset.name,
                    "targets": [target.model_id for target in cell.targets],
                }
                for cell in self.cells
            ],
            "cases": {name: list(keys) for name, keys in self.case_keys.items()},
        }


def attack_identity(attack: Attack) -> dict[str, Any]:
    """Name, revision and the parameters that differ from their default, so that a new parameter changes no old id."""
    values = {field: getattr(attack, field.name) for field in fields(attack)}
    changed = {
        field.name: float(value) if field.type is float else value  # 0 and 0.0 are one budget
        for field, value in values.items()
        if field.default is MISSING or value != field.default
    }
    return {"name": attack.name, "revision": attack.revision, **changed, **provenance(type(attack))}


def attack_params(attack: Attack, **besides: int | str) -> str:
    """All parameters of an attack, and what stands besides them, as JSON text."""
    values = {field.name: getattr(attack, field.name) for field in fields(attack)}
    return json.dumps(values | besides, sort_keys=True)


def attack_entry(attack: Attack) -> dict[str, Any]:
    """An attack as a job file would have it: its name and the parameters that differ from their default."""
    identity = attack_identity(attack)
    name = identity.get("class", attack.name)
    hidden = ("name", "revision", "class", "source_sha256")
    changed = {key: value for key, value in identity.items() if key not in hidden}
    return {"name": name} | {
        key: [list(value)] if isinstance(value, tuple) else value for key, value in changed.items()
    }
