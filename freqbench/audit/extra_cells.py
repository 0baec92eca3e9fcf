"""The few cells that an audit needs beside a store's own: planned for every dataset and source model of its job.

They go into a store of their own, OUT/audit, by the same runner; OUT's rows stay as they are, and what OUT has already
is not computed again.
"""

import math
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any, Literal

from freqbench.attacks import Attack, make
from freqbench.attacks.core.frequency import BlockAttack
from freqbench.attacks.core.strongest import is_claimed, limits_of, num_steps, strongest_forms
from freqbench.audit.measurements import root_of
from freqbench.core.errors import UserError
from freqbench.engine import matching
from freqbench.job.grid import Cell, Grid, attack_entry
from freqbench.job.schema import JobSpec, expand
from freqbench.job.sweep import AttackEntry
from freqbench.models import ModelSpec, attack_windows
from freqbench.results import Key, Store

EPS = 8 / 255
PRECISION: Literal["fp32"] = "fp32"
"""Rows of a reduced precision count beside those of the full one only."""
STEPS = 20
STEP_SIZE = "eps/4"
QUERIES = 1000
"""Fewer prove nothing (`reporting.audit.masking`)."""
RESTARTS = 3
METRICS = ("dsc", "ssim")
CONTROLS = ("uniform", "random")

Place = tuple[str, str]
"""Dataset and source model."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What an audit computes.

    Attributes:
        job: of the store OUT/audit.
        grid: of the extra cells.
        own: the store's own grid on the same cases.
        eps: of the L-infinity attacks.
    """

    job: JobSpec
    grid: Grid
    own: Grid
    eps: float


def planned(
    job: JobSpec, out: str, cases: int, eps: float | None, say: Callable[[str], None], compute: bool = True
) -> Probe:
    """The cells that the checks need and the store lacks.

    For each dataset and source model: PGD at eps / 2, eps, 2 eps and without a bound, with two and four times the
    steps, with restarts, and scored on every other model; FGSM; Square; noise of equal L-infinity; noise of the L2 (in
    the body) of each attack of another threat model; the null rows of each frequency attack, with and without
    stretching. For each of these and each bounds of the job's attacks: the strongest attacks with the same bounds.

    Args:
        job: of the store.
        out: the store.
        cases: the first so many of each dataset.
        eps: radius on the [0, 1] scale; None: the one that most L-infinity cells of the job have, or 8/255.
        say: told of budgets that are found for noise.
        compute: False: nothing is attacked, and noise whose budget is not known has the largest one.

    Raises:
        UserError: the job cannot be expanded, or the store not be read.
    """
    own = expand(job, cases, where=out)
    store = Store(out)
    eps = eps or usual_eps(own.cells)
    seed = job.seeds[0]
    cells: dict[tuple[str, str], Cell] = {}
    noise = _noise(job, own, store, cases, say, compute)
    for cell in (*_battery(own, eps, seed), *_null_rows(own, seed), *_strongest(own, seed), *noise):
        key = cell.dataset.name, cell.cell_id
        former = cells.get(key)
        targets = {target.model_id: target for target in (*(former.targets if former else ()), *cell.targets)}
        cells[key] = replace(cell, targets=tuple(targets.values()))
    wanted = tuple(name for name in METRICS if name == "dsc" or name in job.metrics)
    missing = tuple(cell for cell in cells.values() if _is_missing(cell, own, store.covered()))
    grid = Grid(cells=missing, cases=own.cases, metrics=wanted, warnings=own.warnings)
    content = {
        "name": f"{job.name}-audit",
        "attacks": [AttackEntry(**attack_entry(cell.attack)) for cell in missing] or job.attacks,
        "seeds": (seed,),
        "metrics": wanted,
        "save_adversarial": "none",
        "precision": PRECISION,
        "compile": False,
    }
    return Probe(job=job.model_copy(update=content), grid=grid, own=own, eps=eps)


def usual_eps(cells: Sequence[Cell]) -> float:
    """The radius that most L-infinity cells of a job have, of equally many the smallest; 8/255 without any."""
    found = Counter(float(getattr(cell.attack, "eps", 0)) for cell in cells if cell.attack.threat_model == "linf")
    usable = {eps: count for eps, count in found.items() if 0 < eps <= 0.25}
    return min(usable, key=lambda eps: (-usable[eps], eps)) if usable else EPS


def _battery(own: Grid, eps: float, seed: int) -> Iterator[Cell]:
    """The L-infinity attacks and noise for every dataset and source model."""
    usual: dict[str, Any] = {"steps": STEPS, "step_size": STEP_SIZE}
    everywhere = make("pgd", eps=eps, **usual)
    attacks = [
        *(make("pgd", eps=budget, **usual) for budget in (eps / 2, min(2 * eps, 1.0), 1.0)),
        *(make("pgd", eps=eps, **{**usual, "steps": factor * STEPS}) for factor in (2, 4)),
        make("pgd", eps=eps, restarts=RESTARTS, **usual),
        make("fgsm", eps=eps),
        make("square", eps=eps, queries=QUERIES),
        make("random_noise", linf=eps),
    ]
    for template in _templates(own).values():
        name = template.dataset.name
        models = {model.model_id: model for cell in own.cells if cell.dataset.name == name for model in _models(cell)}
        yield _with(template, everywhere, seed, tuple(models.values()))
        yield from (_with(template, attack, seed) for attack in attacks)


