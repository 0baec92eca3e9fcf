"""Finds the budgets at which attacks of different threat models have equal distance: the mean over a few cases, for
every dataset, source and attack of an entry with `match`. Budgets are stored in `OUT/match.json`, under a key of all
that they depend on, and are the `matched` of the entry in the returned job."""

import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from freqbench.attacks import attack_class
from freqbench.attacks.core.declared import declared
from freqbench.attacks.vafa import VAFA
from freqbench.core.config import Strict, validate
from freqbench.core.documents import object_of
from freqbench.core.errors import UserError, one_line
from freqbench.core.files import storage
from freqbench.core.identity import digest
from freqbench.core.machine import available_threads, pause_gc
from freqbench.core.measures import METRIC_OF
from freqbench.core.terminal import amount
from freqbench.core.types import CaseRef
from freqbench.job.attacks import attack_of
from freqbench.job.cells import Cell
from freqbench.job.grid import Expansion, Grid, expanding
from freqbench.job.schema import JobSpec
from freqbench.job.sweep import AttackEntry, Budget, Match, models_for, prefix_errors
from freqbench.metrics import prepare_lpips

if TYPE_CHECKING:
    from freqbench.engine.worker import Worker

FILE = "match.json"
METHOD = 1  # raised by hand when a change finds other budgets
MISS = 0.05  # relative distance that is too far off to count as equal

TOLERANCE = 0.01  # relative error of the distance that is near enough to stop
WIDTH = 0.002  # relative width of the budget's interval at which the search stops
STRIDE = 4.0  # factor from budget to budget until one exceeds the value
NOTHING = 1e-12  # a distance that counts as 0

INTENSITY = (2**-12, 1.0)
SMALL = 2**-10
LARGE = 2**-4
BOUNDS: Mapping[str, tuple[float, float]] = {
    "eps": INTENSITY,
    "std": INTENSITY,
    "linf": INTENSITY,
    "share": (SMALL, 1.0),
    "rho": (SMALL, 0.999),
    "q_max": (LARGE, 2.0**14),
    "severity": (LARGE, 5.0),
    "eps_k": INTENSITY,
    "eps_p": INTENSITY,
    "log_amplitude": (SMALL, 3.0),
    "deviation": INTENSITY,
    "max_mm": (LARGE, 64.0),
}


class FoundBudget(Strict):
    """Entry of `match.json` for one budget: its purpose, and the `cases` whose mean metric it `reached`."""

    dataset: str
    source: str
    attack: str
    match: Match
    cases: tuple[str, ...]
    budget_name: str
    budget: float
    reached: float
    tried: int

    @property
    def text(self) -> str:
        """Summary of the record in one line."""
        cases = amount(len(self.cases), "case")
        place = f"{self.attack} on {self.source}, {self.dataset}"
        found = f"{self.budget_name}={self.budget:g} has {self.match.metric} {self.reached:.4g}"
        return f"{place}: {found}, asked {self.match.value:g} (mean of {cases}, {self.tried} budgets tried)"


def read_budgets(out: str) -> dict[str, FoundBudget]:
    """Reads the budgets of the store at `out`, a folder or URI, by key."""
    path = storage.join(out, FILE)
    if not storage.exists(path):
        return {}
    try:
        content = object_of(storage.read_bytes(path), path)
        return {key: validate(value, FoundBudget, f"{path}: {key}") for key, value in content.items()}
    except UserError as error:
        why = one_line(error)
        raise UserError(f"{path}: expected budgets that a run found, got others ({why}): move it away") from None


def matched_grid(
    job: JobSpec, out: str, say: Callable[[str], None], compute: bool = True, limit_cases: int | None = None
) -> Grid:
    """Expands a job whose budgets are all known by then; `out`, `say` and `compute` as in `match_budgets`,
    `limit_cases` as in `expand`; raises UserError as both."""
    with expanding(job) as expansion:
        job = _match_budgets(job, expansion, out, say, compute)
        with pause_gc():  # imports networks
            return expansion.grid(job, limit_cases)


def match_budgets(job: JobSpec, out: str, say: Callable[[str], None], compute: bool = True) -> JobSpec:
    """Returns a job whose budgets are all known, from `match.json` in the store `out`, or found; without `compute` the
    largest. `say` gets a line on each that is found. Raises UserError for a mistake in an entry, a value that no budget
    reaches, or a bad `match.json`."""
    with expanding(job) as expansion:
        return _match_budgets(job, expansion, out, say, compute)


