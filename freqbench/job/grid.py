"""Expands a job into its grid of cells."""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, product
from pathlib import PurePath
from typing import Any

from freqbench.attacks import Attack, LearnedAttack, SurrogateAttack
from freqbench.core import config, limits, plugins
from freqbench.core.code import steady
from freqbench.core.errors import UserError, unknown
from freqbench.core.terminal import amount
from freqbench.core.types import CaseRef, ScoredOn
from freqbench.data import Dataset, ListedFolder
from freqbench.data.loaders.images import Images
from freqbench.data.witnesses import NoPredictionsError, Witness, find
from freqbench.job import fit, sweep
from freqbench.job.attacks import attack_of
from freqbench.job.cells import Cell, Unit
from freqbench.job.schema import JobSpec, build_dataset, require_names
from freqbench.job.sweep import models_for, require_known
from freqbench.models import Facts, ModelEntry, ModelSpec, resolve, resolve_ensemble, stated_classes
from freqbench.models.defences.detectors import Detector
from freqbench.models.resolving import axes_notes, file_concerns, scoring_concerns
from freqbench.pipelines import Pipeline
from freqbench.results import Shard

WITHOUT_GRADIENT = "square, rays, bases, gn, random_noise, corruption"
COUPLED_WINDOWS = 4  # windows at once in the code released with SA2
_Attacking = tuple[Attack, Sequence[str]]  # an attack and the names of its sources
_Sourced = tuple[Attack, Sequence[str], tuple[CaseRef, ...]]  # likewise, and the cases it learns from
_OnDataset = tuple[str, str]  # a dataset's name, and a model's id or name


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A resolved job: all cells and cases that it asks for."""

    job: JobSpec  # the job that it was made from; the run uses its resources, precision and window batch
    cells: tuple[Cell, ...]  # in the job's order, each once
    cases: Mapping[str, tuple[CaseRef, ...]]  # cases of each dataset, by its name
    metrics: tuple[str, ...]  # metrics that every record has to cover
    warnings: tuple[str, ...] = ()  # warnings for the user before the run
    notes: tuple[str, ...] = ()  # lines on what the datasets' files show, and how networks are given them
    witnesses: Mapping[_OnDataset, Witness] = field(default_factory=dict)  # by dataset's name and model's id
    clean: Mapping[_OnDataset, str] = field(default_factory=dict)  # words on what a clean number rests, likewise

    def units(self) -> Iterator[Unit]:
        """Yields every cell on every case with all its targets."""
        for cell in self.cells:
            for ref in self.cases[cell.dataset.name]:
                yield Unit(cell=cell, ref=ref, targets=cell.targets)

    def shard(self, shard: Shard) -> "Grid":
        """Returns the grid with the cells of one shard."""
        return replace(self, cells=tuple(cell for cell in self.cells if shard.holds(cell.cell_id)))

    @cached_property
    def case_keys(self) -> Mapping[str, tuple[str, ...]]:
        """Keys of every case, in the order of `cases`; computed once, as every cell asks for them."""
        by_name = {cell.dataset.name: cell.dataset for cell in self.cells}
        return {name: tuple(map(by_name[name].case_key, refs)) for name, refs in self.cases.items()}

    def index(self) -> dict[str, Any]:
        """Returns record keys (for `results.index_keys`) and names by identity (for `results.naming`), for JSON."""
        names: dict[str, dict[str, Any]] = {}
        cells = []
        for cell in self.cells:
            of = cell.dataset.name
            refs = self.cases[of]
            targets = [target.model_id for target in cell.targets]
            cells.append({"cell_id": cell.cell_id, "dataset": of, "targets": targets})
            if cell.surrogates:
                cells[-1]["params"] = cell.params
            if of not in names:
                case_ids = [ref.case_id for ref in refs]
                patients = [ref.patient_id for ref in refs]
                classes = list(cell.dataset.class_names)
                names[of] = {"models": {}, "classes": classes, "case_ids": case_ids, "patients": patients}
            names[of]["models"] |= {each.model_id: each.name for each in (cell.source, *cell.targets)}
        for (of, model_id), words in self.clean.items():
            if of in names:
                names[of].setdefault("clean", {})[model_id] = words
        return {"cells": cells, "cases": {name: list(keys) for name, keys in self.case_keys.items()}, "names": names}


def expand(job: JobSpec, limit_cases: int | None = None) -> Grid:
    """Expands a job: checks datasets and models, multiplies lists into cells; raises UserError after file and place.
    `limit_cases` is the number of first cases of each dataset that are attacked; None: all."""
    with expanding(job) as expansion:
        return expansion.grid(job, limit_cases)


@contextmanager
def expanding(job: JobSpec) -> Iterator["Expansion"]:
    """Context in which a job is expanded, once or with other attacks; it runs third-party code if the job allows it."""
    with plugins.trusting(job.trust_code), steady():
        yield Expansion(job)


class Expansion:
    """The datasets and models of a job, read once; `grid` multiplies the job's attacks, or others, over them."""

    def __init__(self, job: JobSpec) -> None:
        self._job = job

    def grid(self, job: JobSpec, limit_cases: int | None = None) -> Grid:
        """Returns the grid of the job with the attacks of `job`; `limit_cases` and UserError as for `expand`."""
        with sweep.prefix_errors(job.where):
            return self._grid(job, limit_cases)

    def _grid(self, job: JobSpec, limit_cases: int | None) -> Grid:
        attacks, concerns = self._attacks(job)
        cases, sourced = self._cases(attacks, limit_cases, concerns)
        notes = [*_idle_settings(job), *self._notes_on_datasets()]
        witnesses = self._witnesses(cases)
        assumed: dict[_OnDataset, Sequence[fit.Assumption]] = {}
        table: list[Cell] = []
        for i, (dataset, models) in enumerate(zip(self._datasets, self._models, strict=True)):
            refs = cases[dataset.name]
            notes += self._notes_on_spaces(i, refs)
            assumed |= self._assumptions(i)
            notes += self._notes_on_models(dataset, assumed)
            concerns += _concerns_of_models(models, self._facts[i], dataset, refs)
            table += _cells(job, dataset, models, sourced[i], concerns)
        notes += self._notes_on_witnesses(witnesses)
        if len(job.seeds) > 1 and all(cell.seed is None for cell in table):
            notes.append(f"seeds: no attack draws: the {len(job.seeds)} seeds give the same cells")
        cells = _each_once(table)
        if twice := len(table) - len(cells):
            concerns.append(f"{twice} cells are the same as one before: each is computed once")
        num_records = sum(len(cell.targets) * len(cases[cell.dataset.name]) for cell in cells)
        limits.require(num_records, limits.RECORDS, "records")
        return Grid(
            job=job,
            cells=cells,
            cases=cases,
            metrics=job.metrics,
            warnings=tuple(dict.fromkeys(concerns)),
            notes=tuple(dict.fromkeys(notes)),
            witnesses=witnesses,
            clean=self._words_on_clean(assumed),
        )

    def _attacks(self, job: JobSpec) -> tuple[list[list[_Attacking]], list[str]]:
        """Returns the attacks on each dataset with the names of their sources, and what they warn of, within limits."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            attacks = [list(_attacks_on(job, i, dataset)) for i, dataset in enumerate(self._datasets)]
        num_cells = 0
        for attack, only in chain.from_iterable(attacks):
            num_cells += len(only) * len(_seeds(job, attack))
        limits.require(num_cells, limits.CELLS, "cells")
        return attacks, [str(warning.message) for warning in caught]

    def _cases(
        self, attacks: Sequence[Sequence[_Attacking]], limit_cases: int | None, concerns: list[str]
    ) -> tuple[dict[str, tuple[CaseRef, ...]], list[list[_Sourced]]]:
        """Returns the cases of each dataset and its attacks with what they learn from; adds remarks to `concerns`."""
        cases: dict[str, tuple[CaseRef, ...]] = {}
        sourced: list[list[_Sourced]] = []
        for i, (dataset, refs) in enumerate(zip(self._datasets, self._refs, strict=True)):
            with sweep.prefix_errors(f"datasets[{i}]"):
                first = sweep.require_own_files(refs[:limit_cases])
                if not first:
                    raise UserError(f"{dataset.name}: expected at least one case, got none: leave `cases` out for all")
                cases[dataset.name] = first
                concerns += dataset.remarks([ref.patient_id for ref in refs])
                if any(attack.needs_reference for attack, _ in attacks[i]):
                    dataset.other(first[0], seed=0)  # refuses a split of one case
                sourced.append([(*pair, learning_cases(dataset, pair[0], refs)) for pair in attacks[i]])
        return cases, sourced

    def _notes_on_datasets(self) -> Iterator[str]:
        """Yields lines on what the files of the datasets show, and on what another package's class does to them."""
        for dataset in self._datasets:
            if isinstance(dataset, ListedFolder):
                yield from dataset.notes
            yield from fit.space_notes(dataset)

    def _notes_on_spaces(self, number: int, refs: Sequence[CaseRef]) -> Iterator[str]:
        """Yields lines on how the models of dataset `number` are given its cases `refs`."""
        name = self._datasets[number].name
        for model in self._models[number].values():
            own = self._facts[number][(model.members or (model,))[0].name]  # of an ensemble those of its first member
            yield from model.found
            yield from axes_notes(model, own, name, refs)
            if isinstance(model.space, Pipeline):
                yield f"{model.name}: {model.space.rule}"

    def _assumptions(self, number: int) -> dict[_OnDataset, Sequence[fit.Assumption]]:
        """Returns what is assumed of each network on dataset `number`; refuses what the dataset contradicts."""
        dataset = self._datasets[number]
        stated = self._job.datasets[number].own
        assumed: dict[_OnDataset, Sequence[fit.Assumption]] = {}
        for _, entry in _members_first(self._job.models, dataset):
            if not entry.ensemble:
                found = fit.assumptions(entry, self._facts[number][entry.name], dataset, stated)
                assumed[dataset.name, entry.name] = found
                with sweep.prefix_errors(f"datasets[{number}]"):
                    fit.require_possible(found, dataset)
        return assumed

    def _notes_on_models(
        self, dataset: Dataset, assumed: Mapping[_OnDataset, Sequence[fit.Assumption]]
    ) -> Iterator[str]:
        """Yields lines on what is assumed of the models for a dataset, and which of their Dice is not judged on it."""
        name = dataset.name
        for _, entry in _members_first(self._job.models, dataset):
            yield from fit.note_of(f"{entry.name} on {name}", assumed.get((name, entry.name), ()))
            if entry.expected_dice is not None and dataset.reference == "prediction":
                unjudged = f"expected_dice is not judged on {name}, which has no label maps"
                yield f"{entry.name}: {unjudged}"

    def _notes_on_witnesses(self, witnesses: Mapping[_OnDataset, Witness]) -> Iterator[str]:
        """Yields a line per network that is held against predictions of its own code."""
        names = {(dataset.name, model.model_id): model.name for dataset, model in self._pairs()}
        for (dataset_name, model_id), witness in witnesses.items():
            name = names[dataset_name, model_id]
            held = f"is held against its own predictions of {amount(len(witness.refs), 'case')} before the first attack"
            yield f"{name} on {dataset_name}: {held}"

    def _words_on_clean(self, assumed: Mapping[_OnDataset, Sequence[fit.Assumption]]) -> dict[_OnDataset, str]:
        """Returns what the clean number of each model with weights rests on, by dataset's name and model's id."""
        words: dict[_OnDataset, str] = {}
        for dataset, model in self._pairs():
            if not model.is_random:
                words[dataset.name, model.model_id] = fit.words_on_clean(model, dataset.name, assumed)
        return words

    def _pairs(self) -> Iterator[tuple[Dataset, ModelSpec]]:
        """Yields each dataset with each of its models."""
        for dataset, models in zip(self._datasets, self._models, strict=True):
            for model in models.values():
                yield dataset, model

    def _witnesses(self, cases: Mapping[str, Sequence[CaseRef]]) -> dict[_OnDataset, Witness]:
        """Returns the predictions of networks' own code by dataset and model; refuses those of no case of any."""
        found: dict[_OnDataset, Witness] = {}
        missing: dict[int, NoPredictionsError] = {}
        for dataset, models in zip(self._datasets, self._models, strict=True):
            for i, entry in _members_first(self._job.models, dataset):
                if entry.predictions and entry.name in models:
                    with sweep.prefix_errors(f"models[{i}]"):
                        try:
                            key = dataset.name, models[entry.name].model_id
                            found[key] = find(entry.predictions, dataset, entry.name, cases[dataset.name])
                        except NoPredictionsError as error:
                            missing[i] = error
        ids = {model_id for _, model_id in found}
        for i, refusal in missing.items():
            name = self._job.models[i].name
            if ids.isdisjoint(models[name].model_id for models in self._models if name in models):
                raise UserError(f"models[{i}]: {refusal}")
        return found

    @cached_property
    def _datasets(self) -> list[Dataset]:
        return [_dataset_of(self._job, i) for i in range(len(self._job.datasets))]

    @cached_property
    def _refs(self) -> list[tuple[CaseRef, ...]]:
        refs = []
        for i, dataset in enumerate(self._datasets):
            with sweep.prefix_errors(f"datasets[{i}]"):
                refs.append(dataset.refs())
        return refs

    @cached_property
    def _facts(self) -> list[Mapping[str, Facts]]:
        facts: list[Mapping[str, Facts]] = []
        for dataset, refs in zip(self._datasets, self._refs, strict=True):
            facts.append(of_dataset := {})
            for i, entry in _members_first(self._job.models, dataset):
                if not entry.ensemble:
                    with sweep.prefix_errors(f"models[{i}]"):
                        of_dataset[entry.name] = fit.facts_on(entry, dataset, refs)
        return facts

    @cached_property
    def _models(self) -> list[dict[str, ModelSpec]]:
        """The models for each dataset, by name; the facts on all datasets are read before the first network is made."""
        return [
            _models_of(self._job.models, *of_dataset)
            for of_dataset in zip(self._facts, self._datasets, self._refs, strict=True)
        ]


