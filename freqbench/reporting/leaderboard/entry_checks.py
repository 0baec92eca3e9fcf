"""Verifies entries: first that their files agree with each other, then by computing them again."""

import json
import math
import secrets
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from freqbench.audit import computing, reproduce, verify
from freqbench.audit.checks import CHECKS
from freqbench.audit.probe_files import root_of
from freqbench.audit.verify import Check
from freqbench.core import config
from freqbench.core.errors import MissingDataError, UserError, one_line
from freqbench.core.files import downloads, storage
from freqbench.core.plugins import names_class, trusting
from freqbench.engine import run
from freqbench.job.grid import Grid, expand
from freqbench.job.schema import JobSpec
from freqbench.models.checkpoints.files import locate
from freqbench.models.sources import source_of
from freqbench.reporting.leaderboard import entry_folder
from freqbench.reporting.leaderboard.entry_folder import STORE, BoardEntry, Told
from freqbench.results import KEY, Store, index_keys
from freqbench.results.tolerances import TOLERANCES

PROBED = "zero_gradients"  # check that can always be made once `audit --run` has finished
ALWAYS = ("clean", "saved", "bounds")  # checks beside those of gradients and claims that an entry may not violate


def examine(entry: BoardEntry, trust_code: bool = False) -> list[Check]:
    """Checks that an entry's files agree; computes nothing again; ends with the first that is wrong. `job`: one
    network, no code but with `trust_code`; `audit --files`, for its audit too; `rows`: each ok and on the network
    itself; `worst cases`: some; `audit`: no masked gradients, no weak settings."""
    if (results := [_job(entry, trust_code)])[0].verdict == "ok":
        of_store, *of_audit = map(verify.verify, _stores(entry))
        results += [*of_store, *(each._replace(name=f"audit {each.name}") for listed in of_audit for each in listed)]
    for more in (_rows, _worst_cases, lambda entry: check_audit(entry.told)):
        if reasons(results):
            break
        results.append(more(entry))
    return results


def _stores(entry: BoardEntry) -> list[Store]:
    return [entry.store] if (audit := Store(root_of(entry.store.root))).is_empty else [entry.store, audit]


def _job(entry: BoardEntry, trust_code: bool) -> Check:
    """Checks that the entry's jobs name one network, and its weights as entries do, so that reading fetches nothing."""
    stores = _stores(entry)
    specs = [store.job().get("spec") for store in stores]
    specs += [each.get("job") for store in stores for each in store.runs()]
    for spec in specs:
        try:
            job = _spec(entry, spec)
            place = entry_folder.place_of(job.model_dump(mode="json"))
        except UserError as error:
            return Check("job", "wrong", one_line(error))
        classes = [*(each.class_name for each in job.datasets), *(each.class_name for each in job.attacks)]
        reader = job.models[0].reader
        foreign = [str(reader)] if source_of(reader).runs_code else [name for name in classes if names_class(name)]
        if foreign and not trust_code:
            advice = "needs --trust-code, as it is code of another package: read it first"
            return Check("job", "wrong", f"{foreign[0]}: {advice}")
        if not place.startswith("zoo://") and "/" in place:
            return Check("job", "wrong", f"checkpoint: expected zoo://DATASET/NAME or a file's name, got {place:.100}")
    return Check("job", "ok", f"of {entry.seal.model} alone")


def _spec(entry: BoardEntry, spec: Any) -> JobSpec:
    if (job := config.validate(spec, JobSpec, f"{entry.name}: its job")).trust_code:
        raise UserError(f"{entry.name}: its job: trust_code: expected false, got true: make the entry again")
    if [each.name for each in job.models] != [entry.seal.model] or job.models[0].ensemble or job.training:
        raise UserError(f"{entry.name}: its job: expected {entry.seal.model} alone, got more: make the entry again")
    entry_folder.require_labels(job, job.models[0], f"{entry.name}: its job")
    return job


def _rows(entry: BoardEntry) -> Check:
    rows = [row for store in _stores(entry) for row in store.rows((*KEY, "status", "source_model", "target_model"))]
    failed = sum(row[3] != "ok" for row in rows)
    others = sum({row[4], row[5]} != {entry.seal.model} for row in rows)
    if failed or others:
        return Check("rows", "wrong", f"{failed} rows failed, {others} are of other networks than {entry.seal.model}")
    return Check("rows", "ok", f"{len(rows)} rows of attacks on {entry.seal.model} are ok")


