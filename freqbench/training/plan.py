"""Plans a training job: its lists of cases and its networks, each with all settings that shape its weights."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch

from freqbench import models
from freqbench.attacks import Attack
from freqbench.core.errors import UserError, unknown
from freqbench.core.files.storage import join
from freqbench.core.identity import digest
from freqbench.core.machine import available_cores
from freqbench.core.types import Case, CaseRef
from freqbench.data import Dataset
from freqbench.job.attacks import attack_identity, attack_of
from freqbench.job.schema import build_dataset
from freqbench.job.sweep import AttackEntry, prefix_errors
from freqbench.job.training import OWN, QUICK_ATTACK, SCRATCH, ModelRecipe, TrainJob, Validation, suffix
from freqbench.models.sources.checkpoint import metadata_of
from freqbench.models.sources.source import Metadata
from freqbench.ops.changes import CHANGES
from freqbench.training.loop import NetworkTraining
from freqbench.training.objective import Adversary, MixedAdversary
from freqbench.training.state import BEST

ROLES = ("train", "select", "test")
TAUGHT_BY = ("train", "select")
Refs = Mapping[str, Sequence[CaseRef]]
Made = dict[str, NetworkTraining]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Dataset of a job by role, with the role's list as its split; cases of each; and networks in training order."""

    lists: dict[str, Dataset]
    refs: dict[str, tuple[CaseRef, ...]]
    trainings: list[NetworkTraining]

    def cases(self, role: str) -> list[Case]:
        """Loads the cases of a role."""
        return [self.lists[role].load(ref) for ref in self.refs[role]]


def prepare(job: TrainJob, out: str = "", only: Collection[str] | None = None) -> Prepared:
    """Reads the lists of a job and checks its networks (`only` those named, with what they start from), whose results
    go to `out`; trains nothing. Raises UserError for an unknown name, lists that share cases, refused arguments, or a
    checkpoint to start from that does not fit; MissingDataError if cases are not on this machine."""
    names = {model.name for model in job.networks}
    for name in sorted(set(only or ()) - names):
        raise UserError(f"{job.name}: {unknown('network', name, names)}")
    lists = job_lists(job)
    refs = {role: lists[role].refs() for role in ROLES}
    for role in ROLES:
        if not refs[role]:
            raise UserError(f"{job.name}: splits.{role}: expected cases in {getattr(job.splits, role)!r}, got none")
    _require_apart(job, refs)
    trainings: Made = {}
    for number, replicate in enumerate(job.seed_jobs):
        for model in replicate.wanted_models(only):
            trainings[model.name] = _training(replicate, model, number, out, lists["train"], refs, trainings)
    return Prepared(lists=lists, refs=refs, trainings=list(trainings.values()))


def job_lists(job: TrainJob) -> dict[str, Dataset]:
    """Builds the dataset of a job once per role, with the role's list as its split."""
    where = f"{job.name}: dataset"
    entry = job.dataset
    return {role: build_dataset(entry.model_copy(update={"split": getattr(job.splits, role)}), where) for role in ROLES}


def _require_apart(job: TrainJob, refs: Refs) -> None:
    """Raises UserError for two lists that share a case or a patient."""
    for first, second in combinations(ROLES, 2):
        are_last = first == "select"  # and test
        if are_last and job.splits.selected_on_test:
            continue
        taken = {ref.fingerprint for ref in refs[first]}
        taken.update(ref.patient_id for ref in refs[first])
        shared = [ref.case_id for ref in refs[second] if ref.fingerprint in taken or ref.patient_id in taken]
        if shared:
            or_else = ", or set selected_on_test: true" if are_last else ""
            raise UserError(
                f"{job.name}: splits: expected lists without a case or patient in common, got {len(shared)} in {first} "
                f"and {second} (first: {shared[0]}): what was learned from or chosen by cannot test; change the lists"
                f"{or_else}"
            )


