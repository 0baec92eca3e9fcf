"""Computes what an audit lacks (`audit --run`), extra cells and probes, into a store of its own, OUT/audit."""

import math
import warnings
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

from rich.console import Console

from freqbench.attacks import Attack, make
from freqbench.attacks.core.strongest import is_claimed, limits_of, num_steps, strongest_forms
from freqbench.audit import probes
from freqbench.audit.probe_files import root_of
from freqbench.audit.probes import EPS, PRECISION, STEP_SIZE, STEPS, Say
from freqbench.core import config
from freqbench.core.code import steady
from freqbench.core.documents import mapping_of
from freqbench.core.errors import UserError
from freqbench.core.files import storage
from freqbench.core.plugins import trusting
from freqbench.core.terminal import amount
from freqbench.engine import matching, run
from freqbench.job import costs, plan
from freqbench.job.attacks import attack_entry
from freqbench.job.cells import Cell
from freqbench.job.grid import Grid, expand
from freqbench.job.schema import JobSpec
from freqbench.job.sweep import AttackEntry, parse_value
from freqbench.models import ModelSpec
from freqbench.results import Store

QUERIES = 1000  # fewer prove nothing (`checks.gradients`)
RESTARTS = 3
CONVERGED = "-converge/converge.yaml"  # suffix of a store's path: recommendations of `audit --converge`
METRICS = ("dsc", "ssim")
CONTROLS = ("uniform", "random")
SHORT = ("noise_linf", "noise_l2", "credit")  # were open most often; they ask no network for a pass of an attack
CASES = 5
LARGEST = 3  # number of attacks listed as taking most passes
Place = tuple[str, str]  # dataset and source model


@dataclass(frozen=True, kw_only=True)
class MissingOptions:
    """Options of an audit: the first `cases` of each dataset (None: CASES), radius `eps` as in a job (None:
    `usual_eps`). `short` computes what SHORT needs alone; without `compute` it only prints the costs."""

    cases: int | None = None
    eps: str | None = None
    engine: run.Engine = "auto"
    address: str | None = None
    short: bool = False
    compute: bool = True


def compute_missing(job: JobSpec, out: str, console: Console, asked: MissingOptions) -> int | None:
    """Computes what a store's audit lacks into OUT/audit, or goes on.

    Args:
        job: of the store, with its data and weights at their places here.
        out: root of the store.
        console: gets the costs, then the progress.
        asked: what to compute, and how.

    Returns:
        The number of failed records, None if it was stopped.
    """

    def say(text: str) -> None:
        console.print(text, soft_wrap=True)

    Store(out).job()  # raises here if there is none
    extra = plan_cells(job, out, asked.cases or CASES, _eps(asked.eps), say, asked.compute, asked.short)
    root = root_of(out)
    outlook = plan.outlook(extra.grid, (), None, root)
    console.print(plan.table(outlook))
    for line in (*_costs(extra, out, asked.short), *plan.lines(outlook)):
        say(line)
    if not asked.compute:
        return 0
    with trusting(job.trust_code):
        options = run.RunOptions(engine=asked.engine, address=asked.address, is_judged=False)
        summary = run.execute(extra.grid, root, console, options)
        try:
            if not summary.interrupted and not asked.short:
                probes.measure_gradients(extra.own, extra.eps, out, say)
                probes.rescore_saved(extra.own, out, say)
            if not summary.interrupted:
                return summary.num_failed
        except KeyboardInterrupt:
            pass
    say(f"stopped: results so far are in {root}, and the same command goes on")
    return None


