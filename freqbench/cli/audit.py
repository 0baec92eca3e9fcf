"""Checks whether numbers can be believed: the command `audit`."""

import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from freqbench.cli import common
from freqbench.cli.common import more, option
from freqbench.core.errors import UserError
from freqbench.core.names import packaged_jobs
from freqbench.core.terminal import amount

if TYPE_CHECKING:
    from freqbench.audit.checks import Finding
    from freqbench.job.grid import Grid
    from freqbench.job.schema import JobSpec
    from freqbench.results import Store

ENOUGH = 5  # patients whose intervals settle most doubts
SHOWN = "--all --format --to --job"
CELLS = "--cases --eps --short --engine --address --job --set"
TAKES = {  # options that go with each way of an audit
    **{"": SHOWN, "--run": f"{SHOWN} {CELLS}", "--plan": CELLS, "--files": ""},
    **{"--rows": "--seed --job", "--converge": "--job --set", "--certify": "--job --set"},
}
app = typer.Typer()


@dataclass(frozen=True, kw_only=True)
class AuditOptions:
    """Ways of an audit beside that of stored rows, and options that go with one of them."""

    run: Annotated[bool, option("Compute the few cells that checks lack, into OUT/audit.", "--run")] = False
    plan: Annotated[bool, more("Show what --run would compute, and compute nothing.", "--plan")] = False
    files: Annotated[bool, option("Is the store whole: files, double rows, missing records?", "--files")] = False
    rows: Annotated[str | None, option("Compute rows again: N drawn, or one by its id.", metavar="N|ID")] = None
    converge: Annotated[bool, option("Would more passes or other losses take more?", "--converge")] = False
    certify: Annotated[bool, option("What is proven of smoothed networks, what attacks leave.", "--certify")] = False
    whole: Annotated[bool, option("Show all checks, as a file or another format has them.", "--all")] = False
    short: Annotated[bool, more("With --run: only noise and null rows.", "--short")] = False
    cases: Annotated[int | None, more("With --run: N cases a dataset.", min=1, show_default="5")] = None
    eps: Annotated[str | None, more("With --run: radius.", show_default="the job's most usual")] = None
    engine: common.Engine = "auto"
    address: common.Address = None
    seed: Annotated[int | None, more("With --rows: seed of the draw.", show_default="0")] = None


@app.command()
@common.takes_options
def audit(out: common.Out, options: AuditOptions, stored: common.StoredOptions, text: common.TextOptions) -> None:
    """Check whether a store's numbers can be believed.

    Shows a verdict for each model, what matters most, and what to do. --files and --rows answer by the exit code, 1 if
    something is wrong. --converge and --certify write their curves and tables into OUT too, as files.
    """
    has_format = text.format != "terminal"
    has_engine = options.engine != "auto"
    checks = {"--all": options.whole, "--short": options.short, "--cases": options.cases, "--eps": options.eps}
    places = {"--address": options.address, "--job": stored.job, "--set": stored.set_, "--to": text.to}
    given = {**checks, **places, "--seed": options.seed, "--format": has_format, "--engine": has_engine}
    common.chosen_way("audit", {way: getattr(options, way[2:]) for way in TAKES if way}, given, TAKES)
    if options.converge or options.certify:
        (_show_convergence if options.converge else _show_bounds)(out, stored.grid(out))
        return
    if options.files:
        from freqbench.audit import verify
        from freqbench.results import Store

        is_sound = verify.show_checks(verify.verify(Store(out)), out, common.console())
    elif options.rows:
        is_sound = _reproduce(out, options.rows, options.seed or 0, stored)
    else:
        is_sound = _judge(out, options, stored, text)
    if not is_sound:
        raise typer.Exit(common.EXIT_FAILED)


def _judge(out: str, options: AuditOptions, stored: common.StoredOptions, text: common.TextOptions) -> bool:
    """Prints the findings on a store's rows, after the cells that checks lack were computed; False if one failed."""
    failed: int | None = 0
    if options.run or options.plan:
        from freqbench.audit import computing

        asked = {name: getattr(options, name) for name in ("cases", "eps", "engine", "address", "short")}
        how = computing.MissingOptions(**asked, compute=not options.plan)
        if (failed := computing.compute_missing(stored.spec(out), out, common.console(), how)) is None:
            raise typer.Exit(common.EXIT_INTERRUPTED)
    if options.whole or not text.is_usual:
        text.put(common.tables([out], text.format, "audit"))
    elif not options.plan:
        _show_most(out, stored)
    if failed:
        common.say(f"{amount(failed, 'record')} of the audit failed: the same command tries them again")
    return not failed


