"""Records against their classes: means and counts that must come out the same."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from freqbench.results.findings import Findings
from freqbench.results.fingerprints import Numbers, row_numbers
from freqbench.results.rowid import row_id
from freqbench.results.schema import COMMIT, KEY

Floats = NDArray[np.float64]

MEANS: Mapping[str, tuple[str, bool]] = {
    "dsc": ("dsc", False),
    "dsc_clean": ("dsc_clean", False),
    "dsc_foreground": ("dsc", True),
    "dsc_foreground_clean": ("dsc_clean", True),
    "hd95": ("hd95", False),
    "hd95_clean": ("hd95_clean", False),
    "hd95_mm": ("hd95_mm", True),
    "hd95_mm_clean": ("hd95_mm_clean", True),
    "hd95_medpy_mm": ("hd95_medpy_mm", True),
}
"""Columns of records: of which column of the classes they are the mean over defined values, and whether the background
(class 0) is left out."""
COUNTS = ("hd95_undefined_classes", "missed_classes", "hallucinated_classes")
NEEDED = (*COMMIT, "status", "num_classes", *MEANS, *COUNTS)
ROUNDING = 1e-9


class Sums:
    """Sums over the classes of the records of one file, a piece of them at a time.

    Args:
        records: of the file, columns NEEDED.
        where: begins a finding: the file.
    """

    def __init__(self, records: pa.Table, where: str) -> None:
        self._records = records
        self._where = where
        numbers = row_numbers(records, COMMIT)
        self._order = np.argsort(numbers, kind="stable")
        self._sorted: Numbers = numbers[self._order]
        size = len(records)
        self._rows, self._indices = np.zeros(size), np.zeros(size)
        self._totals = {name: np.zeros(size) for name in MEANS}
        self._defined = {name: np.zeros(size) for name in (*MEANS, *COUNTS)}
        self._asked = {name: np.zeros(size) for name in (*MEANS, *COUNTS)}
        self._orphans = 0

    def add(self, piece: pa.Table) -> None:
        """Take rows of class_records, all columns."""
        if not len(piece):
            return
        numbers = row_numbers(piece, COMMIT)
        at = np.searchsorted(self._sorted, numbers).clip(max=max(len(self._sorted) - 1, 0))
        found = self._sorted[at] == numbers if len(self._sorted) else np.zeros(len(numbers), np.bool_)
        self._orphans += int((~found).sum())
        if not found.all():
            piece, at = piece.filter(pa.array(found)), at[found]
        of = self._order[at]
        index = pc.fill_null(piece["class_index"], -1).to_numpy()
        self._count(self._rows, of)
        self._count(self._indices, of, (index + 1.0) ** 2)
        values = {name: piece[name].cast(pa.float64()) for name in {column for column, _ in MEANS.values()}}
        for name, (column, is_foreground) in MEANS.items():
            numbers_of = pc.fill_null(values[column], np.nan).to_numpy()
            counted = index > 0 if is_foreground else np.ones(len(index), np.bool_)
            self._count(self._asked[name], of, counted & pc.is_valid(values[column]).to_numpy())
            defined = counted & ~np.isnan(numbers_of)
            self._count(self._defined[name], of, defined)
            self._count(self._totals[name], of, np.where(defined, numbers_of, 0.0))
        label, pred = (piece[f"{name}_voxels"] for name in ("label", "pred"))
        in_label, in_pred = (pc.greater(pc.fill_null(each, 0), 0).to_numpy() for each in (label, pred))
        has_voxels = (pc.is_valid(label).to_numpy()) & pc.is_valid(pred).to_numpy()
        surface = values["hd95"]
        undefined = pc.fill_null(pc.is_nan(surface), False).to_numpy()
        for name, asked, holds in (
            ("hd95_undefined_classes", pc.is_valid(surface).to_numpy(), undefined),
            ("missed_classes", has_voxels, (index > 0) & in_label & ~in_pred),
            ("hallucinated_classes", has_voxels, (index > 0) & ~in_label & in_pred),
        ):
            self._count(self._asked[name], of, asked)
            self._count(self._defined[name], of, holds & asked)

    def _count(self, into: Floats, of: NDArray[np.int64], weights: NDArray[np.generic] | None = None) -> None:
        into += np.bincount(of, weights=weights, minlength=len(into))

    def compare(self, findings: Findings) -> None:
        """Tell of what does not come out."""
        records = self._records
        if self._orphans:
            findings.wrong("classes", f"{self._where}: {self._orphans} rows of classes have no record in their file")
        ok = pc.fill_null(pc.equal(records["status"].cast(pa.string()), "ok"), False).to_numpy()
        classes = pc.fill_null(records["num_classes"], 0).to_numpy().astype(float)
        squares = classes * (classes + 1) * (2 * classes + 1) / 6  # of 1 to K: each class once
        wanted, squares = np.where(ok, classes, 0), np.where(ok, squares, 0)
        self._tell(findings, self._rows != wanted, "rows of classes", self._rows, wanted)
        self._tell(findings, (self._rows == wanted) & (self._indices != squares), "class_index: not each class once")
        whole = ok & (self._rows == wanted) & (self._indices == squares)
        for name in (*MEANS, *COUNTS):
            stored = pc.fill_null(records[name].cast(pa.float64()), np.nan).to_numpy()
            compared = whole & pc.is_valid(records[name]).to_numpy() & (self._asked[name] > 0)
            expected = self._defined[name]
            if name in MEANS:
                with np.errstate(invalid="ignore", divide="ignore"):
                    expected = self._totals[name] / self._defined[name]
            with np.errstate(invalid="ignore"):
                near = np.abs(stored - expected) <= ROUNDING * np.maximum(1.0, np.abs(expected))
            agrees = near | (np.isnan(stored) & np.isnan(expected))
            self._tell(findings, compared & ~agrees, name, stored, expected)

    def _tell(
        self,
        findings: Findings,
        mask: NDArray[np.bool_],
        what: str,
        stored: Floats | None = None,
        expected: Floats | None = None,
    ) -> None:
        if not mask.any():
            return
        first = int(mask.argmax())
        got = "" if stored is None or expected is None else f": {stored[first]:g}, the classes say {expected[first]:g}"
        if what == "rows of classes" and stored is not None and expected is not None:
            got = f": {stored[first]:g}, expected {expected[first]:g}"
        key = [str(self._records[name][first].as_py()) for name in KEY]
        findings.wrong("classes", f"{self._where}: {what}{got} in {int(mask.sum())} rows, first row {row_id(*key)}")
