"""Examines this machine, a dataset's folder, or a checkpoint and how it fits a job's data, for `freqbench doctor`."""

import math
import os
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from torch import Tensor

from freqbench.attacks import ATTACKS
from freqbench.audit.first_case import clean_dice, held_and_found
from freqbench.audit.unstated import INSTEAD, Log
from freqbench.core.config import validate
from freqbench.core.documents import yaml_line
from freqbench.core.errors import UserError, unknown
from freqbench.core.files import node_cache, storage
from freqbench.core.machine import versions
from freqbench.core.names import ALIASES, home_of
from freqbench.core.terminal import amount
from freqbench.data import DATASETS, Dataset, witnesses
from freqbench.data.layouts import Layout
from freqbench.data.layouts import recognise as recognise_layout
from freqbench.engine import provenance
from freqbench.engine.witness import percent, verdict
from freqbench.job.fit import FAR, FIRST, Clean, assumptions, facts_on, mean_error, shortfall, space_notes
from freqbench.job.plan import READ_FIRST, data_check
from freqbench.job.schema import JobSpec, build_dataset
from freqbench.job.sweep import DatasetEntry, prefix_errors
from freqbench.metrics import lpips_weights
from freqbench.models import MODELS, ModelEntry, brainchop, facts_of, read_metadata, resolve, source_of, zoo_names
from freqbench.models.checkpoints import files as checkpoints
from freqbench.models.checkpoints.migrations import NONE, Migration, migrations_of, recognise
from freqbench.models.entry import seed_of
from freqbench.models.networks.construction import skeleton
from freqbench.models.networks.inferring import NETWORKS, UNTRACED, defaults, find_arch, infer_args, open_args
from freqbench.models.sources import kind_of_folder
from freqbench.models.sources.nnunet import folder_near
from freqbench.pipelines import Pipeline

Lines = Iterator[tuple[str, str]]


class Wrong(str):
    """A line that says that a network does not fit its job, or that nothing tells."""

    __slots__ = ()


def diagnose(
    data: str | None,
    checkpoint: str | None,
    job: JobSpec | None,
    where: str = "job",
    predictions: str | None = None,
    log: Log = lambda line: None,
) -> tuple[Lines, bool]:
    """Examines a dataset's folder, a checkpoint (a file, or a model's name in the job), or this machine. With
    `predictions`, or the job's, clean ones are held against them, and another setting is sought, trials being lines of
    `log`. Returns names with lines, and true if nothing is wrong. Raises UserError for a job without a checkpoint, or
    an invalid one, and for predictions without both."""
    if predictions and not (checkpoint and job):
        raise UserError("--predictions: expected --checkpoint and --job beside it, got less: init needs no job")
    if checkpoint:
        return _checkpoint(checkpoint, job, where, predictions, log), True
    if job:
        raise UserError("--job: expected --checkpoint beside it, got none: give a file, or a model's name in the job")
    if data:
        layout = recognise_layout(data, with_labels=True)
        return chain(layout.lines(), _data(layout)), not layout.problems
    return _machine(), True


def _data(layout: Layout) -> Lines:
    """Yields the problems with the voxels of the first cases that the job line of a folder selects."""
    if layout.loader != "images" and any(survey.complete for survey in layout.surveys) and not layout.problems:
        dataset = build_dataset(layout.entry, "--data")
        cases = ((dataset, ref, dataset.space) for ref in dataset.refs()[:READ_FIRST])
        yield from (("data", line) for line in data_check(cases))


def _machine() -> Lines:
    yield "devices", ", ".join(provenance.devices())
    yield "versions", ", ".join(f"{name} {version}" for name, version in versions().items())
    code = provenance.git_state()
    yield "code", f"commit {code['commit'][:12]}{' with changes' if code['dirty'] else ''}" if code else "installed"
    weights = lpips_weights()
    yield "LPIPS weights", str(weights) if weights else "not here: fetched by the first run that needs LPIPS"
    yield "cache", str(node_cache.folder())
    yield "attacks", ", ".join(ATTACKS)
    yield "models", ", ".join(MODELS)
    yield "zoo", ", ".join(zoo_names()) or "empty"
    yield "brainchop", ", ".join(brainchop.FILES)
    yield "datasets", ", ".join(DATASETS)
    if not (root := os.environ.get("FREQBENCH_DATA")):
        yield "FREQBENCH_DATA", "not set: name your data's root in the job file"
        return
    names = sorted(path.parent.name for path in Path(root).glob("*/dataset.json"))
    nothing = "no folder with a dataset.json" if Path(root).is_dir() else "no such folder"
    yield "FREQBENCH_DATA", f"{root}: {', '.join(names) or nothing}"