def _match_budgets(job: JobSpec, expansion: Expansion, out: str, say: Callable[[str], None], compute: bool) -> JobSpec:
    if not any(entry.is_open for entry in job.attacks):
        return job
    places = [f"{job.where}: attacks[{i}]" for i in range(len(job.attacks))]
    largest = {i: tuple(_largest(job, entry, places[i])) for i, entry in enumerate(job.attacks) if entry.is_open}
    grid = expansion.grid(_set_budgets(job, largest))
    asked = _budgets_to_find(job, grid, largest, places)
    records = read_budgets(out)
    missing = {wanted.key: wanted for wanted in asked if wanted.key not in records}
    if missing and not compute:
        say(f"{len(missing)} of {len(asked)} budgets are not known yet: run finds them before anything else")
    elif missing:
        records |= _find(job, missing, out, say)
    rows: dict[int, tuple[Budget, ...]] = {}
    for each in asked:
        rows[each.number] = (*rows.get(each.number, ()), each.row(records.get(each.key)))
    return _set_budgets(job, rows)


def _budgets_to_find(
    job: JobSpec, grid: Grid, largest: Mapping[int, tuple[Budget, ...]], places: Sequence[str]
) -> list["_Asked"]:
    """Returns what is to be found: for each entry's largest budgets, their cell of the first seed and its cases."""
    cells = {(cell.dataset.name, cell.source.name, cell.attack): cell for cell in reversed(grid.cells)}
    datasets = {cell.dataset.name: cell.dataset for cell in grid.cells}
    asked: list[_Asked] = []
    for i, budgets in largest.items():
        for budget in budgets:
            of = budget.dataset
            place = places[i]
            attack = attack_of(job.attacks[i].name, budget.parameters, datasets[of], place)
            cell = cells[of, budget.source, attack]
            refs = grid.cases[of][: budget.match.cases]
            asked.append(_Asked(number=i, place=f"{place}.match", budget=budget, cell=cell, refs=refs))
    return asked


def _find(
    job: JobSpec, missing: Mapping[str, "_Asked"], out: str, say: Callable[[str], None]
) -> dict[str, FoundBudget]:
    """Finds budgets by attacks in this process; each is stored, beside what others stored by then, and told."""
    from freqbench.engine.worker import Worker, WorkerSpec  # imported here, because it loads all metrics

    if any(wanted.budget.match.metric == "lpips_body" for wanted in missing.values()):
        prepare_lpips()
    threads = job.resources.threads
    batch = job.window_batch
    spec = WorkerSpec(
        run_id="",
        metrics=(),
        threads=available_threads() if threads == "auto" else threads,
        window_batch=None if batch == "auto" else batch,
        trust_code=job.trust_code,
    )
    worker = Worker(spec)
    found: dict[str, FoundBudget] = {}
    for key, wanted in missing.items():
        found[key] = wanted.find(worker)
        stored = read_budgets(out) | {key: found[key]}
        content = {name: record.model_dump(mode="json") for name, record in stored.items()}
        storage.write_atomic(storage.join(out, FILE), json.dumps(content, indent=2).encode())
        say(found[key].text)
    del worker
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # memory that this process keeps is lost to the run's workers
    return found