def _seeds(job: JobSpec, attack: Attack) -> Sequence[int | None]:
    return job.seeds if attack.is_stochastic else (None,)


def _concerns_of_models(
    models: Mapping[str, ModelSpec], facts: Mapping[str, Facts], dataset: Dataset, refs: Sequence[CaseRef]
) -> Iterator[str]:
    """Yields what a user should know of the models for a dataset."""
    for name, model in models.items():
        yield from model.notes
        if not model.members:
            yield from scoring_concerns(model, facts[name], dataset.name, dataset.class_names, refs, dataset.space)
    for model in models.values():
        if model.black_box:
            advice = "attacks without gradients alone run on it, and volumes made on other models are scored on it"
            yield f"{model.name}: a black box, as {model.black_box}: {advice}"


def _idle_settings(job: JobSpec) -> Iterator[str]:
    """Yields lines on keys of a job that change nothing, as another one is not set."""
    if job.save_only and job.save_adversarial == "none":
        idle = f"saves no volumes of {', '.join(job.save_only)}: that needs save_adversarial: nifti"
        yield f"save_only: {idle}"
    if job.training and not any(entry.is_to_train or entry.trained for entry in job.models):
        yield "training: trains nothing: that needs a model with a checkpoint train://NAME"


def _each_once(table: Sequence[Cell]) -> tuple[Cell, ...]:
    """Returns the first of cells that are the same on a dataset."""
    cells: dict[tuple[str, str], Cell] = {}
    for cell in table:
        cells.setdefault((cell.dataset.name, cell.cell_id), cell)
    return tuple(cells.values())