def _checkpoint(checkpoint: str, job: JobSpec | None, where: str, predictions: str | None, log: Log) -> Lines:
    """Describes a checkpoint; with a job, scores it on the first clean case."""
    entry = _entry(job, checkpoint, where) if job else None
    path = storage.filled_in(str(entry.path if entry else checkpoint), "--checkpoint")
    if seed_of(path) is not None:
        yield "checkpoint", f"{path}: untrained weights, no file"
    elif not source_of(reader := (alone := entry or _alone(path)).reader).is_checkpoint:
        facts = [*_facts(alone)] if source_of(reader).weights else []  # refuses before anything is printed
        yield from (("checkpoint", f"{path}: read as {reader}"), *facts)
    else:
        yield from _contents(path, entry)
        if entry is None and not read_metadata(path) and (arch := architecture(path)[0]) in MODELS:
            alone = ModelEntry(name="checkpoint", checkpoint=path, arch=arch)
            yield from (("assumed", str(each)) for each in assumptions(alone, facts_of(alone)))
    if job and entry:
        if predictions or entry.predictions:
            witnessed = entry.model_copy(update={"predictions": predictions or entry.predictions})
            yield from _own_predictions(job, witnessed, where, log)
        yield from _clean_dice(job, entry, where)


def _alone(path: str) -> ModelEntry:
    """Returns the entry of a checkpoint without a job, its kind by its files; refuses a folder of no kind."""
    kind = kind_of_folder(folder := home_of(path))
    if kind is None and folder.suffix == ".zip" and (advice := folder_near(str(folder))):
        raise UserError(f"{path}: expected a file or folder of a network, got an archive: {advice}")
    if kind is None and folder.is_dir():
        near = (folder.parent, *sorted(folder.glob("*")), *sorted(folder.glob("*/*")))
        hints = (f"give {each}, which is one of {name}" for each in near if (name := kind_of_folder(each)))
        wanted = "a file, or a folder of nnU-Net (with plans.json), of a bundle (configs) or of MeshNet (model.json)"
        raise UserError(f"{path}: expected {wanted}, got another folder: {next(hints, 'name the file in it')}")
    place = {"bundle": path} if kind == "bundle" else {"checkpoint": path, "arch": kind}
    return validate({"name": "checkpoint", **place}, ModelEntry, "--checkpoint")


def _facts(entry: ModelEntry) -> Lines:
    """Shows what a folder's or a file's own words say of its network and pipeline."""
    window = "x".join(map(str, facts.roi)) if (facts := facts_of(entry)).roi else "not stated"
    counts = f"{facts.num_channels} channels in, {facts.num_classes} outputs ({facts.outputs or 'softmax'})"
    yield "network", f"{counts}, windows of {window} in its own axes"
    if isinstance(facts.space, Pipeline):
        yield "pipeline", f"{facts.space.toolchain} {facts.space.release}: {facts.space.rule}"
    yield from (("note", note) for note in facts.notes)


def _contents(path: str, entry: ModelEntry | None) -> Lines:
    local = storage.fetch(checkpoints.locate(path))
    weights = checkpoints.read_state_dict(path, as_written=True)
    key, _ = checkpoints.unwrap(checkpoints.read_content(path))
    yield "checkpoint", f"{path}: {local.stat().st_size / 1e6:.1f} MB, sha256 {checkpoints.content_sha256(path)[:12]}"
    prefix, arch, bare = find_arch(weights)
    numbers = sum(value.numel() for value in weights.values() if value.is_floating_point())
    under = f", under {key}" if key else ""
    all_of = "every key" if len(bare) == len(weights) else f"{len(bare)} of them"
    behind = f", {all_of} behind {prefix}" if prefix else ""
    yield "weights", f"{len(weights)} entries, {numbers:,} parameters{under}{behind}"
    metadata = read_metadata(path)
    told = ("arch", "args", "roi", "num_classes", "outputs")
    facts = ", ".join(f"{name} {metadata[name]}" for name in told if name in metadata)
    yield "metadata", f"written by freqbench: {facts}" if metadata else "none of freqbench's"
    yield from _record(metadata)
    if (arch := metadata.get("arch", arch)) is None:
        yield "architecture", f"not one of {', '.join(NETWORKS)} by its keys (first: {next(iter(weights))})"
    elif arch not in MODELS:
        yield "architecture", f"{arch}, by its keys: give the folder that it lies in as checkpoint, and arch: {arch}"
    else:
        yield "architecture", f"{arch} ({MODELS[arch].title})" + ("" if metadata else ", by its keys")
        yield "migration", "none: freqbench wrote it" if metadata else _migration(arch, bare)
        yield from [] if metadata else _arguments(arch, bare, entry.args if entry else {})


