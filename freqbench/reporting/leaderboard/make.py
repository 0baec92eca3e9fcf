"""Makes entries of a leaderboard from a store: the rows of one network under attacks on itself, and their audit."""

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import Any

from freqbench.audit import probe_files
from freqbench.audit.probe_files import Gradients, root_of
from freqbench.core import config, names
from freqbench.core.errors import UserError, unknown
from freqbench.core.files import storage
from freqbench.core.machine import versions
from freqbench.job.schema import JobSpec
from freqbench.job.sweep import AttackEntry
from freqbench.reporting.leaderboard import entry_folder
from freqbench.reporting.leaderboard.entry_folder import CARD, FACTS, STORE, Card, EntryFacts
from freqbench.results import KEY, Key, Store, index_keys

OF_RUN = ("started_at", "status", "versions", "code", "devices", "processor", "engine", "reuse")
"""Keys of a run's file that an entry keeps: neither its host nor its process."""


def make_entry(out: str, model: str, folder: Path) -> bool:
    """Writes the entry of a network; what is in the folder already stays.

    Args:
        out: root of a store whose job is done and audited.
        model: the network's name in the job.
        folder: of the entry, made if missing; its name is the entry's.

    Returns:
        True if the entry is complete, False if only a template of its card was written, which waits to be filled in.

    Raises:
        UserError: no such network, several of that name, one without a checkpoint file, rows or an audit that are
            missing, a card that is not filled in, or a folder that holds something else.
    """
    names.require_name(folder.name, str(folder))
    store = Store(out)
    job = store.job()
    spec = _only(job.get("spec"), model, out)
    where = f"{out}: {model}"
    rows = store.rows(("source_model", "source_model_id", "target_model_id"))
    ids = {source for name, source, target in rows if name == model and source == target}  # one, or one per space
    if not ids:
        raise UserError(f"{where}: expected rows of attacks on it that it was scored on, found none")
    planned = index_keys(job["index"])
    keys = _keys(store, ids) & planned
    if lacking := {key for key in planned if key[2] in ids} - store.covered().keys():
        raise UserError(f"{where}: expected all records of the job, {len(lacking)} failed or lack: run it again")
    audit = Store(root_of(out), named_by=store)
    gradients = _gradients(out, model)
    card = folder / CARD
    if not card.exists():
        storage.write_atomic(str(card), _template(model, spec).encode())
        return False
    config.load(str(card), Card)
    to = folder / STORE
    digests = set[str]()
    for run in _copy(store, to, keys, spec):
        digests |= {str(facts["sha256"]) for key, facts in run["models"].items() if key in ids}
    if len(digests) != 1:
        raise UserError(f"{where}: expected one checkpoint, its runs name {len(digests)}: run it to a new store")
    cases = {case for _, case, _ in keys}  # an audit keeps rows of those that the job once had
    audited = {key for key in _keys(audit, ids) if key[1] in cases}
    _copy(audit, to / "audit", audited, {**spec, "name": f"{spec['name']}-audit"})
    probe_files.write(str(to), gradients)
    facts = EntryFacts(checkpoint=digests.pop(), versions=versions())
    storage.write_atomic(str(folder / FACTS), facts.model_dump_json(indent=1).encode())
    return True


def _gradients(out: str, model: str) -> Gradients:
    """Reads what an audit measured of the network's gradients; UserError without."""
    stored = probe_files.read(out, Gradients)
    windows = tuple(each for each in stored.windows if each.model == model) if stored else ()
    if stored is None or not windows:
        raise UserError(f"{out}: {model}: expected its audit, found none: freqbench audit {out} --run")
    return stored.model_copy(update={"windows": windows})


def _template(model: str, spec: Mapping[str, Any]) -> str:
    """Makes a card to be filled in, with the model's name, and the place of its weights if it is the zoo."""
    weights = entry_folder.place_of(spec)
    address = weights if weights.startswith("zoo://") else ""
    title, checkpoint = (json.dumps(text, ensure_ascii=False) for text in (model, address))  # YAML too
    return entry_folder.TEMPLATE.format(title=title, checkpoint=checkpoint)


