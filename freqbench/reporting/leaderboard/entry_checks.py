"""Verifies entries: their audits, and their rows by computing them again."""

import math
import secrets
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from freqbench.audit import computing, reproduce
from freqbench.audit.checks import CHECKS
from freqbench.audit.probe_files import root_of
from freqbench.audit.verify import Check
from freqbench.core import config
from freqbench.core.errors import MissingDataError, UserError, one_line
from freqbench.core.plugins import trusting
from freqbench.engine import run
from freqbench.job.schema import JobSpec
from freqbench.reporting.leaderboard import entry_folder
from freqbench.reporting.leaderboard.entry_folder import STORE, BoardEntry, Told
from freqbench.results import KEY, Store
from freqbench.results.tolerances import TOLERANCES

PROBED = "zero_gradients"  # check that can always be made once `audit --run` has finished
ALWAYS = ("clean", "saved", "bounds")  # checks beside those of gradients and claims that an entry may not violate


def examine(told: Told) -> list[Check]:
    """Checks that rows of an entry, of which `told` are the facts, can be ranked: there are worst cases, and its audit
    lets them stand."""
    return [_worst_cases(told), check_audit(told)]


def _worst_cases(told: Told) -> Check:
    if (worst := told.worst_cases).empty:
        wanted = "an attack that was optimised on the network, within bounds whose strongest attack an audit knows"
        return Check("worst cases", "wrong", f"nothing to rank by: expected {wanted}")
    return Check("worst cases", "ok", f"{len(worst)} in {worst['bounds'].nunique()} threat models")


def check_audit(told: Told) -> Check:
    """Checks that the audit of a store of one network, of which `told` are the facts, lets its numbers stand as far as
    it was run."""
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
    trust_code: bool  # third-party code may run
    job: JobSpec | None = None  # its datasets name the places of data here; None: the entry's job does
    rows: int | None = None  # a spot check of so many random rows, without the audit; None: all of the above
    seed: int | None = None  # of the draw of rows; None: another each time


def recompute(entry: BoardEntry, console: Console, asked: Recomputation) -> list[Check]:
    """Computes the parts of an entry that are `asked` for again, with progress on the `console`; ends with the first
    check that is wrong, or lacks data here. `reproduce`: worst cases and a random share of the rest are the same;
    `audit`: cells that it adds to a copy of the rows show neither masked gradients nor stronger attacks, and leave what
    the entry's own states."""
    with trusting(asked.trust_code):
        try:
            here = _here(entry, asked)
            results = [_again(entry, here, asked, console)]
        except MissingDataError as error:
            return [Check("reproduce", "not checked", one_line(error))]
        except (UserError, OSError) as error:
            return [Check("reproduce", "wrong", one_line(error))]
        if asked.rows is None and results[0].verdict == "ok":
            results.append(_audit_again(entry, here, asked, console))
        return results


def _here(entry: BoardEntry, asked: Recomputation) -> JobSpec:
    """Returns the job of an entry with its weights and data at their places here."""
    place = asked.checkpoint or entry.card.checkpoint
    if place.startswith("train://"):
        job_name, _, name = place.removeprefix("train://").rpartition("/")
        raise UserError(f"{place}: freqbench run {job_name} trains {name}: give its file by --checkpoint")
    content = entry_folder.locate_weights(entry.store.job()["spec"], place)
    made = config.validate({**content, "trust_code": asked.trust_code}, JobSpec, f"{entry.name}: its job")
    here = {each.name: each for each in asked.job.datasets} if asked.job else {}
    return made.model_copy(update={"datasets": [here.get(each.name, each) for each in made.datasets]})


def _again(entry: BoardEntry, job: JobSpec, asked: Recomputation, console: Console) -> Check:
    """Computes again each worst case of a board, as it decides a rank, and a share of the rest; or `rows` of all."""
    keys = entry.store.covered()
    rows_of = entry.told.worst_cases
    worst = {*zip(rows_of["cell_id"], rows_of["case_key"], strict=True)}
    decisive = sorted(key for key in keys if key[:2] in worst)
    again = decisive
    count = math.ceil(asked.share * (len(keys) - len(decisive)))
    if asked.rows is not None:
        again = []
        count = asked.rows
    seed = secrets.randbelow(2**31) if asked.seed is None else asked.seed
    counts = reproduce.reproduce(entry.store.root, str(count), seed, job, console, again)
    text = f"{reproduce.total(counts)}, of {len(keys)} with {len(decisive)} worst cases (seed {seed})"
    return Check("reproduce", "ok" if not counts["different"] and not counts["not recomputed"] else "wrong", text)


def _audit_again(entry: BoardEntry, job: JobSpec, asked: Recomputation, console: Console) -> Check:
    """Computes the audit of an entry again, beside a copy of its rows."""
    own = Store(root_of(entry.store.root))
    of_dataset = Counter(name for name, _ in set(own.rows(("dataset", "case_key"))))
    wanted = computing.MissingOptions(cases=asked.cases or max(of_dataset.values()), engine=asked.engine)
    with tempfile.TemporaryDirectory(prefix="freqbench-") as folder:
        out = str(Path(folder) / STORE)
        shutil.copytree(entry.store.root, out, ignore=shutil.ignore_patterns("audit"))
        if (failed := computing.compute_missing(job, out, console, wanted)) is None:
            raise KeyboardInterrupt
        if failed:
            return Check("audit", "wrong", f"{failed} records of the audit failed")
        result = check_audit(entry_folder.told_by(Store(out)))
        if result.verdict != "wrong" and (others := list(_contradictions(own, Store(root_of(out))))):
            return Check("audit", "wrong", "; ".join(others[:3]))
        return result


def _contradictions(own: Store, made: Store) -> Iterator[str]:
    """Names the rows of an entry's own audit that computing does not give again: worst cases rest on them too."""
    columns = (*KEY, "case_id", "attack", "dsc_foreground")
    again = {row[:3]: row[5] for row in made.rows(columns)}
    for *key, case, attack, stored in own.rows(columns):
        computed = again.get(tuple(key), stored)
        if not TOLERANCES["records"]["dsc_foreground"].allows(stored, computed):
            yield f"{attack} on {case}: expected a foreground DSC of {stored:.4f}, got {computed:.4f}"


def reasons(results: Sequence[Check]) -> list[str]:
    """Returns one text per check of `results` that is wrong."""
    return [f"{each.name}: {each.text}" for each in results if each.verdict == "wrong"]