def _arguments(arch: str, weights: Mapping[str, Tensor], stated: Mapping[str, Any]) -> Lines:
    """Shows the arguments that the weights of an architecture show, and those that a job has to state and does not."""
    if (found := infer_args(arch, weights)).args:
        yield "args", f"read off its weights: {', '.join(f'{name} {value}' for name, value in found.args.items())}"
    if found.in_channels and found.out_channels:
        yield "channels", f"{found.in_channels} in, {found.out_channels} classes out"
    if untraced := [name for name in UNTRACED.get(arch, ()) if name not in (*found.unclear, *stated)]:
        yield "no trace", f"{', '.join(untraced)}: weights load with any value: state args if not the default"
    if asked := ", ".join(f"args.{name}" for name in open_args(arch, stated, found)):
        yield "to state", f"{asked}: the weights do not show what it was trained with"


def architecture(path: str) -> tuple[str | None, Mapping[str, Any]]:
    """Architecture of the checkpoint file at `path` by its metadata or keys (None: neither), and its arguments but
    defaults."""
    if named := read_metadata(path).get("arch"):
        return str(named), {}
    _, arch, weights = find_arch(checkpoints.read_state_dict(path, as_written=True))
    found = infer_args(arch, weights).args if arch and arch in MODELS else {}
    usual = defaults(arch, found) if arch and found else {}
    others = {name: value for name, value in found.items() if name not in usual or usual[name] != value}
    return arch, {name: list(value) if isinstance(value, tuple) else value for name, value in others.items()}


def _record(metadata: Mapping[str, Any]) -> Lines:
    """Shows a checkpoint's statements on its making and licence, all as text."""
    classes, licence, training = (metadata.get(name) for name in ("class_names", "licence", "training"))
    made = training if isinstance(training, Mapping) else {}
    if isinstance(classes := classes or made.get("class_names"), list):
        yield "classes", ", ".join(map(str, classes))
    if metadata.get("preprocess"):
        yield "space", f"trained in {metadata['preprocess']}: other datasets are converted to it"
    if made:
        keys = {name: name for name in ("job", "dataset", "steps", "seed")}
        keys |= {"select Dice": "dice_select", "test Dice": "dice_test"}
        facts = [(name, made[key]) for name, key in keys.items() if made.get(key) is not None]
        texts = (f"{name} {round(value, 3) if isinstance(value, float) else value}" for name, value in facts)
        yield "training", ", ".join(texts)
    if isinstance(fingerprints := made.get("fingerprints"), Mapping):
        counts = ", ".join(f"{len(cases)} {role}" for role, cases in fingerprints.items() if isinstance(cases, list))
        yield "cases", f"{counts}: scoring it on one of them raises a warning"
    if licence:
        yield "licence", str(licence)


def _migration(arch: str, weights: Mapping[str, Tensor]) -> str:
    """Names the migration that a file of an architecture needs, as far as its keys tell."""
    migrations = migrations_of(arch)
    if _are_alike(migrations):
        choices = " or ".join(f"{name} ({migration.title})" for name, migration in migrations.items())
        return f"{choices}: nothing in the file tells which; --job shows the clean Dice under each"
    wanted = skeleton(arch, 2, MODELS[arch].roi, {}).state_dict()
    if name := recognise(arch, weights, wanted):
        return f"{name} ({migrations[name].title}), recognised by its keys"
    if len(migrations) == 1 or weights.keys() == wanted.keys():
        return f"{NONE}: as it is"
    return f"one of {', '.join(migrations)}: its keys and the job's args tell which (--job)"


def _are_alike(migrations: Mapping[str, Migration]) -> bool:
    """True if files of several ages share their keys but need different networks."""
    return any(migration.extra for migration in migrations.values())


def _entry(job: JobSpec, checkpoint: str, where: str) -> ModelEntry:
    """Finds the model of a job by its checkpoint or its name; raises UserError for none, or an ensemble."""
    for entry in job.models:
        path = entry.path and storage.filled_in(entry.path, entry.name)
        is_named = checkpoint in (entry.name, entry.checkpoint, path)
        if is_named or (path and home_of(checkpoint).resolve() == Path(path).resolve()):
            if entry.ensemble:
                raise UserError(f"{where}: {entry.name} is an ensemble: look at its members one by one")
            return entry
    raise UserError(f"{where}: {unknown('model or checkpoint', checkpoint, [entry.name for entry in job.models])}")


def _own_predictions(job: JobSpec, entry: ModelEntry, where: str, log: Log) -> Lines:
    """Holds a network against its own predictions, and names the settings that make them if the job's do not."""
    _, _, dataset = _dataset_of(job, entry, where)
    held, found = held_and_found(entry, dataset, witnesses.find(str(entry.predictions), dataset, entry.name), log)
    line = verdict(f"{entry.name} on {dataset.name}", held) if held else f"{entry.name} cannot be run as the job says"
    yield "predictions", line if found is None else Wrong(line)
    if found is not None:
        yield "found", f"{percent(found.share)} alike after {found.trials} trials, {found.seconds:.0f} s"
        yield from (("instead", word) for word in found.words if INSTEAD in word)
        for of, keys in (("model", found.model), ("dataset", found.dataset)):
            yield from ((f"{of} line", yaml_line(key, value)) for key, value in keys.items())