def _worst_cases(entry: BoardEntry) -> Check:
    if (worst := entry.told.worst_cases).empty:
        wanted = "an attack that was optimised on the network, within bounds whose strongest attack an audit knows"
        return Check("worst cases", "wrong", f"nothing to rank by: expected {wanted}")
    return Check("worst cases", "ok", f"{len(worst)} in {worst['bounds'].nunique()} threat models")


def check_audit(told: Told) -> Check:
    """Checks that the audit of a store of one network, as far as it was run, lets its numbers stand."""
    if problems := [*_refusals(told), *told.lacking]:
        return Check("audit", "wrong", " ".join(problems))
    open_ones = [each for each in told.verdicts if each.verdict != "no sign"]
    doubts = " ".join(f"{each.dataset}: {each.label}: {each.sentence}" for each in open_ones)
    return Check("audit", "ok", doubts or "no sign of masked gradients or weak settings")


def _refusals(told: Told) -> Iterator[str]:
    """Yields one sentence per reason why an audit's findings keep an entry from a board."""
    for each in told.verdicts:
        is_weak = any(claim.verdict == "violated" for claim in each.claims)
        signs = {"masked gradients": bool(each.flags), "weak settings": is_weak}
        if problem := " or ".join(sign for sign, is_seen in signs.items() if is_seen):
            yield f"{problem.capitalize()} on {each.dataset}: {each.sentence}"
        if PROBED in each.checks["not checked"]:
            yield f"Not audited on {each.dataset}: its gradients were not measured: freqbench audit OUT --run."
    for finding in told.findings:
        if finding.check in ALWAYS and finding.verdict == "violated":
            yield f"{finding.dataset}: {CHECKS[finding.check].should}: violated: {finding.sentence}"


# Computed again


@dataclass(frozen=True, kw_only=True)
class Recomputation:
    """Parts of an entry to compute again."""

    checkpoint: str | None  # its weights; None: those at the place that its card names
    share: float  # of its rows that are no worst case, in (0, 1]
    cases: int | None  # of its audit, the first of each dataset; None: as many as the entry's own audit has
    engine: run.Engine  # of its audit
    trust_code: bool  # third-party code and frozen networks may run
    job: JobSpec | None = None  # its datasets name the places of data here; None: the entry's job does
    rows: int | None = None  # a spot check of so many random rows, without the audit; None: all of the above
    seed: int | None = None  # of the draw of rows; None: another each time


def recompute(entry: BoardEntry, console: Console, asked: Recomputation) -> list[Check]:
    """Computes an entry again on a copy of its store; ends with the first that is wrong, or lacks data here.
    `checkpoint`: the sealed weights; `identities`: cases have the entry's digests, the job the cells of its rows;
    `reproduce`: worst cases and a random share of the rest are the same; `audit`: cells that it adds show neither
    masked gradients nor stronger attacks, and leave what the entry's own states."""
    with tempfile.TemporaryDirectory(prefix="freqbench-") as folder, trusting(asked.trust_code):
        place = asked.checkpoint or entry.card.checkpoint
        try:
            if place.startswith("train://"):
                job_name, _, name = place.removeprefix("train://").rpartition("/")
                raise UserError(f"{place}: freqbench run {job_name} trains {name}: give its file by --checkpoint")
            local = storage.fetch(locate(place)) if not Path(place).is_dir() else Path(place)
            if local.is_file() and (digest := downloads.digest(local)) != entry.seal.checkpoint:
                text = f"{place}: expected sha256 {entry.seal.checkpoint}, got {digest}: not the weights of this entry"
                return [Check("checkpoint", "wrong", text)]
            here = _here(entry, str(local), asked.job, asked.trust_code)
            grid = expand(here.copy_named(f"{entry.name}: its job"))
        except MissingDataError as error:
            return [Check("identities", "not checked", one_line(error))]
        except (UserError, OSError) as error:
            return [Check("identities", "wrong", one_line(error))]
        if (results := list(_identities(entry, grid)))[-1].verdict == "wrong":
            return results
        copy, content = Path(folder) / "store", here.model_dump(mode="json")  # of weights and data here, without audit
        shutil.copytree(entry.folder / STORE, copy, ignore=shutil.ignore_patterns("audit"))
        for path in (copy / "runs").glob("*.json"):
            path.write_text(json.dumps({**json.loads(path.read_text()), "job": content}))
        out = str(copy)
        Store(out).write_job({**entry.store.job(), "spec": content})
        results.append(_again(entry, out, here, asked, console))
        if asked.rows is None and results[-1].verdict == "ok":
            theirs = Counter(name for name, _ in set(Store(root_of(entry.store.root)).rows(("dataset", "case_key"))))
            wanted = computing.MissingOptions(cases=asked.cases or max(theirs.values()), engine=asked.engine)
            if (failed := computing.compute_missing(here, out, console, wanted)) is None:
                raise KeyboardInterrupt
            result = check_audit(entry_folder.told_by(Store(out)))
            if failed:
                result = Check("audit", "wrong", f"{failed} records of the audit failed")
            elif result.verdict != "wrong" and (others := list(_contradictions(entry, Store(root_of(out))))):
                result = Check("audit", "wrong", "; ".join(others[:3]))
            results.append(result)
        return results


