"""A record and its classes as stored and as recomputed, column by column."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from freqbench.core.documents import object_of
from freqbench.results import CLASS_RECORDS, RECORDS, Column
from freqbench.results.migrations import AGES
from freqbench.results.tolerances import EXACT, TOLERANCES, Tolerance

Row = Mapping[str, Any]

LATER = {kind: {name for age in AGES for name in age.added.get(kind, ())} for kind in TOLERANCES}
TEXTS = ("metrics", "null_reasons")  # they say which columns there are; the columns themselves are compared


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A column whose values differ.

    Attributes:
        column: its name, of a class with the class.
        stored: as the store has it.
        found: as recomputed.
        tolerance: within which they are taken for equal on another device or with other versions.
    """

    column: str
    stored: Any
    found: Any
    tolerance: Tolerance

    @property
    def by(self) -> float | None:
        """Recomputed less stored; None where they are no numbers."""
        numbers = [isinstance(value, int | float) for value in (self.stored, self.found)]
        return float(self.found) - float(self.stored) if all(numbers) else None

    @property
    def is_tolerated(self) -> bool:
        """Whether it is within the tolerance."""
        return self.by is not None and self.tolerance.allows(float(self.stored), float(self.found))


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What came of comparing.

    Attributes:
        compared: values.
        differences: those of them that are not equal to the bit.
        skipped: columns that one side lacks for a reason, and the reason.
    """

    compared: int
    differences: tuple[Difference, ...]
    skipped: Mapping[str, str]


def compare(stored: Row, stored_classes: Sequence[Row], found: Row, found_classes: Sequence[Row]) -> Comparison:
    """Every identity and result column of a record and of its classes, to the bit (NaN equals NaN).

    A column that an older release did not write, or that could not be computed then or now, is skipped with the reason.
    Of `params`, those that are stored count: what came later has its default.
    """
    reasons = [_reasons(row) for row in (stored, found)]
    state = _State(reasons=(reasons[0], reasons[1]))
    one, other = ({**row, "params": _known(row, stored)} for row in (stored, found))
    state.add("records", RECORDS, one, other)
    classes = {row["class_index"]: row for row in found_classes}
    if sorted(classes) != sorted(row["class_index"] for row in stored_classes):
        counts = {"stored": len(stored_classes), "found": len(found_classes)}
        state.differences.append(Difference(column="rows of classes", tolerance=EXACT, **counts))
    for row in sorted(stored_classes, key=lambda row: row["class_index"]):
        if row["class_index"] in classes:
            state.add("class_records", CLASS_RECORDS, row, classes[row["class_index"]], f"{row['class_name']}: ")
    return Comparison(compared=state.compared, differences=tuple(state.differences), skipped=state.skipped)


class _State:
    """A comparison in the making."""

    def __init__(self, reasons: tuple[Mapping[str, str], Mapping[str, str]]) -> None:
        self._reasons = reasons
        self.compared = 0
        self.differences: list[Difference] = []
        self.skipped: dict[str, str] = {}

    def add(self, kind: str, columns: Sequence[Column], stored: Row, found: Row, begin: str = "") -> None:
        """Compare two rows of a table."""
        for column in columns:
            name = column.name
            if column.mark == "measured" or name in TEXTS:
                continue
            one, other = stored[name], found[name]
            reason = self._reason(kind, name, one, other)
            if reason:
                self.skipped[name] = reason
                continue
            self.compared += 1
            is_nan = one != one and other != other
            if one != other and not is_nan:
                tolerance = TOLERANCES[kind].get(name, EXACT)
                self.differences.append(
                    Difference(column=f"{begin}{name}", stored=one, found=other, tolerance=tolerance)
                )

    def _reason(self, kind: str, name: str, stored: Any, found: Any) -> str | None:
        """Why two values are not compared; None: they are."""
        then, now = self._reasons
        if stored is None and found is not None:
            if name in then:
                return f"was not computed then: {then[name]}"
            return "an older release did not write it" if name in LATER[kind] else None
        if found is None and stored is not None and name in now:
            return f"cannot be computed here: {now[name]}"
        return None


def _reasons(row: Row) -> dict[str, str]:
    """Why columns of a record are null."""
    return object_of(row["null_reasons"] or "{}", "null_reasons")


def _known(row: Row, stored: Row) -> str:
    """Those parameters of a row that the stored one has."""
    names = object_of(stored["params"], "params")
    given = object_of(row["params"], "params")
    return json.dumps({name: value for name, value in given.items() if name in names}, sort_keys=True)