def _cells(
    job: JobSpec, dataset: Dataset, models: Mapping[str, ModelSpec], attacks: Sequence[_Sourced], concerns: list[str]
) -> Iterator[Cell]:
    """Yields the cells of one dataset, and adds to `concerns`."""
    coupled = COUPLED_WINDOWS if job.window_batch == "auto" else job.window_batch
    for source, (attack, only, learns_from) in product(models.values(), attacks):
        called = source.name
        if called not in only:
            continue
        if source.black_box and attack.needs_gradient:
            concerns.append(_left_out(attack, source, [model for name, model in models.items() if name in only]))
            continue
        targets = _targets_of(job, source, models)
        scored_on = job.score_on or default_grid(attack, targets)
        if job.score_on == ScoredOn.FILE:
            _require_labels_at_rest(attack)
            for target in targets:
                concerns += file_concerns(target)
        if attack.moves_labels:
            within = tuple(target for target in targets if _grid_of(target, dataset) == _grid_of(source, dataset))
            reason = f"as labels move on the grid of {called}"
            concerns += [
                f"{attack.name}: not scored on {each.name}, {reason}" for each in targets if each not in within
            ]
            targets = within
        _require_detector_known(attack, source)
        if called in getattr(attack, "surrogates", ()):
            concerns.append(f"{attack.name}: {called} is no surrogate of itself: left out there")
        surrogates = surrogates_of(attack, source, models)
        for seed in _seeds(job, attack):
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
                scored_on=scored_on,
                saves=_is_saved(job, attack),
            )
            if cut := cell.block_cut:
                concerns.append(f"{attack.name}: its block is longer than a window of {called}: cut to {cut}")
            yield cell


