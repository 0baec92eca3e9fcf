"""Expands a job into its grid: cells, units, and the identities that their records are kept under."""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import PurePath
from typing import Any

from freqbench.attacks import Attack, LearnedAttack, SurrogateAttack
from freqbench.attacks.core.frequency import BLOCK_CUT, BlockAttack
from freqbench.core import config, limits, plugins
from freqbench.core.errors import UserError, unknown
from freqbench.core.identity import digest
from freqbench.core.types import CaseRef
from freqbench.data import Dataset
from freqbench.job import sweep
from freqbench.job.attacks import attack_identity, attack_params, attacks_on
from freqbench.job.checks import require_names
from freqbench.job.models import models_of, require_checkpoints, surrogates_of
from freqbench.job.schema import JobSpec, build_dataset
from freqbench.models import ModelEntry, ModelSpec, attack_windows, sliding_windows
from freqbench.models.checkpoints import record
from freqbench.results import Key, Shard

PROTOCOL_VERSION = 1
COUPLED_WINDOWS = 4  # at once in the code released with SA2


@dataclass(frozen=True, kw_only=True)
class Cell:
    """dataset x source model x attack x seed: the grid's element, with the models that score its volumes.

    `window_batch` is how many windows are attacked at once where the attack couples them; None where it does not, as
    their number is then free. `learns_from` are the cases that a LearnedAttack learns from, `surrogates` the models
    whose gradients a SurrogateAttack follows.
    """

    dataset: Dataset
    source: ModelSpec
    attack: Attack
    seed: int | None
    precision: str
    compile: bool
    targets: tuple[ModelSpec, ...]
    window_batch: int | None = None
    learns_from: tuple[CaseRef, ...] = ()
    surrogates: tuple[ModelSpec, ...] = ()

    @property
    def models(self) -> tuple[ModelSpec, ...]:
        """Those that its volumes are made with."""
        return self.source, *self.surrogates

    @property
    def attack_identity(self) -> dict[str, Any]:
        """As of the attack, its surrogates by what they compute in place of their names."""
        own = attack_identity(self.attack)
        if isinstance(self.attack, SurrogateAttack):
            own["surrogates"] = [surrogate.model_id for surrogate in self.surrogates]
        return own

    @cached_property
    def cell_id(self) -> str:
        """16 hex digits of all that the adversarial volumes depend on beside the case."""
        is_learned = isinstance(self.attack, LearnedAttack)
        return digest(
            {
                "protocol": PROTOCOL_VERSION,
                "recipe": self.dataset.whole_recipe(),
                "source": self.source.model_id,
                "attack": self.attack_identity,
                "seed": self.seed,
                "precision": self.precision,
                "compile": self.compile,
                **self._coupling,
                # What the reference is drawn from, not which it is: that depends on the seed and the case.
                **({"references": self.dataset.references} if self.attack.needs_reference else {}),
                **({"learns_from": [ref.fingerprint for ref in self.learns_from]} if is_learned else {}),
            }
        )

    @property
    def params(self) -> str:
        """All parameters of the attack as JSON text, and what the cell makes of them.

        That is `window_batch`, the windows attacked at once, where the attack couples them, and `block_cut`, the sides
        of its block, where the source's ROI cuts it. Of surrogates it names those that it has.
        """
        cut = {BLOCK_CUT: self.block_cut} if self.block_cut else {}
        names = [surrogate.name for surrogate in self.surrogates]
        own = {"surrogates": names} if isinstance(self.attack, SurrogateAttack) else {}
        return attack_params(self.attack, **self._coupling, **cut, **own)

    @property
    def _coupling(self) -> dict[str, int]:
        return {} if self.window_batch is None else {"window_batch": self.window_batch}

    @property
    def block_cut(self) -> str:
        """Sides of the attack's block where the source's ROI cuts it, else nothing.

        In no identity, as block and ROI are; of a volume that is attacked as one the ROI cuts none.
        """
        attack = self.attack
        if not isinstance(attack, BlockAttack) or attack.attacks_volume:
            return ""
        return "x".join(map(str, attack.shortened(self.source.roi) or ()))

    @property
    def learning_passes(self) -> int:
        """Forward and backward passes over windows that it takes to learn, once for all cases."""
        if not isinstance(self.attack, LearnedAttack):
            return 0
        passes = self.attack.learning_passes
        units = (Unit(cell=self, ref=ref, targets=()) for ref in self.learns_from)
        return sum(unit.passes_of(self.source, *passes) for unit in units)

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
    def name(self) -> str:
        """What a user calls it."""
        return f"{self.cell.attack.name} on {self.cell.source.name}, {self.ref.case_id}"

    @property
    def num_windows(self) -> int:
        """Windows to run; an upper bound where the source's space crops to foreground."""
        return self._windows(self.cell.source)

    @property
    def passes(self) -> int:
        """Forward and backward passes over windows, those of every draw of a random defence and of all surrogates."""
        return sum(map(self.passes_on, self.cell.models))

    def passes_on(self, model: ModelSpec) -> int:
        """The same of the source alone, which rows count, or of one surrogate."""
        attack = self.cell.attack
        if isinstance(attack, SurrogateAttack) and model is not self.cell.source:
            return self.passes_of(model, *attack.surrogate_passes)
        return self.passes_of(model, *attack.passes)

    def passes_of(self, model: ModelSpec, forwards: int, backwards: int) -> int:
        """The same of so many forward and backward passes of a sample by a model."""
        windows = self._windows(model)
        if self.cell.attack.attacks_volume and windows > 1:
            forwards += backwards  # see SlidingWindowModel
        return windows * (forwards + backwards) * model.passes

    def _windows(self, model: ModelSpec) -> int:
        shape = self.cell.dataset.shape_in(self.ref, model.space)
        if self.cell.attack.attacks_volume:
            return len(sliding_windows(shape, model.roi, model.inference.overlap))
        return len(attack_windows(shape, model.roi))


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A job, resolved: all that it asks for.

    Attributes:
        job: that it was made from; what is carried out goes by its resources, precision and window batch.
        cells: in the job's order, each once.
        cases: of each dataset, by its name.
        metrics: that every record is to cover.
        warnings: what a user should know before the run.
    """

    job: JobSpec
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


def expand(job: JobSpec, limit_cases: int | None = None, where: str = "job") -> Grid:
    """The grid of a job: datasets built and listed, models resolved and checked, lists multiplied into cells.

    Raises:
        UserError: one line that begins with `where` and the place.
    """
    with plugins.trusting(job.trust_code):
        return _expanded(job, limit_cases, where)


def _expanded(job: JobSpec, limit_cases: int | None, where: str) -> Grid:
    require_names(job, where)
    datasets = [build_dataset(entry, f"{where}: datasets[{i}]") for i, entry in enumerate(job.datasets)]
    coupled = COUPLED_WINDOWS if job.window_batch == "auto" else job.window_batch
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        attacks = {dataset.name: list(attacks_on(job, i, dataset, where)) for i, dataset in enumerate(datasets)}
    with sweep.at(where):
        found = [(attack, len(only)) for each in attacks.values() for attack, only in each]
        count = sum(sources * (len(job.seeds) if attack.is_stochastic else 1) for attack, sources in found)
        limits.require(count, limits.CELLS, "cells")
    said = [str(warning.message) for warning in caught]
    cells: dict[tuple[str, str], Cell] = {}
    cases: dict[str, tuple[CaseRef, ...]] = {}
    lists: dict[tuple[str, str, int | None], tuple[CaseRef, ...]] = {}
    twice = 0
    for i, dataset in enumerate(datasets):
        with sweep.at(f"{where}: datasets[{i}]"):
            refs = dataset.refs()
            cases[dataset.name] = sweep.with_own_files(refs[:limit_cases])
            if not cases[dataset.name]:
                raise UserError(f"{dataset.name}: expected at least one case, got none: leave `cases` out for all")
            if any(attack.needs_reference for attack, _ in attacks[dataset.name]):
                dataset.other(cases[dataset.name][0], seed=0)  # refuses a split of one case
            for attack, _ in attacks[dataset.name]:
                if isinstance(attack, LearnedAttack):
                    lists[dataset.name, attack.learn_split, attack.learn_cases] = learning_cases(dataset, attack, refs)
        require_checkpoints(job.models, dataset, where)
    for dataset in datasets:
        models = models_of(job.models, dataset, where)
        for model in models.values():
            if model.is_prompted:
                said.append(
                    f"{model.name}: sees points from the labels: compare its scores with those of networks that see as "
                    "much, and of no other"
                )
            said += record.concerns(model, dataset.name, dataset.class_names, cases[dataset.name], dataset.space)
        for source, (attack, only) in product(models.values(), attacks[dataset.name]):
            if source.name not in only:
                continue
            targets = _targets(job, models, source)
            if attack.moves_labels:
                within = tuple(target for target in targets if _sees_alike(dataset, source, target))
                said += [
                    f"{attack.name}: not scored on {target.name}, as labels move on the grid of {source.name}"
                    for target in targets
                    if target not in within
                ]
                targets = within
            learns_from: tuple[CaseRef, ...] = ()
            if isinstance(attack, LearnedAttack):
                learns_from = lists[dataset.name, attack.learn_split, attack.learn_cases]
            surrogates: tuple[ModelSpec, ...] = ()
            if isinstance(attack, SurrogateAttack):
                with sweep.at(where):
                    surrogates = surrogates_of(attack, source, models)
                if source.name in attack.surrogates:
                    said.append(f"{attack.name}: {source.name} is no surrogate of itself: left out there")
            for seed in job.seeds if attack.is_stochastic else [None]:
                cell = Cell(
                    dataset=dataset,
                    source=source,
                    attack=attack,
                    seed=seed,
                    precision=job.precision,
                    compile=job.compile,
                    targets=targets,
                    window_batch=coupled if attack.couples_batch else None,
                    learns_from=learns_from,
                    surrogates=surrogates,
                )
                twice += cells.setdefault((dataset.name, cell.cell_id), cell) is not cell
                if cut := cell.block_cut:
                    said.append(f"{attack.name}: its block is longer than a window of {source.name}: cut to {cut}")
    if twice:
        said.append(f"{twice} cells are the same as one before: each is computed once")
    with sweep.at(where):
        count = sum(len(cell.targets) * len(cases[cell.dataset.name]) for cell in cells.values())
        limits.require(count, limits.RECORDS, "records")
    return Grid(
        job=job, cells=tuple(cells.values()), cases=cases, metrics=job.metrics, warnings=tuple(dict.fromkeys(said))
    )


def learning_cases(dataset: Dataset, attack: LearnedAttack, scored: Sequence[CaseRef]) -> tuple[CaseRef, ...]:
    """The cases that an attack learns from, none of them among those that are scored.

    Raises:
        UserError: no such split or not as many cases, or one of them or its patient is scored too.
    """
    known = {ref.fingerprint for ref in scored} | {ref.patient_id for ref in scored}
    refs = dataset.model_copy(update={"cases": attack.learn_cases}).refs(attack.learn_split)
    if not refs:
        raise UserError(
            f"{attack.name}: expected a dataset whose split {attack.learn_split!r} has cases to learn from, got none: "
            "set learn_split, or from Python call `learn` of the attack"
        )
    shared = [ref.case_id for ref in refs if ref.fingerprint in known or ref.patient_id in known]
    if shared:
        raise UserError(
            f"{attack.name}: expected to learn from no case or patient that is scored, got {len(shared)} of the split "
            f"{attack.learn_split!r} (first: {shared[0]}): set another learn_split, or other cases to score"
        )
    return refs


def further_targets(job: JobSpec, names: Sequence[str]) -> Grid:
    """The grid of a job with its cells scored on other targets: for volumes that are there already.

    Args:
        job: that made the volumes.
        names: models of the job, or checkpoints that say their own architecture (`zoo://...`, safetensors); a
            checkpoint is called by its file name, or as `NAME=CHECKPOINT` says.

    Raises:
        UserError: neither a model of the job nor such a checkpoint.
    """
    own = {entry.name: entry for entry in job.models}
    by_checkpoint = {entry.checkpoint: entry.name for entry in job.models if entry.defence is None}
    targets: list[str] = []
    added: list[ModelEntry] = []
    for text in dict.fromkeys(names):
        name, _, checkpoint = text.rpartition("=")
        if checkpoint in own or checkpoint in by_checkpoint:
            targets.append(checkpoint if checkpoint in own else by_checkpoint[checkpoint])
            continue
        if re.fullmatch(r"\w*", checkpoint):  # a word without dot or slash is no checkpoint
            raise UserError(f"targets: {unknown('model', checkpoint, own)}; or give a checkpoint's path")
        name = name or PurePath(checkpoint).stem
        added.append(config.validate({"name": name, "checkpoint": checkpoint}, ModelEntry, "targets"))
        if name in own:
            raise UserError(f"targets: {name!r} is a model of the job already: write NAME={checkpoint}")
        targets.append(name)
    extended = job.model_copy(update={"models": [*job.models, *added], "targets": targets})
    grid = expand(extended, where="targets")
    sources = tuple(cell for cell in grid.cells if cell.source.name in own)
    return replace(grid, job=job, cells=sources)


def _sees_alike(dataset: Dataset, source: ModelSpec, target: ModelSpec) -> bool:
    """Whether two models see the dataset in one space."""
    spaces = [(model.space or dataset.space).identity() for model in (source, target)]
    return spaces[0] == spaces[1]


def _targets(job: JobSpec, models: Mapping[str, ModelSpec], source: ModelSpec) -> tuple[ModelSpec, ...]:
    if job.targets == "all":
        return tuple(models.values())
    if job.targets == "source":
        return (source,)
    return tuple(models[name] for name in dict.fromkeys(job.targets) if name in models)