def _set_budgets(job: JobSpec, rows: Mapping[int, tuple[Budget, ...]]) -> JobSpec:
    attacks = [old.model_copy(update={"matched": rows[i]}) if i in rows else old for i, old in enumerate(job.attacks)]
    return job.model_copy(update={"attacks": attacks})


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """One budget to find: for entry `number`, at `place` in the file, with `cell` at the largest budget."""

    number: int
    place: str
    budget: Budget
    cell: Cell
    refs: tuple[CaseRef, ...]

    @property
    def budget_name(self) -> str:
        return str(self.cell.attack.budget_name)

    @property
    def key(self) -> str:
        """Digest of all that the budget depends on, 16 hex digits."""
        case_keys = [self.cell.dataset.case_key(ref) for ref in self.refs]
        return digest([METHOD, self.cell.cell_id, case_keys, self.budget.match.metric, self.budget.match.value])

    def find(self, worker: "Worker") -> FoundBudget:
        """Attacks by a `worker` with different budgets until the distance is met."""
        cell = self.cell
        match = self.budget.match
        name = self.budget_name
        low, high = BOUNDS[name]
        attack = cell.attack
        if name == "q_max" and isinstance(attack, VAFA):
            low = max(low, attack.bounds[0])  # q_min
        turned = match.metric == "ssim_body"  # a similarity s: the distance is 1 - s
        value = 1 - match.value if turned else match.value
        nearest = search(lambda budget: self._distance(worker, budget), value, low, high)
        distance = nearest.distance
        reached = 1 - distance if turned else distance
        source = cell.source.name
        dataset = cell.dataset.name
        if abs(log_ratio(distance, value)) > MISS:
            way = f"{name} from {low:g} to {high:g} leads to on {source}, {dataset}"
            got = f"got {match.value:g}: the nearest is {reached:.4g}, at {name}={nearest.budget:g}"
            raise UserError(f"{self.place}.value: expected a {match.metric} that {way}, {got}")
        return FoundBudget(
            dataset=dataset,
            source=source,
            attack=attack.name,
            match=match,
            cases=tuple(ref.case_id for ref in self.refs),
            budget_name=name,
            budget=nearest.budget,
            reached=reached,
            tried=nearest.tried,
        )

    def row(self, record: FoundBudget | None) -> Budget:
        """Returns the budget for the entry; without a record, the largest one."""
        if record is None:
            return self.budget
        parameters = {**self.budget.parameters, self.budget_name: record.budget}
        return self.budget.model_copy(update={"parameters": parameters, "reached": record.reached})

    def _distance(self, worker: "Worker", budget: float) -> float:
        metric = self.budget.match.metric
        change: dict[str, Any] = {self.budget_name: budget}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the grid has warned already
            cell = replace(self.cell, attack=replace(self.cell.attack, **change))
        values = []
        for ref in self.refs:
            scores = worker.distances(cell, ref, (METRIC_OF[metric],))
            values.append(scores.values[metric])
            if math.isnan(values[-1]):
                raise UserError(f"{self.place}: {ref.case_id} has no {metric}: {scores.reasons[metric]}")
        mean = math.fsum(values) / len(values)
        return 1 - mean if metric == "ssim_body" else mean


def _largest(job: JobSpec, entry: AttackEntry, place: str) -> Iterator[Budget]:
    """Yields the largest budget of an entry for every dataset, source, combination and match."""
    with prefix_errors(place):
        name = str((declared(entry.class_name) or attack_class(entry.class_name)).budget_name)
    if name not in BOUNDS:
        raise UserError(f"{place}.match: expected an attack with a budget {', '.join(BOUNDS)}, got {entry.name}")
    if name in entry.own:
        raise UserError(f"{place}.{name}: expected none beside match, which finds it, got {entry.own[name]!r}")
    matches = list(entry.matches(place))
    models = [model.name for model in job.models]
    for dataset in entry.only("datasets", [each.name for each in job.datasets], place):
        named = entry.only("sources", models, place)
        for source in (source for source in models_for(job.models, dataset) if source in named):
            for parameters in entry.combinations(place):
                for match in matches:
                    at_most = {**parameters, name: BOUNDS[name][1]}
                    yield Budget(dataset=dataset, source=source, parameters=at_most, match=match, reached=None)


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """A budget of three digits, its distance, and the number of budgets that were tried."""

    budget: float
    distance: float
    tried: int


def search(distance: Callable[[float], float], value: float, low: float, high: float) -> Nearest:
    """Returns the smallest budget from `low` to `high` that reaches a distance, by bisection; if none does, the
    nearest. `distance` is that of a budget, `value` the wanted one.

    Budgets grow by STRIDE from the smallest on until one exceeds the value, as not every distance grows all the way:
    that of VAFA falls again where all coefficients are quantised to nothing (a peak narrower than a stride may be
    missed). Between this budget and the one before, scipy's `brentq` (R. P. Brent, "Algorithms for Minimization without
    Derivatives", 1973) searches on logarithmic scales, on which most distances are nearly straight lines. Budgets and
    the value are above 0.

    >>> search(lambda eps: 100 * eps, 3.0, 0.001, 1.0)
    Nearest(budget=0.03, distance=3.0, tried=5)
    """
    from scipy.optimize import brentq

    tried: dict[float, float] = {}

    def gap(exponent: float) -> float:
        budget = min(max(float(f"{math.exp(exponent):.3g}"), low), high)
        if budget not in tried:
            tried[budget] = distance(budget)
        off = log_ratio(tried[budget], value)
        return 0.0 if abs(off) <= TOLERANCE else off  # at 0 the search ends

    below = math.log(low)
    last = math.log(high)
    while gap(below) < 0 and below < last:
        above = min(below + math.log(STRIDE), last)
        if gap(above) >= 0:
            brentq(gap, below, above, xtol=WIDTH)
            break
        below = above
    nearest = min(tried, key=lambda budget: abs(log_ratio(tried[budget], value)))
    return Nearest(budget=nearest, distance=tried[nearest], tried=len(tried))


def log_ratio(distance: float, value: float) -> float:
    """Returns the logarithm of the ratio of a distance to the value."""
    return math.log(max(distance, NOTHING) / value)