def _targets_of(job: JobSpec, source: ModelSpec, models: Mapping[str, ModelSpec]) -> tuple[ModelSpec, ...]:
    """Returns the models of a dataset that score the volumes of a source, in the order of the job's `targets`."""
    named = {"source": [source.name], "all": [*models]}.get(str(job.targets), job.targets)
    return tuple(models[name] for name in dict.fromkeys(named) if name in models)


def _is_saved(job: JobSpec, attack: Attack) -> bool:
    """Says if a job that saves volumes saves those of an attack."""
    return not job.save_only or not {attack.name, plugins.path_of(type(attack))}.isdisjoint(job.save_only)


def _left_out(attack: Attack, source: ModelSpec, sources: Sequence[ModelSpec]) -> str:
    """Words that an attack is not made on a black box; refuses it if no other of its `sources` has gradients."""
    if all(model.black_box for model in sources):
        advice = f"take {WITHOUT_GRADIENT} or a null row, or another source"
        got = f"got {source.name}, a black box, as {source.black_box}: {advice}"
        raise UserError(f"{attack.name}: expected a source that gradients go through, {got}")
    left = "a black box: volumes of its other sources are scored on it"
    return f"{attack.name}: not made on {source.name}, {left}"


def _require_labels_at_rest(attack: Attack) -> None:
    """Refuses to score an attack that moves labels on the grid of the file."""
    if attack.moves_labels:
        rest = "as its labels move on the grid that is attacked, got file: score it there, in a job of its own"
        raise UserError(f"{attack.name}: expected {ScoredOn.GRID.key}, {rest}")


