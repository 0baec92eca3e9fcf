"""Judges a run's data: files off the scale, labels without a class, useless gradients, checkpoints that do not fit."""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from freqbench.core.errors import StorageUnavailable
from freqbench.core.types import CaseRef
from freqbench.data import Dataset, ListedFolder
from freqbench.engine.witness import assumed, verdict
from freqbench.job import fit
from freqbench.job.cells import Cell, Unit
from freqbench.job.plan import Plan, first_cases
from freqbench.models import ModelSpec
from freqbench.results.schema import CAUTIONS, OF_GRADIENTS

FIT_COLUMNS = ("dataset", "target_model_id", "case_key", "case_id", "patient_id", "dsc_foreground_clean")
Record = Mapping[str, Any]
Pair = tuple[str, str]  # name of a dataset, id of a network


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Judgement of a network by its clean predictions of a dataset."""

    target: ModelSpec
    line: str  # its figure, and the classes that labels have and no prediction has (`has_gap`)
    has_gap: bool
    misfit: str | None  # why it does not fit the data; None if it does
    facts: Record  # its entry in a run's file
    proof: str = ""  # a line on its own predictions that it was held against, if it fits
    is_of_own: bool = False  # its own predictions tell that it does not fit


class Critic:
    """Judges files, clean predictions and records of a run, and words what is wrong with them, once each. Networks are
    judged unless `is_judged` is false; `proven` are those whose own predictions an earlier run saw."""

    def __init__(self, plan: Plan, is_judged: bool = True, proven: Collection[Pair] = ()) -> None:
        self._plan = plan
        self._lines: list[str] = []  # said of files and cases
        self._told = set[tuple[str, str, str | None]]()  # a case by its dataset and name, and the reason; None: empty
        self._cautions = Counter[tuple[str, str, str]]()  # number of records by attack, source and reason
        grid = plan.grid
        pairs: dict[Pair, tuple[Dataset, ModelSpec]] = {}
        for unit in plan.units if is_judged else ():
            of = unit.cell.dataset
            pairs |= {(of.name, target.model_id): (of, target) for target in unit.targets}
        # By dataset and network: its own predictions, and the cases whose clean predictions are judged.
        self._own = {pair: own for pair, own in grid.witnesses.items() if pair in pairs and pair not in proven}
        self._wanted: dict[Pair, dict[str, CaseRef]] = {}
        for pair, (dataset, target) in pairs.items():
            refs: dict[str, CaseRef] = {}
            if target.is_judged and dataset.reference == "label":
                refs = dict(zip(grid.case_keys[pair[0]], grid.cases[pair[0]], strict=True))
            refs |= {dataset.case_key(ref): ref for ref in (self._own[pair].refs if pair in self._own else ())}
            if refs:
                self._wanted[pair] = refs
        # Those that are still to be judged.
        self.unjudged = {pair: of for pair, of in pairs.items() if pair in self._wanted}
        self._clean = defaultdict[Pair, dict[str, Record]](dict)  # what is known of them, by the case's key

    def of_files(self) -> Iterator[str]:
        """Yields one line per problem with the intensities of the first remaining cases."""
        for dataset, ref, space in first_cases(self._plan.units):
            with suppress(StorageUnavailable):  # its units wait for it
                for line in dataset.faults(ref, space) if isinstance(dataset, ListedFolder) else ():
                    self._lines.append(line)
                    yield line

    def of_record(self, record: Record) -> Iterator[str]:
        """Yields a line per new reason that lies in the record's case, and counts those that lie in gradients."""
        dataset = record["dataset"]
        case_id = record["case_id"]
        told = self._told
        case = (dataset, case_id)
        dice = record["dsc_foreground_clean"]
        for reason in filter(None, (record["caution"] or "").split(CAUTIONS)):
            if OF_GRADIENTS in reason:
                self._cautions[record["attack"], record["source_model"], reason] += 1
            elif (*case, reason) not in told:
                told.add((*case, reason))
                if not any(line.endswith(reason) for line in self._lines):
                    line = f"{case_id} of {dataset}: {reason}"
                    self._lines.append(line)
                    yield line
        if dice is not None and math.isnan(dice) and (*case, None) not in told:
            told.add((*case, None))
            is_label = record["reference"] == "label"
            what = "a label" if is_label else f"a clean prediction of {record['target_model']}"
            remedy = "the label and its place" if is_label else "the model and the intensities that it sees"
            yield (
                f"{case_id} of {dataset}: expected {what} with a class beside the background, got "
                f"none on the grid that is attacked: its foreground scores are undefined (NaN): check {remedy}, or "
                "leave the case out"
            )

    def clean_units(self) -> tuple[Unit, ...]:
        """Returns the clean predictions to judge, but known ones, each beside the network's own attacks if any."""
        cells: dict[Pair, Cell] = {}
        for unit in self._plan.units:
            for target in unit.targets:
                cell = unit.cell
                pair = cell.dataset.name, target.model_id
                if pair in self.unjudged and not target.training:
                    is_own = target.model_id == cell.source.model_id
                    cells[pair] = cell if is_own else cells.get(pair, cell)
        found: dict[tuple[str, str, str], Unit] = {}
        for pair, cell in cells.items():
            files = self._own[pair].files if pair in self._own else {}
            for case_key, ref in self._wanted[pair].items():
                if case_key not in self._clean[pair]:
                    place = pair[0], case_key, cell.source.model_id
                    unit = found.get(place) or Unit(cell=cell, ref=ref, targets=(), is_clean=True)
                    own = {**unit.own, **({pair[1]: files[ref.case_id]} if ref.case_id in files else {})}
                    found[place] = replace(unit, targets=(*unit.targets, self.unjudged[pair][1]), own=own)
        return tuple(found.values())

    def judge(self, facts: Record) -> Judgement | None:
        """Takes what is known of a clean prediction (FIT_COLUMNS, or an `error`, which counts no further), and judges
        the network once all cases of the dataset are known; classes are compared if the facts of all have them."""
        pair = (facts["dataset"], facts["target_model_id"])
        dice = facts["dsc_foreground_clean"]
        if pair not in self.unjudged or (dice is None and not facts.get("error")):
            return None
        dataset, target = self.unjudged[pair]
        known = self._clean[pair]
        case_key = facts["case_key"]
        files = self._own[pair].files if pair in self._own else {}
        is_told = facts.get("case_id") not in files or "held" in facts or dice is None  # rows say nothing of `held`
        if case_key in self._wanted[pair] and is_told:
            known[case_key] = known.get(case_key, facts) if dice is None else facts
        if len(known) < len(self._wanted[pair]):
            return None
        del self.unjudged[pair], self._clean[pair]
        grid = self._plan.grid
        own = self._own[pair].refs if pair in self._own else ()
        return _judged(target, dataset, [*known.values()], own, grid.cases[pair[0]])

    def of_gradients(self) -> str | None:
        """Returns a line on records that say little about their model: their number, and the most common reason."""
        if not self._cautions:
            return None
        ((attack, model, caution), _) = self._cautions.most_common(1)[0]
        most = f"most of them of {attack} on {model}: {caution}: check the model's gradients"
        return f"{self._cautions.total()} records say little about their model, {most}"