def _here(entry: BoardEntry, checkpoint: str, job: JobSpec | None, trust_code: bool) -> JobSpec:
    spec = _spec(entry, entry.store.job().get("spec")).model_dump(mode="json")
    content = entry_folder.locate_weights(spec, checkpoint)
    made = config.validate({**content, "trust_code": trust_code}, JobSpec, f"{entry.name}: its job")
    if job is None:
        return made
    here = {each.name: each for each in job.datasets}
    return made.model_copy(update={"datasets": [here.get(each.name, each) for each in made.datasets]})


def _identities(entry: BoardEntry, grid: Grid) -> Iterator[Check]:
    """Compares checkpoint, digests of cases and ids of cells, as the job makes them here, with those of the entry."""
    if (got := {cell.source.checkpoint_sha256 for cell in grid.cells}) != {entry.seal.checkpoint}:
        yield Check("checkpoint", "wrong", f"expected sha256 {entry.seal.checkpoint}, got {', '.join(sorted(got))}")
        return
    yield Check("checkpoint", "ok", f"sha256 {entry.seal.checkpoint}")
    for name, refs in grid.cases.items():
        here = {ref.case_id: key for ref, key in zip(refs, grid.case_keys[name], strict=True)}
        for case, key in entry.told.cases.get(name, {}).items():
            if here.get(case) != key:
                got_key = here.get(case, "no such case")
                text = f"case {case} of {name}: expected the digest {key}, got {got_key}: other data or preprocessing"
                yield Check("identities", "wrong", text)
                return
    wanted, stored = index_keys(grid.index()), set(entry.store.rows(KEY))
    if wanted != stored:
        counts = f"{len(wanted - stored)} of {len(wanted)} records that its job asks for have no row, and "
        yield Check("identities", "wrong", f"{counts}{len(stored - wanted)} of its rows are none of the job's")
        return
    yield Check("identities", "ok", f"{len(wanted)} records of {len(grid.cells)} cells are those of its job here")


def _again(entry: BoardEntry, out: str, job: JobSpec, asked: Recomputation, console: Console) -> Check:
    """Computes again each worst case of a board, as it decides a rank, and a share of the rest; or `rows` of all."""
    keys, rows_of = Store(out).covered(), entry.told.worst_cases
    worst = {*zip(rows_of["cell_id"], rows_of["case_key"], strict=True)}
    decisive = sorted(key for key in keys if key[:2] in worst)
    again, count = decisive, math.ceil(asked.share * (len(keys) - len(decisive)))
    if asked.rows is not None:
        again, count = [], asked.rows
    seed = secrets.randbelow(2**31) if asked.seed is None else asked.seed
    counts = reproduce.reproduce(out, str(count), seed, job, console, again)
    text = f"{reproduce.total(counts)}, of {len(keys)} with {len(decisive)} worst cases (seed {seed})"
    return Check("reproduce", "ok" if not counts["different"] and not counts["not recomputed"] else "wrong", text)


def _contradictions(entry: BoardEntry, audit: Store) -> Iterator[str]:
    """Names the rows of an entry's audit that computing does not give again: worst cases rest on them too."""
    columns = (*KEY, "case_id", "attack", "dsc_foreground")
    again = {row[:3]: row[5] for row in audit.rows(columns)}
    for *key, case, attack, stored in Store(root_of(entry.store.root)).rows(columns):
        computed = again.get(tuple(key), stored)
        if not TOLERANCES["records"]["dsc_foreground"].allows(stored, computed):
            yield f"{attack} on {case}: expected a foreground DSC of {stored:.4f}, got {computed:.4f}"


def reasons(results: Sequence[Check]) -> list[str]:
    """Returns one text per wrong check."""
    return [f"{each.name}: {each.text}" for each in results if each.verdict == "wrong"]