def _grid_of(model: ModelSpec, dataset: Dataset) -> Mapping[str, Any]:
    """Returns the identity of the space that a model sees cases in, on whose grid labels move."""
    return (model.space or dataset.space).identity()


def _require_detector_known(attack: Attack, source: ModelSpec) -> None:
    """Refuses an attack by gradients on an adaptive detector that its steps do not take into account."""
    knows_detector = isinstance(source.defence, Detector) and source.adaptive and any(attack.passes)
    if knows_detector and (attack.scope == "window" or getattr(attack, "step_rule", "") != "cosine"):
        rest = "which alone know a detector: set scope: joint and step_rule: cosine, or adaptive: false"
        raise UserError(f"{attack.name} on {source.name}: expected an attack on the volume in cosine steps, {rest}")


def _dataset_of(job: JobSpec, number: int) -> Dataset:
    """Builds a dataset; classes that neither its entry nor its files state are those of the first model that does."""
    place = f"datasets[{number}]"
    dataset = build_dataset(job.datasets[number], place)
    if "calibration" in job.metrics:
        with sweep.prefix_errors(place):
            dataset.require_labels("the metric calibration", "which tell if a confident prediction is right")
    if isinstance(dataset, Images) and dataset.labels is None:
        for i, entry in _members_first(job.models, dataset):
            with sweep.prefix_errors(f"models[{i}]"):
                classes = None if entry.ensemble else stated_classes(entry)
            if classes is not None:
                return dataset.model_copy(update={"labels": classes})
    return dataset


