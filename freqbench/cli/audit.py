"""Checks whether numbers can be believed: the commands `audit`, `reproduce` and `verify`."""

import shutil
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from freqbench.cli import common
from freqbench.core.errors import UserError
from freqbench.core.names import packaged_jobs
from freqbench.core.terminal import amount

if TYPE_CHECKING:
    from freqbench.audit.checks import Finding
    from freqbench.job.schema import JobSpec
    from freqbench.results import Store

ENOUGH = 5  # patients whose intervals settle most doubts

app = typer.Typer()


@app.command()
def audit(
    out: common.Out,
    run: Annotated[bool, typer.Option("--run", help="Compute the few cells that checks lack, into OUT/audit.")] = False,
    short: Annotated[
        bool, typer.Option("--short", help="With --run: only noise and null rows, the checks that are open most often.")
    ] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Show what --run would compute, and compute nothing.")] = False,
    cases: Annotated[
        int | None, typer.Option(min=1, help="With --run: the first N cases of each dataset.", show_default="5")
    ] = None,
    eps: Annotated[
        str | None, typer.Option(help="With --run: radius, such as 8/255.", show_default="the job's most usual")
    ] = None,
    job: common.Job = None,
    set_: common.Overrides = None,
    engine: common.Engine = "auto",
    address: common.Address = None,
    trust_code: common.Trust = False,
    whole: Annotated[
        bool, typer.Option("--all", help="Show all checks, as a file or another format has them.")
    ] = False,
    format: common.Format = "terminal",
    to: common.To = None,
) -> None:
    """Check whether a store's numbers can be believed.

    Shows a verdict for each model, what matters most, and what to do. Files are checked by `verify`, and rows computed
    again by `reproduce`, whose exit codes answer.
    """
    failed: int | None = 0
    of_run = {"--cases": cases, "--eps": eps, "--job": job, "--set": set_, "--address": address}
    of_run |= {"--short": short or None}
    options = [name for name, value in of_run.items() if value is not None]
    if run and plan:
        raise UserError("audit: expected --run or --plan, got both")
    if plan and (to is not None or format != "terminal"):
        raise UserError("audit: expected --format and --to without --plan, which shows no table")
    if run or plan:
        from freqbench.audit import computing

        failed = computing.compute_missing(
            common.stored_job(out, job, trust_code, set_ or ()),
            out,
            common.console(),
            computing.AuditOptions(cases=cases, eps=eps, engine=engine, address=address, short=short, compute=not plan),
        )
        if failed is None:
            raise typer.Exit(common.EXIT_INTERRUPTED)
        if plan:
            return
    elif options:
        raise UserError(f"audit: {options[0]}: expected --run or --plan beside it, got neither")
    if whole or to is not None or format != "terminal":
        common.put(common.tables([out], format, "audit"), to, format)
    else:
        _show_most(out, job, trust_code)
    if failed:
        common.say(f"{amount(failed, 'record')} of the audit failed: the same command tries them again")
        raise typer.Exit(common.EXIT_FAILED)


def _show_most(out: str, job: str | None, trusted: bool) -> None:
    """Prints the first screen of an audit."""
    from freqbench.audit.checks import audited, gathered
    from freqbench.reporting import audit as shown
    from freqbench.reporting.contents import keys_of
    from freqbench.reporting.render.text import TERMINAL_WIDTH
    from freqbench.results import Store

    store = Store(out)
    with common.print_warnings():
        evidence = gathered([store], keys_of([store.job()]), always_classes=True)
    findings = audited(evidence)
    width = min(shutil.get_terminal_size((TERMINAL_WIDTH, 0)).columns, TERMINAL_WIDTH)
    remedies = [*filter(None, [evidence.caption]), *_remedies(store, findings, job, trusted)]
    common.put(shown.first_screen(findings, remedies, width), None)


def _remedies(store: "Store", findings: "tuple[Finding, ...]", job: str | None, trusted: bool) -> Iterator[str]:
    """Yields a line for what settles doubts, for the command that makes missing checks, and for the one that shows all.

    Minutes are left out where the job cannot be expanded here.
    """
    from freqbench.audit import computing
    from freqbench.audit.checks import may_be_made
    from freqbench.audit.checks.contrasts import POINTS
    from freqbench.job.plan import spoken_hours
    from freqbench.reporting.audit import CLAIMS, MASKING

    out, spec, cost = store.root, None, "--plan shows its cost"
    lacks = any(may_be_made(each) and each.check in (*CLAIMS, *MASKING) for each in findings)
    with suppress(UserError):  # without data, checkpoints or trust, which --plan says
        spec = common.stored_job(out, job, trusted)
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