def _strongest(own: Grid, seed: int) -> Iterator[Cell]:
    """What the job's claims are held against: for each bounds the strongest forms of its longest attack, and null rows.

    A volume of several windows is attacked as one: the loss is then that of the prediction which is scored.
    """
    longest: dict[Hashable, Cell] = {}
    for cell in filter(lambda each: is_claimed(each.attack), own.cells):
        claim = cell.dataset.name, cell.source.name, limits_of(cell.attack)
        former = longest.get(claim)
        if former is None or num_steps(cell.attack) > num_steps(former.attack):
            longest[claim] = cell
    for cell in longest.values():
        for form in strongest_forms(cell.attack):
            strong = replace(form, scope="volume") if _is_whole(form, cell, own) else form
            nulls = CONTROLS if hasattr(form, "control") else ()
            yield from (
                _with(cell, each, seed) for each in (strong, *(_changed(strong, {"control": c}) for c in nulls))
            )


def _is_whole(form: Attack, cell: Cell, own: Grid) -> bool:
    """Whether a form attacks volumes as one: where some case has several windows, and none of them cuts its block."""
    if "volume" not in form.scopes or (isinstance(form, BlockAttack) and form.shortened(cell.source.roi)):
        return False
    shapes = (cell.dataset.shape_in(ref, cell.source.space) for ref in own.cases[cell.dataset.name])
    return any(len(attack_windows(shape, cell.source.roi)) > 1 for shape in shapes)


def _null_rows(own: Grid, seed: int) -> Iterator[Cell]:
    """Of each optimised frequency attack the null rows, and both with and without stretching where it stretches."""
    for cell in own.cells:
        if getattr(cell.attack, "control", "") != "none":
            continue
        stretching = [True, False] if any(field.name == "renormalize" for field in fields(cell.attack)) else [None]
        parameter = type(cell.attack).parameters["control"]
        controls = [control for control in CONTROLS if parameter.check(control) is None]
        for stretches, control in product(_spelled(cell.attack, stretching), ("none", *controls)):
            attack = _changed(cell.attack, {**stretches, "control": control})
            yield _with(cell, attack, seed)


def _spelled(attack: Attack, stretching: Sequence[bool | None]) -> Iterator[dict[str, Any]]:
    """Values of `renormalize` that leave the attack's own as it is written: None says the same as its variant's."""
    own = getattr(attack, "renormalize", None)
    usual = attack.variant != "paper"
    for stretches in stretching:
        if stretches is None:
            yield {}
        else:
            yield {"renormalize": own if stretches == (usual if own is None else own) else stretches}


def _noise(
    job: JobSpec, own: Grid, store: Store, cases: int, say: Callable[[str], None], compute: bool
) -> Iterator[Cell]:
    """Noise with the mean L2 in the body of each optimised attack that is bounded otherwise than by L-infinity."""
    sizes = _sizes(own, store)
    entries = [
        AttackEntry(
            name="random_noise",
            match={"metric": "l2_body", "value": float(f"{size:.4g}"), "cases": cases},
            datasets=[dataset],
            sources=[source],
        )
        for (dataset, source), found in sizes.items()
        for size in sorted(set(found))
    ]
    if not entries:
        return
    exact = {"precision": PRECISION, "compile": False}
    noisy = job.model_copy(update={"attacks": entries, "targets": "source", "seeds": job.seeds[:1], **exact})
    try:
        found = matching.matched(noisy, root_of(store.root), say, "audit", compute)
    except UserError as error:
        say(f"no noise of equal L2: {error}")
        return
    yield from expand(found, cases, where="audit").cells


def _sizes(own: Grid, store: Store) -> dict[Place, list[float]]:
    """Mean L2 in the body over the audit's cases, of each cell that is meant, as far as the store has it."""
    columns = ("cell_id", "case_key", "l2_body", "status")
    rows = {(cell, case): size for cell, case, size, status in store.rows(columns) if status == "ok"}
    found: dict[Place, list[float]] = {}
    for cell in own.cells:
        if cell.attack.threat_model == "linf" or cell.attack.passes[1] == 0:
            continue
        sizes = [rows.get((cell.cell_id, case_key)) for case_key in own.case_keys[cell.dataset.name]]
        known = [size for size in sizes if size is not None and math.isfinite(size) and size > 0]
        if known:
            found.setdefault((cell.dataset.name, cell.source.name), []).append(math.fsum(known) / len(known))
    return found


def _templates(own: Grid) -> Mapping[Place, Cell]:
    """A cell of each dataset and source model."""
    found: dict[Place, Cell] = {}
    for cell in own.cells:
        found.setdefault((cell.dataset.name, cell.source.name), cell)
    return found


def _models(cell: Cell) -> tuple[ModelSpec, ...]:
    return (cell.source, *cell.targets)


def _with(template: Cell, attack: Attack, seed: int, targets: tuple[ModelSpec, ...] | None = None) -> Cell:
    """A cell like another with an attack of its own, scored on the source where nothing else is said."""
    return replace(
        template,
        attack=attack,
        seed=seed if attack.is_stochastic else None,
        targets=targets or (template.source,),
        window_batch=template.window_batch if attack.couples_batch else None,
        precision=PRECISION,
        compile=False,
    )


def _changed(attack: Attack, changes: Mapping[str, Any]) -> Attack:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said of the attack itself when its grid was made
        return replace(attack, **changes)


def _is_missing(cell: Cell, own: Grid, covered: Mapping[Key, frozenset[str]]) -> bool:
    """Whether the store lacks some row of a cell, or its DSC."""
    keys = (cell.key(ref, target) for ref in own.cases[cell.dataset.name] for target in cell.targets)
    return any("dsc" not in covered.get(key, ()) for key in keys)