def _training(
    job: TrainJob, model: ModelRecipe, nth: int, out: str, dataset: Dataset, refs: Refs, made: Made
) -> NetworkTraining:
    """Plans a network of replicate `nth` of a job, which may start from one of those `made` before it."""
    place = f"{job.name}: {model.name}"
    _require_learnable(model, dataset, place)
    attacks = _own_attacks(model, dataset, place)
    quick = _quick(job.validation, attacks, dataset, f"{job.name}: validation")
    choose_by = _chosen_by(job.validation, model, quick, refs["select"], place)
    adversary = _adversary(model, attacks, job.seed, dataset, place)
    about: dict[str, Any] = {}
    if quick:
        about["validation"] = {"attack": [*map(attack_identity, quick)], "choose_by": choose_by}
    start = str(model.start)
    origin = None
    taught: dict[str, tuple[str, ...]] = {}
    if start in made:
        origin = made[start].method
        # Named after the first replicate: a replicate equals, to the digit, a job trained with its seed.
        about["start"] = {"name": start.removesuffix(suffix(nth)), "identity": made[start].identity}
        start = join(out, start, BEST)
    elif start != SCRATCH:
        spec = _start_spec(model, start, dataset)
        origin = spec.checkpoint_sha256
        about["start"] = {"name": start, "sha256": origin}
        taught = dict((metadata_of(start) or Metadata()).training.fingerprints)
        model = model.model_copy(update={"arch": spec.arch, "args": dict(spec.args), "roi": spec.roi})
    training = NetworkTraining(
        model=model,
        schedule=job.schedule(model),
        augmentation=model.augmentation or job.augmentation,
        seed=job.seed,
        num_classes=len(dataset.classes),
        num_channels=dataset.num_channels,
        outputs=dataset.classes.head,
        half=job.half,
        adversary=adversary,
        quick=quick,
        choose_by=choose_by,
        start=None if start == SCRATCH else start,
        record=_record(job, model, dataset, refs, attacks) | about,
        origin=origin,
        facts=_dataset_facts(dataset, job.licence),
        fingerprints=_fingerprints(refs, taught),
        loaders=_enough_loaders() if job.loaders == "auto" else job.loaders,
    )
    training.resolve("random")  # refuses a network that cannot be made, before anything is written
    return training


def _require_learnable(model: ModelRecipe, dataset: Dataset, place: str) -> None:
    """Raises UserError for a dataset without a label for every voxel, or one whose volumes the noise is not for."""
    dataset.require_labels(place, "which a network learns from")
    if ignored := dataset.classes.ignored:
        raise UserError(
            f"{place}: expected a label for every voxel, as training counts all of them, got {dataset.name} with "
            f"voxels that do not count (label {ignored[0]}): give them a class by its label_map and ignore: []"
        )
    if model.noise:
        with prefix_errors(f"{place}: noise"):  # refuses one that is none of volumes with the dataset's channels
            CHANGES[model.noise.kind].layout((dataset.num_channels, 1, 1, 1))


def _own_attacks(model: ModelRecipe, dataset: Dataset, place: str) -> tuple[Attack, ...]:
    """Builds the attacks that a network is trained under."""
    attacks = tuple(_attack(entry, dataset, f"{place}: {key}") for key, entry in model.attacks.items())
    for key, attack in zip(model.attacks, attacks, strict=True):
        if attack.moves_labels:
            raise UserError(f"{place}: {key}: expected one that leaves labels in their place, got {attack.name}")
    return attacks


def _chosen_by(
    validation: Validation, model: ModelRecipe, quick: Sequence[Attack], select: Sequence[CaseRef], place: str
) -> str:
    """Names the Dice by which weights are chosen, see `choice`; raises UserError for one without its attack, and for an
    attack that mixes cases on a `select` list of one."""
    if not quick and OWN not in validation.attacks and validation.choose_by not in (None, "clean"):
        got = f"{validation.choose_by}: give validation.attack"
        raise UserError(f"{place}: choose_by: expected clean without an attack, got {got}")
    for attack in quick:
        if attack.needs_reference and len(select) < 2:
            rest = f"as {attack.name} mixes with another case, got 1: choose a longer list, or give validation.attack"
            raise UserError(f"{place}: splits.select: expected two cases or more, {rest}")
    return (validation.choose_by or ("worst" if model.union else "mean")) if quick else "clean"


def _adversary(
    model: ModelRecipe, attacks: Sequence[Attack], seed: int, dataset: Dataset, place: str
) -> Adversary | MixedAdversary | None:
    """Makes what attacks the crops of a network; None for a clean one."""
    if model.attack and model.random_budget:
        [attack] = attacks
        if attack.budget_name is None:
            raise UserError(f"{place}: random_budget: expected none, as {attack.name} has no budget: leave it out")
        for budget in model.random_budget:
            _attack(model.attack.model_copy(update={attack.budget_name: budget}), dataset, f"{place}: attack")
    each = tuple(Adversary(attack=attack, random_budget=model.random_budget, seed=seed) for attack in attacks)
    if union := model.union:
        return MixedAdversary(adversaries=each, mix=union.mix, shares=union.shares, seed=seed)
    return next(iter(each), None)