def _reproduce(out: str, rows: str, seed: int, stored: common.StoredOptions) -> bool:
    """Computes rows of a store again, and prints the differences; True if there are none. Nothing is stored."""
    from freqbench.audit import reproduce
    from freqbench.core.plugins import import_beside, trusting

    if stored.trust_code:
        import_beside()
    spec = stored.spec(out) if stored.job else None
    with trusting(stored.trust_code or bool(spec and spec.trust_code)):
        return not reproduce.reproduce(out, rows, seed, spec, common.console())["different"]


def _show_most(out: str, stored: common.StoredOptions) -> None:
    """Prints the first screen of an audit."""
    from freqbench.audit.checks import audited, gathered
    from freqbench.reporting import audit as shown
    from freqbench.reporting.contents import keys_of
    from freqbench.reporting.render.text import TERMINAL_WIDTH
    from freqbench.results import Store

    store = Store(out)
    with common.print_warnings():
        evidence = gathered([store], keys_of([store.job()]), all_classes=True)
    findings = audited(evidence)
    width = min(shutil.get_terminal_size((TERMINAL_WIDTH, 0)).columns, TERMINAL_WIDTH)
    remedies = [*filter(None, [evidence.caption]), *_remedies(store, findings, stored)]
    common.put(shown.first_screen(findings, remedies, width), None)


def _remedies(store: "Store", findings: "tuple[Finding, ...]", stored: common.StoredOptions) -> Iterator[str]:
    """Yields what settles doubts, makes missing checks (minutes only if the job can be expanded here) and shows all."""
    from freqbench.audit import computing
    from freqbench.audit.checks import may_be_made
    from freqbench.audit.checks.contrasts import POINTS
    from freqbench.job.plan import spoken_hours
    from freqbench.reporting.audit import CLAIMS, MASKING

    out = store.root
    spec = None
    cost = "--plan shows its cost"
    lacks = any(may_be_made(each) and each.check in (*CLAIMS, *MASKING) for each in findings)
    with suppress(UserError):  # without data, checkpoints or trust, which --plan says
        spec = stored.spec(out)
        if lacks:
            whole, short = computing.seconds_missing(spec, out)
            cost = f"about {spoken_hours(whole / 3600)} on one worker"
            if short:
                cost += f"; noise and null rows alone: --run --short, about {spoken_hours(short / 3600)}"
    doubts = [each for each in findings if each.verdict == "in doubt" and each.patients]
    if slight := [each for each in doubts if each.high < 0 and each.high - each.low < POINTS]:
        names = ", ".join(dict.fromkeys(each.check for each in slight))
        yield f"More cases will not settle {names}: attacks are ahead for certain, but hardly by {POINTS:g} points"
    if wide := [each for each in doubts if each not in slight]:
        yield _more_cases(store, spec, min(wide, key=lambda each: each.patients))
    if lacks:
        yield f"What was not checked: freqbench audit {out} --run, {cost}"
    yield f"All {amount(len(findings), 'finding')}, and how to read them: freqbench audit {out} --all"


def _num_cases(store: "Store", dataset: str) -> int:
    return len({key for name, key in store.rows(("dataset", "case_key")) if name == dataset})