def _more_cases(store: "Store", job: "JobSpec | None", doubt: "Finding") -> str:
    """Says that more patients settle a doubt, with the command and its cost if the job gives the number of cases.

    The audit's own noise and null rows come first, if the store has more cases than they have.
    """
    from freqbench.audit import computing
    from freqbench.audit.probe_files import root_of
    from freqbench.core.types import dataset_name
    from freqbench.job import schema
    from freqbench.job.plan import spoken_hours
    from freqbench.results import Store

    who = f"What is in doubt: {amount(doubt.patients, 'patient')}"
    num_cases, num_audited = (
        len({key for name, key in each.rows(("dataset", "case_key")) if name == doubt.dataset})
        for each in (store, Store(root_of(store.root), named_by=store))
    )
    if doubt.check in computing.SHORT and doubt.cases < num_cases:
        short = " --short" if num_audited < num_cases else ""  # else the attack that is compared has fewer cases
        return f"{who} cannot settle it: freqbench audit {store.root} --run{short} --cases {num_cases}"
    names = [entry.name for entry in job.datasets if entry.own.get("cases")] if job else []
    name = dataset_name(doubt.dataset)
    if not job or name not in names or doubt.patients >= ENOUGH:
        return f"{who} leave it open, and more cases would narrow the intervals"
    path = packaged_jobs().get(job.name)  # the file is known only if the store's job is as it is in the package
    is_packaged = path is not None and schema.load(str(path)).model_dump() == job.model_dump()
    number = [entry.name for entry in job.datasets].index(name)
    attacks, scoring, cases = dict[tuple[str, str], float](), 0.0, set[str]()
    for cell_id, case_key, attack, score in store.rows(("cell_id", "case_key", "attack_seconds", "score_seconds")):
        attacks[cell_id, case_key] = attack or 0.0  # the same in the row of each target
        scoring, cases = scoring + (score or 0.0), cases | {case_key}
    hours = (sum(attacks.values()) + scoring) / len(cases) * (ENOUGH - doubt.cases) / 3600
    command = (
        f"freqbench run {job.name if is_packaged else 'JOB'} --out {store.root} --set datasets.{number}.cases={ENOUGH}"
    )
    return f"{who} cannot settle it: {command}, about {spoken_hours(hours)} on one worker"


@app.command()
def reproduce(
    out: common.Out,
    row: Annotated[
        str | None, typer.Option(help="Id of a row, 6 digits or more: the page has it in a case's details.")
    ] = None,
    count: Annotated[int | None, typer.Option("--random", min=1, help="Number of rows to draw at random.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
    job: common.Job = None,
    trust_code: common.Trust = False,
) -> None:
    """Recompute rows of a store and name the differences.

    The exit code is 1 if there are any. Nothing is stored.
    """
    from freqbench.audit import reproduce
    from freqbench.core.plugins import import_beside, trusting

    if trust_code:
        import_beside()
    spec = common.stored_job(out, job, trust_code) if job else None
    with trusting(trust_code or bool(spec and spec.trust_code)):
        counts = reproduce.reproduce(out, row, count, seed, spec, common.console())
    if counts["different"]:
        raise typer.Exit(common.EXIT_FAILED)


@app.command()
def verify(
    out: common.Out,
    volumes: Annotated[bool, typer.Option("--volumes", help="Read every saved volume to its end, too.")] = False,
    reference: Annotated[
        int | None,
        typer.Option(min=1, help="Score N saved rows by MedPy, MONAI, scikit-image and lpips, too.", metavar="N"),
    ] = None,
) -> None:
    """Check that a store is whole: its files, columns and rows.

    Values, doubles, holes, classes and identities too. The exit code is 1 if it is not. Nothing is changed.
    """
    from freqbench.audit import verify
    from freqbench.results import Store

    console, store = common.console(), Store(out)
    is_sound = verify.show_checks(verify.verify(store, volumes), out, console)
    if reference:
        from freqbench.audit import reference as libraries

        is_sound &= libraries.show_comparison(libraries.compare(store, reference), out, console)
    if not is_sound:
        raise typer.Exit(common.EXIT_FAILED)