def _attacks_on(job: JobSpec, number: int, dataset: Dataset) -> Iterator[_Attacking]:
    """Yields the attacks on one dataset, each with the source models that it is for."""
    name = dataset.name
    with sweep.prefix_errors(f"datasets[{number}]"):
        dataset.class_names, dataset.num_channels  # noqa: B018 (their refusals are the dataset's, not the attack's)
    datasets = [entry.name for entry in job.datasets]
    sources = models_for(job.models, name)
    models = [model.name for model in job.models]
    for i, entry in enumerate(job.attacks):
        place = f"attacks[{i}]"
        if name in entry.only("datasets", datasets, place):
            for written, only in entry.settings_on(name, sources, models, place):
                yield attack_of(entry.class_name, written, dataset, place), only


def _models_of(
    given: Sequence[ModelEntry], facts: Mapping[str, Facts], dataset: Dataset, scored: Sequence[CaseRef]
) -> dict[str, ModelSpec]:
    """Resolves a job's models for one dataset, in the job's order; refuses the same network twice."""
    models: dict[str, ModelSpec] = {}
    asked = (len(dataset.classes), dataset.num_channels, dataset.space)
    for i, entry in _members_first(given, dataset):
        with sweep.prefix_errors(f"models[{i}]"):
            if entry.ensemble:
                model = resolve_ensemble(entry, [models[name] for name in entry.ensemble])
            else:
                model = resolve(entry, *asked, facts=facts[entry.name])
            defence = model.defence
            clean = learning_cases(dataset, defence, scored)
            if isinstance(defence, Detector):
                defence.require_enough(len(clean))
            model = replace(model, learns_from={dataset.case_key(ref): ref for ref in clean})
            same = [name for name, other in models.items() if other.model_id == model.model_id]
            if same:  # their records would replace each other
                raise UserError(f"{entry.name}: the same network with the same weights as {same[0]}: give it once")
            models[entry.name] = model
    return {name: models[name] for name in models_for(given, dataset.name)}


def surrogates_of(attack: Attack, source: ModelSpec, models: Mapping[str, ModelSpec]) -> tuple[ModelSpec, ...]:
    """Returns the models whose gradients an attack follows, without the source and ensembles of it; empty if none are
    needed. Raises UserError for an unknown name, none left, or one with other classes, channels, window or space."""
    if not isinstance(attack, SurrogateAttack):
        return ()
    wanted = attack.surrogates
    place = f"{attack.name}.surrogates"
    require_known("model", wanted, models, place)
    surrogates: list[ModelSpec] = []
    for name in wanted:
        model = models[name]
        if source.model_id not in {net.model_id for net in (model, *model.members)}:
            surrogates.append(model)
    if not surrogates:
        there = f"got {', '.join(wanted) or 'none'}: name some, or say in sources which models to attack"
        raise UserError(f"{place}: expected other models of the job than {source.name}, which is attacked, {there}")
    for model in surrogates:
        if model.black_box:
            raise UserError(f"{place}: expected networks with gradients, got {model.name}, as {model.black_box}")
        for what in ("num_classes", "head", "num_channels", "roi", "space"):
            ours = getattr(source, what)
            theirs = getattr(model, what)
            if ours != theirs:
                there = f"got {theirs} of {model.name}: state one for both, or leave it out"
                raise UserError(f"{place}: expected models of the same {what} as {source.name}, {ours}, {there}")
    return tuple(surrogates)