def _costs(extra: "ExtraCells", out: str, short: bool) -> Iterator[str]:
    """Yields lines on the window passes that an audit takes; without those of probes where it is `short`."""
    passes = Counter[str]()
    num_records = 0
    for unit in extra.grid.units():
        passes[unit.cell.attack.name] += unit.passes
        num_records += len(unit.targets)
    cells = amount(len(extra.grid.cells), "cell")
    cases = amount(max(map(len, extra.own.cases.values())), "case")
    total = passes.total()
    yield f"{cells}, {amount(num_records, 'record')} on at most {cases}, {total:,} window passes"
    if total:
        yield f"most of them: {', '.join(f'{name} {count:,}' for name, count in passes.most_common(LARGEST))}"
    if not short:
        hours = plan.spoken_hours(probes.seconds(extra.own, Store(out)) / 3600)
        of_probes = probes.num_passes(extra.own)
        yield f"gradients: {of_probes:,} window passes more, at most, about {hours}"
        total += of_probes
    if stored := passes_stored(out):
        yield f"this is {total / stored:.2g} times the window passes of the run's own attacks"


def passes_stored(out: str) -> int:
    """Counts the window passes of a store's attacks, each volume once however many targets it was scored on. `out` is
    the store's root."""
    columns = ("cell_id", "case_key", "num_forwards", "num_backwards")
    passes = {tuple(key): (there or 0) + (back or 0) for *key, there, back in Store(out).rows(columns)}
    return sum(passes.values())


@steady()
def seconds_missing(job: JobSpec, out: str) -> tuple[float, float]:
    """Estimates what the cells that the audit of the store `out` of a `job` lacks cost one worker on CASES cases, in
    seconds: all, and those of SHORT."""
    grid = plan_cells(job, out, CASES, None, lambda _: None, compute=False).grid
    computed = Store(root_of(out))
    todo = plan.make_plan(grid, {} if computed.is_empty else computed.covered())
    known = Store(out) if computed.is_empty else computed
    silent = [unit for unit in todo.units if not unit.passes]
    whole, short = (costs.estimate_costs(units, todo.metrics, known).total for units in (todo.units, silent))
    return whole, short


