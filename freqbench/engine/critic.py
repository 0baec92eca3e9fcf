"""Judges a run's data: files off the scale, labels without a class, useless gradients, checkpoints that do not fit."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from freqbench.job import fit
from freqbench.job.plan import Plan, first_cases
from freqbench.models import ModelSpec
from freqbench.results.schema import CAUTIONS, OF_GRADIENTS

FIT_COLUMNS = ("dataset", "target_model_id", "case_id", "patient_id", "dsc_foreground_clean")
MISFIT_CAUSES = (
    "usual causes: other args than it was trained with, another roi, intensity or spacing, another order of classes or "
    "axes, a checkpoint of an older MONAI without its migration"
)
Record = Mapping[str, Any]


class Critic:
    """Judges the first cases of a plan and the records of a run, and words what is wrong with them; each thing once."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._lines: list[str] = []  # said of files and cases
        self._told = set[tuple[str, str, str | None]]()  # a case by its dataset and name, and the reason; None: empty
        self._cautions = Counter[tuple[str, str, str]]()  # number of records by attack, source and reason
        # Models whose clean Dice on the first cases of a dataset is to be judged; removed once it is.
        self._unjudged = {
            (unit.cell.dataset.name, target.model_id): target for unit in plan.units for target in unit.targets
        }
        self._clean = defaultdict[tuple[str, str], dict[tuple[str, str], float]](dict)

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

    def misfit(self, record: Record) -> tuple[ModelSpec, str, str] | None:
        """Returns a model, a line and the key that lets it go on, if its clean Dice shows that it does not fit.

        The first case is held against `min_dice`, the mean over patients against `expected_dice`
        (`freqbench.job.fit.shortfall`). Cases without foreground say nothing. `record` needs FIT_COLUMNS only.
        """
        key, dice = (record["dataset"], record["target_model_id"]), record["dsc_foreground_clean"]
        if dice is None or math.isnan(dice) or key not in self._unjudged:
            return None
        target, clean = self._unjudged[key], self._clean[key]
        is_first = not clean
        short = None
        if target.expected_dice is None:
            del self._unjudged[key]
        else:
            clean[record["patient_id"], record["case_id"]] = dice
            short = fit.shortfall(target.expected_dice, clean)
            if short or len({patient for patient, _ in clean}) >= fit.LAST:
                del self._unjudged[key]
        if is_first and dice < target.min_dice:
            line = (
                f"{target.name}: clean foreground Dice {dice:.2f} on {record['case_id']} of {record['dataset']}, "
                f"expected min_dice {target.min_dice:g} at least: this checkpoint does not fit this dataset or "
                f"preprocessing ({MISFIT_CAUSES})"
            )
            return target, line, "min_dice: 0"
        return (target, f"{target.name} on {record['dataset']}: {short}", "no expected_dice") if short else None

    @property
    def has_expectations(self) -> bool:
        """True if a model still to be judged has a `min_dice` or an `expected_dice`."""
        return any(target.min_dice or target.expected_dice for target in self._unjudged.values())

    def of_gradients(self) -> str | None:
        """Returns a line on records that say little about their model: their number, and the most common reason."""
        if not self._cautions:
            return None
        ((attack, model, caution), _) = self._cautions.most_common(1)[0]
        most = f"most of them of {attack} on {model}: {caution}: check the model's gradients"
        return f"{self._cautions.total()} records say little about their model, {most}"
