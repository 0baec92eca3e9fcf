"""Judges a run's data: files off the scale, labels without a class, useless gradients, checkpoints that do not fit."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from freqbench.data import Dataset
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
    """Judgement of a network by its clean predictions of a dataset.

    Attributes:
        line: its figure, and the classes that labels have and no prediction has (`has_gap`).
        misfit: why it does not fit the data; None if it does.
        facts: its entry in a run's file.
    """

    target: ModelSpec
    line: str
    has_gap: bool
    misfit: str | None
    facts: Record


class Critic:
    """Judges files, clean predictions and records of a run, and words what is wrong with them; each thing once.

    Networks are judged by their clean predictions unless `is_judged` is false.
    """

    def __init__(self, plan: Plan, is_judged: bool = True) -> None:
        self._plan = plan
        self._lines: list[str] = []  # said of files and cases
        self._told = set[tuple[str, str, str | None]]()  # a case by its dataset and name, and the reason; None: empty
        self._cautions = Counter[tuple[str, str, str]]()  # number of records by attack, source and reason
        # Networks whose clean predictions of a dataset are to be judged; removed once they are.
        self.unjudged: dict[Pair, tuple[Dataset, ModelSpec]] = {
            (unit.cell.dataset.name, target.model_id): (unit.cell.dataset, target)
            for unit in (plan.units if is_judged else ())
            for target in unit.targets
            if target.is_judged and unit.cell.dataset.reference == "label"
        }
        self._clean = defaultdict[Pair, dict[str, Record]](dict)  # what is known of them, by the case's key
        grid, names = plan.grid, {name for name, _ in self.unjudged}
        self._refs = {name: dict(zip(grid.case_keys[name], grid.cases[name], strict=True)) for name in names}

    def of_files(self) -> Iterator[str]:
        """Yields one line per problem with the intensities of the first remaining cases."""
        for dataset, ref, space in first_cases(self._plan.units):
            for line in dataset.faults(ref, space):
                self._lines.append(line)
                yield line

    def of_record(self, record: Record) -> Iterator[str]:
        """Yields a line per new reason that lies in the record's case, and counts those that lie in gradients."""
        case, dice = (record["dataset"], record["case_id"]), record["dsc_foreground_clean"]
        for reason in filter(None, (record["caution"] or "").split(CAUTIONS)):
            if OF_GRADIENTS in reason:
                self._cautions[record["attack"], record["source_model"], reason] += 1
            elif (*case, reason) not in self._told:
                self._told.add((*case, reason))
                if not any(line.endswith(reason) for line in self._lines):
                    self._lines.append(f"{record['case_id']} of {record['dataset']}: {reason}")
                    yield self._lines[-1]
        if dice is not None and math.isnan(dice) and (*case, None) not in self._told:
            self._told.add((*case, None))
            is_label = record["reference"] == "label"
            what = "a label" if is_label else f"a clean prediction of {record['target_model']}"
            remedy = "the label and its place" if is_label else "the model and the intensities that it sees"
            yield (
                f"{record['case_id']} of {record['dataset']}: expected {what} with a class beside the background, got "
                f"none on the grid that is attacked: its foreground scores are undefined (NaN): check {remedy}, or "
                "leave the case out"
            )

    def clean_units(self) -> tuple[Unit, ...]:
        """Returns the clean predictions of the networks that are to be judged, but for cases that are known.

        A network predicts beside its own attacks, where it has some: so workers have it loaded.
        """
        cells = dict[Pair, Cell]()
        for unit in self._plan.units:
            for target in unit.targets:
                pair = unit.cell.dataset.name, target.model_id
                if pair in self.unjudged and not target.training:
                    is_own = target.model_id == unit.cell.source.model_id
                    cells[pair] = unit.cell if is_own else cells.get(pair, unit.cell)
        found = dict[tuple[str, str, str], Unit]()
        for pair, cell in cells.items():
            for case_key, ref in self._refs[cell.dataset.name].items():
                if case_key not in self._clean[pair]:
                    place = pair[0], case_key, cell.source.model_id
                    unit = found.get(place) or Unit(cell=cell, ref=ref, targets=(), is_clean=True)
                    found[place] = replace(unit, targets=(*unit.targets, self.unjudged[pair][1]))
        return tuple(found.values())

    def judge(self, facts: Record) -> Judgement | None:
        """Takes what is known of a clean prediction, and judges the network once all cases of the dataset are known.

        `facts` needs FIT_COLUMNS only; `error` tells of a case that cannot be predicted, which counts no further, as
        one without foreground. Classes are compared if the facts of all cases have them.
        """
        pair, dice = (facts["dataset"], facts["target_model_id"]), facts["dsc_foreground_clean"]
        if pair not in self.unjudged or (dice is None and not facts.get("error")):
            return None
        (dataset, target), known, case_key = self.unjudged[pair], self._clean[pair], facts["case_key"]
        if case_key in self._refs[dataset.name]:
            known[case_key] = known.get(case_key, facts) if dice is None else facts
        if len(known) < len(self._refs[dataset.name]):
            return None
        del self.unjudged[pair], self._clean[pair]
        made = [each for each in known.values() if each["dsc_foreground_clean"] is not None]
        clean = {(each["patient_id"], each["case_key"]): each["dsc_foreground_clean"] for each in made}
        clean = {case: dice for case, dice in clean.items() if not math.isnan(dice)}
        if not clean:
            return None
        never = set[int]()
        if all("pred_classes" in each for each in made):
            never = never.union(*(each["label_classes"] for each in made)).difference(
                *(each["pred_classes"] for each in made)
            )
        where, expected = f"{target.name} on {dataset.name}", target.expected_dice
        line = f"{where}: {fit.figure(expected, clean)}"
        if never:
            names = ", ".join(dataset.class_names[k] for k in sorted(never))
            line += f", but labels have {names}, and no prediction has"
        misfit = f"{line}: {fit.CAUSES}" if never and expected is None else None
        if short := fit.shortfall(expected, clean):
            misfit = f"{where}: {short}"
        facts = {"dataset": dataset.name, "target_model_id": target.model_id, "cases": len(clean)}
        facts |= {"dice": fit.mean_of(clean), "verdict": "misfit" if misfit else "fits"}
        return Judgement(target=target, line=line, has_gap=bool(never), misfit=misfit, facts=facts)

    def of_gradients(self) -> str | None:
        """Returns a line on records that say little about their model: their number, and the most common reason."""
        if not self._cautions:
            return None
        ((attack, model, caution), _) = self._cautions.most_common(1)[0]
        most = f"most of them of {attack} on {model}: {caution}: check the model's gradients"
        return f"{self._cautions.total()} records say little about their model, {most}"