def _only(spec: Any, model: str, out: str) -> dict[str, Any]:
    """Reduces a stored job to one network and its attacks on itself, without paths of the machine that made it."""
    job = config.validate(spec, JobSpec, f"{out}/run.json")
    where = f"{out}: {model}"
    if not (entries := [entry for entry in job.models if entry.name == model]):
        raise UserError(f"{out}: {unknown('model', model, [entry.name for entry in job.models])}")
    if len(entries) > 1:
        raise UserError(f"{where}: expected one network of that name, got {len(entries)}: rename one")
    _require_labels(job, where)
    (network,) = entries
    if network.ensemble or network.command or str(network.checkpoint).startswith("random"):
        got = "an ensemble, a command or random weights"
        raise UserError(f"{where}: expected a network with a checkpoint file, got {got}")
    datasets = [entry for entry in job.datasets if _names(network.datasets, entry.name)]
    parts = {
        "models": entries,
        "datasets": datasets,
        "attacks": list(_own_attacks(job, model, sorted(entry.name for entry in datasets), where)),
        "training": (),
        "targets": "source",
        "save_adversarial": "none",
        "trust_code": False,
    }
    content = job.model_copy(update=parts).model_dump(mode="json")
    for dataset in content["datasets"]:  # without the folders of this machine
        paths = {key: value for key, value in dataset.items() if isinstance(value, str) and value[:1] in ("/", "~")}
        dataset |= {key: PurePosixPath(path).name for key, path in paths.items()}
    if (place := entry_folder.place_of(content)).startswith("zoo://"):
        return content
    return entry_folder.locate_weights(content, PurePosixPath(place.rstrip("/")).name)


def _own_attacks(job: JobSpec, model: str, datasets: Sequence[str], where: str) -> Iterator[AttackEntry]:
    """Yields the job's attacks on a network and some of these datasets, of these alone."""
    for attack in job.attacks:
        on = [name for name in datasets if _names(attack.datasets, name)]
        if not (_names(attack.sources, model) and on):
            continue
        if "surrogates" in attack.own:
            got = f"got {attack.name} with surrogates: run the job without it, to another store"
            raise UserError(f"{where}: expected attacks that need no other network than the entry's, {got}")
        matched = attack.matched and tuple(each for each in attack.matched if each.source == model)
        changes = {"sources": [model], "datasets": on, "matched": matched}
        stated = {name: value for name, value in changes.items() if getattr(attack, name) is not None}
        yield attack.model_copy(update=stated)


def _require_labels(job: JobSpec, where: str) -> None:
    """Refuses a job that scores agreement, in which a constant network would lead."""
    for entry in job.datasets:
        if entry.own.get("reference") == "prediction":
            got = "got reference: prediction: run the job with label maps"
            raise UserError(f"{where}: {entry.name}: expected scores against labels, as boards rank by them, {got}")


def _names(chosen: str | Collection[str] | None, name: str) -> bool:
    """True if an entry of a job is meant for `name`: `chosen` is one name, a list, or empty for all."""
    return not chosen or chosen == name or (not isinstance(chosen, str) and name in chosen)


def _keys(store: Store, ids: Collection[str]) -> set[Key]:
    """Returns the keys of all rows of attacks that one of the networks made and was scored on."""
    rows = store.rows((*KEY, "source_model_id"))
    return {(cell, case, target) for cell, case, target, source in rows if source == target and target in ids}


def _copy(store: Store, to: Path, keys: Collection[Key], spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Copies rows of a store into a store of their own, without facts about the machine; returns its runs' content."""
    copy = Store(str(to))
    mark = (*KEY, "finished_at", "run_id")
    if not copy.is_empty and set(copy.rows(mark)) != {row for row in store.rows(mark) if row[:3] in keys}:
        raise UserError(f"{to}: expected nothing or the rows of {store.root}, got others: move the folder away")
    stored = store.found(keys)
    runs = defaultdict[str, list[Key]](list)
    for key in sorted(stored):
        runs[stored[key][0]["run_id"]].append(key)
    run_facts = []
    for run_id, run_keys in runs.items():
        if copy.is_empty or run_id not in copy.run_ids():
            copy.writer(run_id, interval_s=0).add(*zip(*(stored[key] for key in run_keys), strict=True))
        run = store.run(run_id)
        ids = {key[2] for key in run_keys}
        models = {
            name: {**facts, "checkpoint": PurePosixPath(str(facts.get("checkpoint"))).name}
            for name, facts in (run.get("models") or {}).items()
            if name in ids
        }
        copied = {name: run[name] for name in OF_RUN if name in run}
        copied |= {"models": models, "datasets": run.get("datasets"), "job": dict(spec)}
        run_facts.append(copied)
        copy.write_run(run_id, copied)
    copy.compact()
    index = {"cells": list(_index_cells(stored)), "cases": {}}
    copy.write_job({"spec": dict(spec), "index": index})
    return run_facts


def _index_cells(stored: Mapping[Key, tuple[Mapping[str, Any], Any]]) -> Iterator[dict[str, Any]]:
    """Yields the entry of each cell in a job's index, from its rows."""
    for cell_id, group in groupby(sorted(stored), key=itemgetter(0)):
        keys = [*group]
        dataset = stored[keys[0]][0]["dataset"]
        _, cases, targets = map(set, zip(*keys, strict=True))
        yield {"cell_id": cell_id, "dataset": dataset, "targets": sorted(targets), "cases": sorted(cases)}