def _eps(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = float(parse_value(text))
    except (TypeError, ValueError):
        value = math.nan
    if not 0 < value <= 1:
        raise UserError(f"--eps: expected a number in (0, 1] or a fraction like 8/255, got {text}")
    return value


@dataclass(frozen=True, kw_only=True)
class ExtraCells:
    """Cells that an audit computes."""

    grid: Grid  # of the extra cells, with the job of the store OUT/audit
    own: Grid  # the store's own, on the same cases
    eps: float  # of the L-infinity attacks


@steady()
def plan_cells(
    job: JobSpec, out: str, cases: int, eps: float | None, say: Say, compute: bool = True, short: bool = False
) -> ExtraCells:
    """Plans the cells that the checks need and the store lacks. For each dataset and source: PGD at eps / 2, eps, 2 eps
    and without a bound, with two and four times the steps, with restarts, and scored on every other model; FGSM;
    Square; noise of equal L-infinity, and of the L2 (in the body) of each attack of another threat model; null rows of
    frequency attacks, with and without stretching. For each of these and the job's bounds: the strongest attacks
    within, and the recommendations of `audit --converge`. A black box gets those without a gradient.

    Args:
        job: of the store.
        out: root of the store.
        cases: number of each dataset's first cases.
        eps: radius on the [0, 1] scale; None: `usual_eps`.
        say: gets a line for what cannot be planned.
        compute: measure the sizes that noise has to match; else noise of unknown budget has the largest one.
        short: noise and null rows alone.
    """
    own = expand(job.copy_named(out), cases)
    store = Store(out)
    eps = eps or usual_eps(own.cells)
    seed = job.seeds[0]
    cells: dict[tuple[str, str], Cell] = {}
    noise = _noise(own, store, cases, say, compute)
    strongest = (*_strongest(own, seed), *_recommended_cells(own, out, cases, say))
    for cell in (*_battery(own, eps, seed), *_null_rows(own, seed), *strongest, *noise):
        if (short and any(cell.attack.passes)) or (cell.source.black_box and cell.attack.needs_gradient):
            continue
        key = cell.dataset.name, cell.cell_id
        targets = {target.model_id: target for target in (*cells.get(key, cell).targets, *cell.targets)}
        cells[key] = replace(cell, targets=tuple(targets.values()))
    wanted = tuple(name for name in METRICS if name == "dsc" or name in job.metrics)
    scored = {key for key, metrics in store.covered().items() if "dsc" in metrics}
    missing = []
    for cell in cells.values():
        pairs = product(own.cases[cell.dataset.name], cell.targets)
        if not scored.issuperset(cell.key(*pair) for pair in pairs):
            missing.append(cell)
    attacks = [AttackEntry(**attack_entry(cell.attack)) for cell in missing]
    content = {
        "name": f"{job.name}-audit",
        "seeds": (seed,),
        "metrics": wanted,
        "attacks": attacks or job.attacks,
        "save_adversarial": "none",
        "precision": PRECISION,
        "compile": False,
    }
    grid = replace(own, job=job.model_copy(update=content), cells=tuple(missing), metrics=wanted)
    return ExtraCells(grid=grid, own=own, eps=eps)


def usual_eps(cells: Sequence[Cell]) -> float:
    """Radius of most L-infinity cells of a job, the smallest among equals; 8/255 where `cells` has none."""
    counts = Counter(float(getattr(cell.attack, "eps", 0)) for cell in cells if cell.attack.threat_model == "linf")
    usable = {eps: count for eps, count in counts.items() if 0 < eps <= 0.25}
    return min(usable, key=lambda eps: (-usable[eps], eps)) if usable else EPS


def _battery(own: Grid, eps: float, seed: int) -> Iterator[Cell]:
    pgd = partial(make, "pgd", step_size=STEP_SIZE)
    everywhere = pgd(eps=eps, steps=STEPS)
    attacks = [
        *(pgd(eps=budget, steps=STEPS) for budget in (eps / 2, min(2 * eps, 1.0), 1.0)),
        *(pgd(eps=eps, steps=factor * STEPS) for factor in (2, 4)),
        pgd(eps=eps, steps=STEPS, restarts=RESTARTS),
        make("fgsm", eps=eps),
        make("square", eps=eps, queries=QUERIES),
        make("random_noise", linf=eps),
    ]
    templates: dict[Place, Cell] = {}
    models: dict[str, dict[str, ModelSpec]] = {}  # by dataset and id
    for cell in own.cells:
        dataset = cell.dataset.name
        templates.setdefault((dataset, cell.source.name), cell)
        models.setdefault(dataset, {}).update({model.model_id: model for model in (cell.source, *cell.targets)})
    for (dataset, _), template in templates.items():
        yield _replace_attack(template, everywhere, seed, tuple(models[dataset].values()))
        yield from (_replace_attack(template, attack, seed) for attack in attacks)


def _strongest(own: Grid, seed: int) -> Iterator[Cell]:
    """Yields the tests of the job's claims: for each set the strongest forms of its longest attack, and null rows."""
    for cell in _longest(own).values():
        for form in strongest_forms(cell.attack):
            yield _replace_attack(cell, form, seed)
            for control in _controls(form):
                yield _replace_attack(cell, _change_attack(form, {"control": control}), seed)


def _longest(own: Grid) -> dict[Hashable, Cell]:
    """Finds the attack of most steps that a claim rests on, by dataset, source and bounds."""
    longest: dict[Hashable, Cell] = {}
    for cell in filter(lambda each: is_claimed(each.attack), own.cells):
        claim = _claim_of(cell)
        longest[claim] = max(longest.get(claim, cell), cell, key=lambda each: num_steps(each.attack))
    return longest


def _claim_of(cell: Cell) -> Hashable:
    return cell.dataset.name, cell.source.name, limits_of(cell.attack)


def _recommended_cells(own: Grid, out: str, cases: int, say: Say) -> Iterator[Cell]:
    """Yields the cells that `audit --converge` recommended within the bounds of the job's claims."""
    path = f"{out.rstrip('/')}{CONVERGED}"
    if not storage.exists(path):
        return
    try:
        if (attacks := mapping_of(storage.read_bytes(path), path).get("attacks")) == []:  # none has converged
            return
        changes = {"attacks": attacks, "targets": "source", "seeds": own.job.seeds[:1]}
        job = config.validate({**own.job.model_dump(mode="json"), **changes}, JobSpec, path)
        cells = expand(job, cases).cells
    except UserError as error:
        say(f"nothing of {path}: {error}")
        return
    claims = _longest(own)
    yield from (_replace_attack(cell, cell.attack, job.seeds[0]) for cell in cells if _claim_of(cell) in claims)


def _null_rows(own: Grid, seed: int) -> Iterator[Cell]:
    """Yields the null rows of each optimised frequency attack, both with and without stretching if it can stretch."""
    for cell in own.cells:
        if getattr(cell.attack, "control", "") == "none":
            for stretches, control in product(_stretchings(cell.attack), ("none", *_controls(cell.attack))):
                yield _replace_attack(cell, _change_attack(cell.attack, {**stretches, "control": control}), seed)


def _controls(attack: Attack) -> list[str]:
    if not hasattr(attack, "control"):
        return []
    return [control for control in CONTROLS if type(attack).parameters["control"].check(control) is None]


def _stretchings(attack: Attack) -> list[dict[str, Any]]:
    """Settings of `renormalize` for an attack that has it; its own as written, where None means its variant's."""
    if not hasattr(attack, "renormalize"):
        return [{}]
    stretched = attack.variant != "paper" if (setting := attack.renormalize) is None else setting
    return [{"renormalize": setting if stretches == stretched else stretches} for stretches in (True, False)]


def _noise(own: Grid, store: Store, cases: int, say: Say, compute: bool) -> Iterator[Cell]:
    """Yields noise with the mean L2 in the body of each optimised attack that has another bound than L-infinity."""
    entries = []
    for (dataset, source), sizes in _sizes(own, store).items():
        for size in sorted(set(sizes)):
            match = {"metric": "l2_body", "value": float(f"{size:.4g}"), "cases": cases}
            entries.append(AttackEntry(name="random_noise", match=match, datasets=[dataset], sources=[source]))
    if not entries:
        return
    content = {"attacks": entries, "targets": "source", "seeds": own.job.seeds[:1]}
    noisy = own.job.model_copy(update={**content, "precision": PRECISION, "compile": False}).copy_named("audit")
    try:
        grid = matching.matched_grid(noisy, root_of(store.root), say, compute, cases)
    except UserError as error:
        say(f"no noise of equal L2: {error}")
        return
    yield from grid.cells


def _sizes(own: Grid, store: Store) -> dict[Place, list[float]]:
    """Mean L2 in the body over the audit's cases of each such cell, if the store has it, by dataset and source."""
    columns = ("cell_id", "case_key", "l2_body", "status")
    rows = {(cell, case): size for cell, case, size, status in store.rows(columns) if status == "ok"}
    means: dict[Place, list[float]] = {}
    for cell in own.cells:
        sizes = [rows.get((cell.cell_id, case_key)) or 0.0 for case_key in own.case_keys[cell.dataset.name]]
        defined = [size for size in sizes if math.isfinite(size) and size > 0]
        if defined and cell.attack.threat_model != "linf" and cell.attack.passes[1]:
            means.setdefault((cell.dataset.name, cell.source.name), []).append(math.fsum(defined) / len(defined))
    return means


def _replace_attack(template: Cell, attack: Attack, seed: int, targets: tuple[ModelSpec, ...] | None = None) -> Cell:
    """Copies a cell with another attack, scored on the source unless targets are named."""
    return replace(
        template,
        attack=attack,
        seed=seed if attack.is_stochastic else None,
        targets=targets or (template.source,),
        window_batch=template.window_batch if attack.couples_batch else None,
        surrogates=template.surrogates if attack.needs_surrogates else (),
        precision=PRECISION,
        compile=False,
    )


def _change_attack(attack: Attack, changes: Mapping[str, Any]) -> Attack:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the job's grid has warned already
        return replace(attack, **changes)