def _members_first(entries: Sequence[ModelEntry], dataset: Dataset) -> list[tuple[int, ModelEntry]]:
    """Returns the models for a dataset, each with its number in the job, ensembles last."""
    asked = [(i, entry) for i, entry in enumerate(entries) if dataset.name in (entry.datasets or [dataset.name])]
    return sorted(asked, key=lambda numbered: numbered[1].ensemble is not None)


def learning_cases(dataset: Dataset, learner: object, scored: Sequence[CaseRef]) -> tuple[CaseRef, ...]:
    """Returns the cases of `dataset` that a `learner`, an attack or a detector, learns from; none for others. Refuses
    cases and patients that are `scored` too."""
    if isinstance(learner, LearnedAttack):
        name = learner.name
        key = "learn_split"
        split = learner.learn_split
        cases = learner.learn_cases
    elif isinstance(learner, Detector):
        name = learner.name
        key = "clean_split"
        split = learner.clean_split
        cases = learner.clean_cases
    else:
        return ()
    taken: set[str] = set()
    for ref in scored:
        taken |= {ref.fingerprint, ref.patient_id}
    if not (refs := dataset.model_copy(update={"cases": cases}).refs(split)):
        hint = f"set {key}{', or from Python call `learn` of the attack' if key == 'learn_split' else ''}"
        raise UserError(f"{name}: expected a dataset whose split {split!r} has cases to learn from, got none: {hint}")
    if shared := [ref.case_id for ref in refs if ref.fingerprint in taken or ref.patient_id in taken]:
        got = f"got {len(shared)} of the split {split!r} (first: {shared[0]})"
        advice = f"set another {key}, or other cases to score"
        raise UserError(f"{name}: expected to learn from no case or patient that is scored, {got}: {advice}")
    return refs


def further_targets(job: JobSpec, names: Sequence[str]) -> Grid:
    """Returns the grid of the job that made volumes with its cells scored on other targets. `names` are those of models
    of the job, or checkpoints, also `NAME=CHECKPOINT`, that state their architecture; UserError for any other."""
    by_name = {entry.name: entry for entry in job.models}
    by_checkpoint = {entry.checkpoint: entry.name for entry in job.models if entry.defence is None}
    targets: list[str] = []
    added: list[ModelEntry] = []
    for text in dict.fromkeys(names):
        name, _, checkpoint = text.rpartition("=")
        if checkpoint in by_name or checkpoint in by_checkpoint:
            targets.append(checkpoint if checkpoint in by_name else by_checkpoint[checkpoint])
            continue
        if re.fullmatch(r"\w*", checkpoint):  # a word without dot or slash is no checkpoint
            raise UserError(f"targets: {unknown('model', checkpoint, by_name)}; or give a checkpoint's path")
        name = name or PurePath(checkpoint).stem
        added.append(config.validate({"name": name, "checkpoint": checkpoint}, ModelEntry, "targets"))
        if name in by_name:
            raise UserError(f"targets: {name!r} is a model of the job already: write NAME={checkpoint}")
        targets.append(name)
    extended = job.model_copy(update={"models": [*job.models, *added], "targets": targets}).copy_named("targets")
    with sweep.prefix_errors("targets"):
        require_names(extended)
    grid = expand(extended)
    return replace(grid, job=job, cells=tuple(cell for cell in grid.cells if cell.source.name in by_name))


def default_grid(attack: Attack, targets: Sequence[ModelSpec]) -> ScoredOn:
    """Returns the grid to score on where the job states none: `file` if the pipelines of all `targets` lead back to the
    file, and the `attack` does not tie scores to another grid by moving labels there."""
    leads_back = all(isinstance(target.space, Pipeline) and not target.votes for target in targets)
    return ScoredOn.FILE if leads_back and not attack.moves_labels else ScoredOn.GRID