def _judged(
    target: ModelSpec, dataset: Dataset, known: Sequence[Record], own: Sequence[CaseRef], refs: Sequence[CaseRef]
) -> Judgement | None:
    """Judges a network by what is known of all its clean predictions; `own` are cases that it is held against, `refs`
    those of the job."""
    where = f"{target.name} on {dataset.name}"
    expected = target.expected_dice
    proof, misfit = "", None
    if own:
        held = [each["held"] for each in known if each.get("held")]
        rest = assumed(held, own, refs, dataset, target)
        proof, misfit = _judged_by_own(where, known, {ref.case_id for ref in own}, rest)
    is_of_own = misfit is not None
    lines = [proof] if proof else []
    made = [each for each in known if each["dsc_foreground_clean"] is not None]
    clean: dict[tuple[str, str], float] = {}
    for each in made:
        if not math.isnan(dice := each["dsc_foreground_clean"]):
            clean[each["patient_id"], each["case_key"]] = dice
    is_scored = bool(clean) and dataset.reference == "label" and target.is_judged
    never = _never_predicted(made) if is_scored else set()
    if is_scored:
        line = f"{where}: {fit.figure(expected, clean)}"
        if never:
            named = ", ".join(dataset.class_names[k] for k in sorted(never))
            line += f", but labels have {named}, and no prediction has"
        lines.append(line)
        if never and expected is None:
            misfit = misfit or f"{line}: {fit.CAUSES}"
        if short := fit.shortfall(expected, clean):
            misfit = misfit or f"{where}: {short}"
    if not lines and misfit is None:
        return None
    facts = {
        "dataset": dataset.name,
        "target_model_id": target.model_id,
        "cases": len(made),
        "dice": fit.mean_error(clean)[0] if is_scored else None,
        "proof": proof or None,
        "verdict": "misfit" if misfit else "fits",
    }
    return Judgement(
        target=target,
        line="; ".join(lines),
        has_gap=bool(never),
        misfit=misfit,
        facts=facts,
        proof=proof,
        is_of_own=is_of_own,
    )


def _judged_by_own(where: str, known: Sequence[Record], own: Collection[str], rest: str) -> tuple[str, str | None]:
    """Returns a line if a network's `own` predictions, with the `rest` that they do not tell, are no other, else none,
    and why they show that it does not fit."""
    held = [each["held"] for each in known if each.get("held")]
    line = verdict(where, held, rest) if held else ""
    for each in known:
        if each["case_id"] in own and each.get("error"):
            return "", f"{where}: expected its own prediction of {each['case_id']} ({each['error']}): none was made"
    return ("", line) if any(each.is_other for each in held) else (line, None)


def _never_predicted(made: Sequence[Record]) -> set[int]:
    """Returns the classes of labels that no prediction has; empty if the facts of some do not tell the classes."""
    if not all("pred_classes" in each for each in made):
        return set()
    in_labels = set[int]().union(*(each["label_classes"] for each in made))
    return in_labels.difference(*(each["pred_classes"] for each in made))
