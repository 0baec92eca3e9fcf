"""Multiplies the attacks of a job by steps or queries, losses and restarts, for `freqbench study converge`."""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from itertools import pairwise, product
from typing import Any

from freqbench.attacks import Attack
from freqbench.core.errors import UserError, unknown
from freqbench.core.threat_models import MINIMAL
from freqbench.job.attacks import attack_entry
from freqbench.job.cells import Cell
from freqbench.job.grid import Grid, expand
from freqbench.job.schema import JobSpec
from freqbench.job.sweep import AttackEntry, models_for, prefix_errors
from freqbench.ops.heads import HEADS
from freqbench.ops.losses import LOSSES, SEQUENCES

METRICS = ("dsc",)
CHOICES = ("loss", "restarts")


@dataclass(frozen=True, kw_only=True)
class Effort:
    """Values that every attack is multiplied by.

    `losses` are names of `freqbench.ops.losses.LOSSES`, for attacks with the parameter `loss`; of `SEQUENCES`, for
    those of them whose steps follow a cosine.
    """

    steps: tuple[int, ...] = (5, 10, 20, 40, 80)  # two or more that increase, for attacks that follow a gradient
    queries: tuple[int, ...] = (100, 300, 1000)  # likewise, for attacks that search without one
    losses: tuple[str, ...] = ("dice", "ce", "dicece", "auto")
    restarts: tuple[int, ...] = (1, 3)  # numbers that increase, for attacks that draw; others have one run

    def __post_init__(self) -> None:
        for option, values, fewest, example in (
            ("steps", self.steps, 2, "5,10,20"),
            ("queries", self.queries, 2, "100,300"),
            ("restarts", self.restarts, 1, "1,3"),
        ):
            if len(values) < fewest or min(values) < 1 or any(b <= a for a, b in pairwise(values)):
                count = "two or more whole numbers" if fewest > 1 else "whole numbers"
                expected = f"expected {count} of at least 1 that increase, such as {example}"
                raise UserError(f"--{option}: {expected}, got {','.join(map(str, values)) or 'nothing'}")
        if not self.losses:
            raise UserError(f"--losses: expected one or more, such as dice,ce, got nothing: {', '.join(LOSSES)}")
        for loss in self.losses:
            if loss not in (*LOSSES, *SEQUENCES):
                raise UserError(f"--losses: {unknown('loss', loss, (*LOSSES, *SEQUENCES))}")


@dataclass(frozen=True, kw_only=True)
class Varied:
    """A job whose attacks are multiplied."""

    grid: Grid  # grid of the store; each cell is scored on the model that it attacks
    entries: Mapping[str, Mapping[str, Any]]  # entries of a job file by cell id, which always state effort and budget
    left_out: tuple[str, ...]  # names of the job's attacks that are left out


def vary_attacks(job: JobSpec, effort: Effort, cases: int) -> Varied:
    """Multiplies a job: each attack at every number of steps or queries, loss and number of restarts.

    Steps are multiplied if an attack follows a gradient in them, queries if it searches without one. The other
    parameters stay: a step size given as a number is the same for any number of steps. Null rows and attacks without
    either are left out, and those of `linf-minimal` and `l2-minimal`, whose steps make the change smaller. Rows are
    computed in fp32, on the first `cases` cases of each dataset. Raises UserError if the job cannot be expanded, has no
    such attack, or an attack refuses a loss or a number of steps.
    """
    content: dict[str, Any] = {"precision": "fp32", "compile": False, "targets": "source", "save_adversarial": "none"}
    job = job.model_copy(update={**content, "metrics": METRICS, "name": f"{job.name}-converge"})
    full = expand(job, cases)
    cells: dict[tuple[str, str], Cell] = {}
    for cell in full.cells:
        if counted := _length_parameter(cell.attack):
            for attack in _vary_attack(cell, counted, effort, job.where):
                changed = replace(cell, attack=attack)
                cells.setdefault((cell.dataset.name, changed.cell_id), changed)
    taken = {cell.attack.name for cell in cells.values()}
    left_out = dict.fromkeys(cell.attack.name for cell in full.cells if cell.attack.name not in taken)
    if not cells:
        expected = "expected one that follows a gradient in steps or searches by queries"
        raise UserError(f"{job.where}: attacks: {expected}, got {', '.join(left_out)}: add one")
    grid = replace(full, cells=tuple(cells.values()))
    entries = {cell.cell_id: _entry(cell.attack) for cell in grid.cells}
    grid = replace(grid, job=job.model_copy(update={"attacks": list(_attacks(grid))}))
    return Varied(grid=grid, entries=entries, left_out=tuple(left_out))


def _length_parameter(attack: Attack) -> str:
    """Returns the parameter that sets an attack's length: `steps`, or `queries` for a search; empty if neither."""
    names, (forwards, backwards) = {field.name for field in fields(attack)}, attack.passes
    if attack.threat_model.endswith(MINIMAL) or getattr(attack, "control", "none") != "none":
        return ""
    if "steps" in names and backwards > 0:
        return "steps"
    return "queries" if "queries" in names and forwards > 0 else ""


def _vary_attack(cell: Cell, counted: str, effort: Effort, where: str) -> Iterator[Attack]:
    """Yields the attack of a cell at every number of steps or queries, loss and number of restarts that it takes."""
    attack = cell.attack
    names = {field.name for field in fields(attack)}
    choices: dict[str, tuple[Any, ...]] = {counted: getattr(effort, counted)}
    if "loss" in names:
        takes_sequences = getattr(attack, "step_rule", None) == "cosine"
        choices["loss"] = tuple(loss for loss in effort.losses if takes_sequences or loss in LOSSES)
    if "restarts" in names:
        choices["restarts"] = effort.restarts if attack.is_stochastic else (1,)
    for values in product(*choices.values()):
        with prefix_errors(f"{where}: {attack.name}"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warned already, when the attack's grid was made
            changed = replace(attack, **dict(zip(choices, values, strict=True)))
            changed.check_classes(len(cell.dataset.classes))
            changed.check_head(HEADS[cell.dataset.classes.head])
        yield changed


def _entry(attack: Attack) -> dict[str, Any]:
    """Returns an attack's entry, with its budget after the name and its effort at the end, even at their defaults."""
    changed = attack_entry(attack)
    name = changed.pop("name")
    budget = {} if attack.budget_name is None else {attack.budget_name: getattr(attack, attack.budget_name)}
    names = {field.name for field in fields(attack)}
    effort = {key: getattr(attack, key) for key in (_length_parameter(attack), *CHOICES) if key in names}
    if "loss" in effort:
        effort["loss"] = getattr(attack, "loss_name", effort["loss"])  # the field is None if the variant sets the loss
    others = {key: value for key, value in changed.items() if key not in {*budget, *effort}}
    return {"name": name, **budget, **others, **effort}


def _attacks(grid: Grid) -> Iterator[AttackEntry]:
    """Yields entries that expand to the grid's cells: each attack once, or once per dataset if it is not for all."""
    everywhere = {name: set(models_for(grid.job.models, name)) for name in grid.cases}
    places: dict[Attack, dict[str, set[str]]] = {}
    for cell in grid.cells:
        places.setdefault(cell.attack, {}).setdefault(cell.dataset.name, set()).add(cell.source.name)
    for attack, sources_of in places.items():
        if sources_of == everywhere:
            yield AttackEntry(**_entry(attack))
        else:
            for name, sources in sources_of.items():
                yield AttackEntry(**_entry(attack), datasets=[name], sources=sorted(sources))