def _start_spec(model: ModelRecipe, checkpoint: str, dataset: Dataset) -> models.ModelSpec:
    """Resolves the network of a checkpoint to start from."""
    shape: dict[str, Any] = {"arch": model.arch, "args": model.args or {}, "roi": model.roi}
    shape["outputs"] = dataset.classes.head if dataset.classes.overlap else None
    entry = models.ModelEntry(name=model.name, checkpoint=checkpoint, **shape)
    return models.resolve(entry, len(dataset.classes), dataset.num_channels)


def _fingerprints(refs: Refs, taught: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Lists the cases that train and choose weights, behind them those that had `taught` the weights of the start."""
    fingerprints: dict[str, list[str]] = {}
    for role in TAUGHT_BY:
        own = [ref.fingerprint for ref in refs[role]]
        fingerprints[role] = [*own, *taught.get(role, ())]
    return fingerprints


def _dataset_facts(dataset: Dataset, licence: str | None) -> dict[str, Any]:
    """Collects what a stored file says of the dataset that it learned from."""
    homepage = f" ({dataset.homepage})" if dataset.homepage else ""
    refusal = ", whose volumes must not be passed on: ask its owners before you pass on weights"
    terms = "; nothing else is stated" if dataset.may_be_shared else refusal
    return {
        "class_names": list(dataset.class_names),
        "preprocess": dataset.space.model_dump(mode="json"),
        "licence": licence or f"learned from {dataset.name}{homepage}{terms}",
    }


def _enough_loaders() -> int:
    """Number of processes that keep up with a step: one beside a CPU, up to four beside a GPU."""
    return min(4, max(1, available_cores() - 1)) if torch.cuda.is_available() else 1


def _record(job: TrainJob, model: ModelRecipe, data: Dataset, refs: Refs, attacks: Sequence[Attack]) -> dict[str, Any]:
    """Collects the facts of a training that its stored file states, before it runs."""
    cases: dict[str, str] = {}
    for role, of_role in refs.items():
        cases[role] = digest([ref.fingerprint for ref in of_role])
    schedule = job.schedule(model).model_dump(exclude={"max_minutes"})
    augmentation = model.augmentation or job.augmentation
    facts: dict[str, Any] = {
        "job": job.name,
        "dataset": data.name,
        "recipe": data.whole_recipe(),
        "class_names": data.class_names,
        "splits": job.splits.model_dump(),
        "cases": cases,
        "seed": job.seed,
        "threads": job.threads,
        "schedule": schedule,
        "augmentation": augmentation.model_dump(),
        "ema": model.ema,
        "noise": model.noise and model.noise.model_dump(),
    }
    if not attacks:
        return facts
    identities = [attack_identity(attack) for attack in attacks]
    union = model.union
    consistency = model.frequency_consistency
    return facts | {
        "objective": model.objective,
        "attack": identities if union else identities[0],
        "union": union and union.model_dump(include={"mix", "shares"}),
        "beta": model.divergence_weight,
        "random_budget": model.random_budget,
        "frequency_consistency": consistency and consistency.model_dump(),
    }


def _attack(entry: AttackEntry, dataset: Dataset, place: str) -> Attack:
    written = entry.model_dump()
    attack = attack_of(written.pop("name"), written, dataset, place)
    if attack.needs_learned or attack.needs_surrogates:
        wanted = "learns from no other cases" if attack.needs_learned else "needs no surrogates"
        raise UserError(f"{place}: expected one that {wanted}, got {attack.name}: take pgd")
    return attack


def _quick(validation: Validation, own: Sequence[Attack], dataset: Dataset, place: str) -> tuple[Attack, ...]:
    """Lists the attacks under which weights are judged, each once; none for a clean network with only its own."""
    if not validation.attacks and [attack.threat_model for attack in own] != ["linf"]:
        return tuple(own)
    attacks: list[Attack] = []
    for entry in validation.attacks or (QUICK_ATTACK,):
        attacks += own if isinstance(entry, str) else (_attack(entry, dataset, place),)
    return tuple(dict.fromkeys(attacks))
