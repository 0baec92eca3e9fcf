"""Budgets found instead of given, so that attacks of different threat models are compared at equal distance.

For every dataset, source model and attack of an entry with `match`, that budget is sought at which the volumes of a few
cases have the asked mean distance. What was found is kept in `OUT/match.json` under a key of all that it depends on,
and stands as `matched` in the entry of the job that comes back: a job with numbers like any other.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from freqbench.attacks import attack_class
from freqbench.attacks.core.frequency import FrequencyAttack
from freqbench.core.errors import UserError
from freqbench.core.identity import digest
from freqbench.core.machine import available_cores
from freqbench.core.plugins import trusting
from freqbench.core.types import CaseRef
from freqbench.engine.budgets import Record, read_budgets, write_budgets
from freqbench.engine.search import UnreachableError, search
from freqbench.engine.worker import Worker, WorkerSpec
from freqbench.job.grid import Cell, attack_identity
from freqbench.job.models import models_for
from freqbench.job.schema import JobSpec, attack_of, expand
from freqbench.job.sweep import AttackEntry, Budget, Match, at
from freqbench.metrics import prepare_lpips

METHOD = 1  # raised by hand when a change finds other budgets

INTENSITY = (2**-12, 1.0)
BOUNDS: Mapping[str, tuple[float, float]] = {
    "eps": INTENSITY,
    "std": INTENSITY,
    "linf": INTENSITY,
    "share": (2**-10, 1.0),
    "rho": (2**-10, 0.999),
    "q_max": (2**-4, 2.0**14),
    "severity": (2**-4, 5.0),
}
FAMILY = {"ssim_body": "ssim", "lpips_body": "lpips", "l2_body": "l2"}


def matched(job: JobSpec, out: str, say: Callable[[str], None], where: str = "job", compute: bool = True) -> JobSpec:
    """A job whose budgets are all known.

    Args:
        job: from a file.
        out: the store, whose `match.json` holds what was found before and is given what is found now.
        say: told of every budget that is found.
        where: what a complaint begins with.
        compute: False: nothing is attacked, and a budget that is not known yet is the largest there is, so that cells
            and passes are counted rightly.

    Raises:
        UserError: an entry that cannot be, a value that no budget leads to, or a `match.json` that cannot be read.
    """
    if not any(entry.is_open for entry in job.attacks):
        return job
    with trusting(job.trust_code):
        asked, known = _asked(job, where), read_budgets(out)
    missing = {each.key: each for each in asked if each.key not in known}
    if missing and not compute:
        say(f"{len(missing)} of {len(asked)} budgets are not known yet: run finds them before anything else")
    elif missing:
        if any(each.match.metric == "lpips_body" for each in missing.values()):
            prepare_lpips()
        worker = Worker(_worker_spec(job))
        for key, each in missing.items():
            known[key] = each.find(worker)
            write_budgets(out, {**read_budgets(out), key: known[key]})
            say(known[key].text)
        del worker
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # what this process keeps, the run's workers lack
    rows: dict[int, tuple[Budget, ...]] = {}
    for each in asked:
        rows[each.number] = (*rows.get(each.number, ()), each.row(known.get(each.key)))
    attacks = [
        entry.model_copy(update={"matched": rows[i]}) if i in rows else entry for i, entry in enumerate(job.attacks)
    ]
    return job.model_copy(update={"attacks": attacks})


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """One budget to be found.

    Attributes:
        number: of the entry.
        place: of the entry's `match`.
        written: the attack's parameters as the file has them.
        match: what is asked for.
        budget_name: the parameter to be found.
        cell: the attack at its largest budget.
        refs: the cases.
    """

    number: int
    place: str
    written: Mapping[str, Any]
    match: Match
    budget_name: str
    cell: Cell
    refs: tuple[CaseRef, ...]

    @property
    def key(self) -> str:
        """16 hex digits of all that the budget depends on."""
        case_keys = [self.cell.dataset.case_key(ref) for ref in self.refs]
        return digest([METHOD, self.cell.cell_id, case_keys, self.match.metric, self.match.value])

    @property
    def bounds(self) -> tuple[float, float]:
        """The budgets to search between."""
        low, high = BOUNDS[self.budget_name]
        if self.budget_name == "q_max" and isinstance(self.cell.attack, FrequencyAttack):
            low = max(low, self.cell.attack.bounds[0])  # q_min
        return low, high

    def find(self, worker: Worker) -> Record:
        """Attack until the distance is met."""
        cell, match, name = self.cell, self.match, self.budget_name
        low, high = self.bounds
        turned = match.metric == "ssim_body"  # a similarity: 1 less it is the distance
        try:
            found = search(
                lambda budget: self._distance(worker, budget), 1 - match.value if turned else match.value, low, high
            )
        except UnreachableError as error:
            nearest = error.nearest
            reached = 1 - nearest.distance if turned else nearest.distance
            raise UserError(
                f"{self.place}.value: expected a {match.metric} that {name} from {low:g} to {high:g} leads to on "
                f"{cell.source.name}, {cell.dataset.name}, got {match.value:g}: the nearest is {reached:.4g}, at "
                f"{name}={nearest.budget:g}"
            ) from None
        return Record(
            dataset=cell.dataset.name,
            source=cell.source.name,
            attack=cell.attack.name,
            match=match,
            cases=tuple(ref.case_id for ref in self.refs),
            budget_name=name,
            budget=found.budget,
            reached=1 - found.distance if turned else found.distance,
            tried=found.tried,
        )

    def row(self, record: Record | None) -> Budget:
        """What the entry is given; without a record, at the largest budget."""
        return Budget(
            dataset=self.cell.dataset.name,
            source=self.cell.source.name,
            parameters={**self.written, self.budget_name: record.budget if record else self.bounds[1]},
            match=self.match,
            reached=record.reached if record else None,
        )

    def _distance(self, worker: Worker, budget: float) -> float:
        """The mean distance of the cases at a budget."""
        metric = self.match.metric
        change: dict[str, Any] = {self.budget_name: budget}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said when the grid is made
            cell = replace(self.cell, attack=replace(self.cell.attack, **change))
        values = []
        for ref in self.refs:
            scores = worker.distances(cell, ref, (FAMILY[metric],))
            if math.isnan(scores.values[metric]):
                raise UserError(f"{self.place}: {ref.case_id} has no {metric}: {scores.reasons[metric]}")
            values.append(scores.values[metric])
        mean = math.fsum(values) / len(values)
        return 1 - mean if metric == "ssim_body" else mean


def _asked(job: JobSpec, where: str) -> list[_Asked]:
    """Every budget to be found, in the order of the file."""
    largest = {
        i: tuple(_largest(job, entry, f"{where}: attacks[{i}]")) for i, entry in enumerate(job.attacks) if entry.is_open
    }
    attacks = [
        entry.model_copy(update={"matched": largest[i]}) if i in largest else entry
        for i, entry in enumerate(job.attacks)
    ]
    grid = expand(job.model_copy(update={"attacks": attacks}), where=where)
    cells: dict[tuple[str, str, str], Cell] = {}
    for cell in grid.cells:  # the first seed's comes first
        cells.setdefault((cell.dataset.name, cell.source.name, digest(attack_identity(cell.attack))), cell)
    datasets = {cell.dataset.name: cell.dataset for cell in grid.cells}
    asked = []
    for i, budgets in largest.items():
        place = f"{where}: attacks[{i}]"
        for budget in budgets:
            dataset = datasets[budget.dataset]
            attack = attack_of(job.attacks[i].name, budget.parameters, dataset, place)
            cell = cells[budget.dataset, budget.source, digest(attack_identity(attack))]
            refs = grid.cases[budget.dataset][: budget.match.cases]
            name = str(attack.budget_name)
            written = {key: value for key, value in budget.parameters.items() if key != name}
            asked.append(
                _Asked(
                    number=i,
                    place=f"{place}.match",
                    written=written,
                    match=budget.match,
                    budget_name=name,
                    cell=cell,
                    refs=refs,
                )
            )
    return asked


def _largest(job: JobSpec, entry: AttackEntry, place: str) -> Iterator[Budget]:
    """Rows of an entry with the largest budget, for every dataset and source."""
    with at(place):
        name = str(attack_class(entry.class_name).budget_name)
    if name not in BOUNDS:
        raise UserError(f"{place}.match: expected an attack with a budget {', '.join(BOUNDS)}, got {entry.name}")
    if name in entry.own:
        raise UserError(f"{place}.{name}: expected none beside match, which finds it, got {entry.own[name]!r}")
    matches, models = list(entry.matches(place)), [model.name for model in job.models]
    for dataset in entry.only("datasets", [each.name for each in job.datasets], place):
        named = entry.only("sources", models, place)
        for source in (source for source in models_for(job.models, dataset) if source in named):
            for parameters in entry.combinations(place):
                for match in matches:
                    largest = {**parameters, name: BOUNDS[name][1]}
                    yield Budget(dataset=dataset, source=source, parameters=largest, match=match, reached=None)


def _worker_spec(job: JobSpec) -> WorkerSpec:
    threads, batch = job.resources.threads, job.window_batch
    return WorkerSpec(
        run_id="",
        metrics=(),
        threads=available_cores() if threads == "auto" else threads,
        window_batch=None if batch == "auto" else batch,
        trust_code=job.trust_code,
    )