def _dataset_of(job: JobSpec, entry: ModelEntry, where: str) -> tuple[int, DatasetEntry, Dataset]:
    """Returns the first dataset of a job that a model is for, its entry and the number."""
    number, written = next((i, one) for i, one in enumerate(job.datasets) if one.name in (entry.datasets or [one.name]))
    return number, written, build_dataset(written, f"{where}: datasets[{number}]")


def _clean_dice(job: JobSpec, entry: ModelEntry, where: str) -> Lines:
    """Scores the first clean cases by foreground Dice under each possible migration, and concludes."""
    number, written, dataset = _dataset_of(job, entry, where)
    with prefix_errors(f"{where}: datasets[{number}]"):
        dataset.require_labels("clean Dice", "which it is a score against")
        refs = dataset.refs()
    candidates = _candidates(entry)
    number_of = FIRST if entry.expected_dice or len(candidates) > 1 else 1
    of_patients = {ref.patient_id: ref for ref in reversed(refs)}
    first = list(of_patients.values())[::-1][:number_of]
    place = f"{where}: models[{job.models.index(entry)}]"
    with prefix_errors(place):
        facts = facts_on(entry, dataset, refs)
    yield from (("found", each) for each in facts.found)
    yield from (("note", line) for line in space_notes(dataset))
    yield from (("assumed", str(each)) for each in assumptions(entry, facts, dataset, written.own))
    scores = dict[str | None, dict[tuple[str, str], float]]()
    for migration in candidates:
        with prefix_errors(place):
            changed = entry.model_copy(update={"migration": migration})
            spec = resolve(changed, len(dataset.classes), dataset.num_channels, facts=facts_on(changed, dataset, refs))
        age = spec.migration or NONE
        under = f" under migration: {age}" if "migration" in source_of(spec.arch).takes else ""
        scores[migration] = {}
        for ref in first:
            value = clean_dice(dataset, spec, ref)
            scores[migration][ref.patient_id, ref.case_id] = value
            yield "clean Dice", f"{value:.3f}{under} ({entry.name} on {ref.case_id} of {dataset.name}, foreground)"
    looked_at = [(dataset, ref, spec.space or dataset.space) for ref in first]
    yield from (("data", line) for line in data_check(looked_at))
    yield "verdict", _verdict(entry, scores)


def _candidates(entry: ModelEntry) -> list[str | None]:
    """Returns the migrations that a model's file may need; the job's alone where the file tells which."""
    path = storage.filled_in(str(entry.path), entry.name)
    arch = str(entry.arch)
    migrations = migrations_of(ALIASES["models"].get(arch, arch))
    is_told = not _are_alike(migrations) or seed_of(path) is not None or read_metadata(path)
    return [entry.migration] if is_told else [*migrations]


def _verdict(entry: ModelEntry, clean: Mapping[str | None, Clean]) -> str:
    """Concludes from the clean Dice of the first cases, by migration; Wrong unless it speaks for the job as it is."""
    scored: dict[str | None, Clean] = {}
    for name, of_cases in clean.items():
        scored[name] = {case: dice for case, dice in of_cases.items() if not math.isnan(dice)}
    if not all(scored.values()):  # Dice of the foreground
        return Wrong("none: the label of this case has no class of the foreground")
    best, *rest = sorted(scored, key=lambda migration: -mean_error(scored[migration])[0])
    if short := shortfall(entry.expected_dice, scored[best]):
        return Wrong(short)
    if not rest:
        return "it is as high as is expected"
    ahead, error = mean_error({case: dice - scored[rest[0]][case] for case, dice in scored[best].items()})
    by = f"by {ahead:.3f} of Dice on {amount(len(scored[best]), 'case')}"
    if round(ahead, 9) <= max(2 * error, FAR):
        limit = f"two standard errors (each {error:.3f}) and {FAR}" if error < math.inf else f"{FIRST} patients"
        text = f"cannot tell: migration: {best} is ahead of {rest[0]} {by}, which needs more than {limit}"
        if entry.migration:
            return f"{text}; the job's {entry.migration} stands"
        return Wrong(f"{text}: ask whoever trained {entry.name} for the release of MONAI")
    if entry.migration == best:
        return f"migration: {best} fits better {by}, and the job has it"
    return Wrong(f"migration: {best} fits better {by}: put it into the job, beside the checkpoint of {entry.name}")