def _more_cases(store: "Store", job: "JobSpec | None", doubt: "Finding") -> str:
    """Says by which command more patients settle a doubt: first more cases of the audit's own null rows."""
    from freqbench.audit import computing
    from freqbench.audit.probe_files import root_of
    from freqbench.core.types import dataset_name
    from freqbench.job import schema
    from freqbench.job.plan import spoken_hours
    from freqbench.results import Store

    root = store.root
    dataset = doubt.dataset
    who = f"What is in doubt: {amount(doubt.patients, 'patient')}"
    num_cases = _num_cases(store, dataset)
    num_audited = _num_cases(Store(root_of(root), named_by=store), dataset)
    if doubt.check in computing.SHORT and doubt.cases < num_cases:
        short = " --short" if num_audited < num_cases else ""  # else the attack that is compared has fewer cases
        return f"{who} cannot settle it: freqbench audit {root} --run{short} --cases {num_cases}"
    names = [entry.name for entry in job.datasets if entry.own.get("cases")] if job else []
    name = dataset_name(dataset)
    if not job or name not in names or doubt.patients >= ENOUGH:
        return f"{who} leave it open, and more cases would narrow the intervals"
    path = packaged_jobs().get(job.name)  # the file is known only if the store's job is as it is in the package
    is_packaged = path is not None and schema.load(str(path)).model_dump() == job.model_dump()
    number = [entry.name for entry in job.datasets].index(name)
    attacks: dict[tuple[str, str], float] = {}
    scoring = 0.0
    cases: set[str] = set()
    for cell_id, case_key, attack, score in store.rows(("cell_id", "case_key", "attack_seconds", "score_seconds")):
        attacks[cell_id, case_key] = attack or 0.0  # the same in the row of each target
        scoring = scoring + (score or 0.0)
        cases = cases | {case_key}
    hours = (sum(attacks.values()) + scoring) / len(cases) * (ENOUGH - doubt.cases) / 3600
    where = f"--out {root} --set datasets.{number}.cases={ENOUGH}, about {spoken_hours(hours)} on one worker"
    return f"{who} cannot settle it: freqbench run {job.name if is_packaged else 'JOB'} {where}"


def _show_convergence(out: str, grid: "Grid") -> None:
    """Prints what more passes, losses and restarts add to each attack that has steps or queries, and advice. OUT then
    has converge.csv (the curves) and converge.yaml (recommended attacks of a job)."""
    from freqbench.analysis.frames import found_records
    from freqbench.reporting import convergence, render
    from freqbench.reporting.contents import keys_of
    from freqbench.results import Store

    store = Store(out)
    entries = convergence.counted_entries(grid.cells)
    if not entries:
        expected = "expected one that follows a gradient in steps or searches by queries"
        got = ", ".join(dict.fromkeys(cell.attack.name for cell in grid.cells))
        raise UserError(f"{grid.job.where}: attacks: {expected}, got {got}: add one")
    _, records = found_records([store], keys_of([store.job()]), convergence.COLUMNS)
    for line in convergence.failed_lines(records, entries):
        common.say(line)
    if (table := convergence.settings(records, entries)).empty:
        raise UserError(f"{out}: expected a DSC of at least one setting, got none: see the errors of its records")
    common.put(render.terminal(render.word_sections(convergence.sections(table))), None)
    advice = convergence.job_text(convergence.recommend(table), entries).encode()
    _put_beside(out, "converge", csv=render.csv(table.drop(columns="cell_id")).encode(), yaml=advice)


def _show_bounds(out: str, grid: "Grid") -> None:
    """Prints what is proven of networks smoothed as `ball` attacks them; writes OUT/bounds.csv."""
    import pandas as pd

    from freqbench.analysis import certificates
    from freqbench.reporting import render
    from freqbench.reporting.contents import contents
    from freqbench.reporting.views import defences
    from freqbench.results import Store

    defences.require_certified(grid)
    sections = defences.bounds(contents([Store(out)], (*certificates.COLUMNS, "dsc"), with_classes=False).records)
    common.put(render.terminal(sections), None)
    if tables := [section.data for section in sections if section.data is not None]:
        _put_beside(out, "bounds", csv=render.csv(pd.concat(tables)).encode())


def _put_beside(out: str, name: str, **files: bytes) -> None:
    """Writes files by their suffix beside a store's records; refuses to replace files of others."""
    from freqbench.core.files import storage

    paths = {suffix: storage.join(out, f"{name}.{suffix}") for suffix in files}
    for suffix, path in paths.items():  # all before the first is written
        storage.require_own(path, files[suffix].partition(b"\n")[0])
    for suffix, path in paths.items():
        storage.write_atomic(path, files[suffix])
        common.say(f"written: {path}")
