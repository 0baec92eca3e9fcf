"""Finds rows of a store that contradict their columns or their classes, and collects errors by check."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from freqbench.audit.arrays import Floats, Hashes, Mask, among, floats, hash_rows, is_ok, valid
from freqbench.core.documents import object_of
from freqbench.core.errors import UserError
from freqbench.results.rowid import row_id
from freqbench.results.schema import COMMIT, KEY, RECORDS, Column
from freqbench.results.winners import Words

MOST_EXAMPLES = 3
Verdict = Literal["ok", "wrong", "not checked"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check of a store; `not checked` if its input is missing."""

    name: str
    verdict: Verdict
    text: str


class Findings:
    """Errors by check: the first few places and the number of further ones."""

    def __init__(self) -> None:
        self._wrong: dict[str, list[str]] = {}
        self._counts = Counter[str]()

    def wrong(self, name: str, text: str) -> None:
        """Records one error of a check."""
        self._counts[name] += 1
        if self._counts[name] <= MOST_EXAMPLES:
            self._wrong.setdefault(name, []).append(text)

    def wrong_rows(
        self, name: str, where: str, rows: pa.Table, mask: Mask, text: str, *values: Floats, what: str = "rows"
    ) -> None:
        """Records the rows of a mask `[rows]`, if any, as an error: their number, and the first one's id.

        The text's braces take the first row's `values`, each `[rows]`.
        """
        if mask.any():
            first = int(mask.argmax())
            key = [str(rows[column][first].as_py()) for column in KEY]
            text = text.format(*(each[first] for each in values))
            self.wrong(name, f"{where}{text} in {int(mask.sum())} {what}, first of row {row_id(*key)}")

    def check(self, name: str, ok: str, missing: str = "") -> Check:
        """Makes the verdict of a check: the text is `ok` if nothing is wrong, `missing` if it could not be made."""
        if texts := self._wrong.get(name):
            rest = self._counts[name] - len(texts)
            more = f"; and {rest} more like these" if rest else ""
            return Check(name=name, verdict="wrong", text="; ".join(texts) + more)
        return Check(name=name, verdict="not checked" if missing else "ok", text=missing or ok)


# Values of single rows

SLACK = 1e-6  # beyond a range, for rounding
_POSITIVE = ("voxels", "mm", "count", "bytes", "s", "distance", "ratio", "intensity 0..1", "the data's unit")
UNITS: Mapping[str, tuple[float, float]] = {
    "fraction": (0.0, 1.0),
    "1 - distance": (-math.inf, 1.0),
    **dict.fromkeys(_POSITIVE, (0.0, math.inf)),
}
COLUMNS: Mapping[str, tuple[float, float]] = {"ssim": (-1.0, 1.0), "ssim_body": (-1.0, 1.0), "linf": (0.0, 1.0)}
INFINITE = ("psnr", "seam_energy")  # for equal volumes, and for a change within one voxel of a seam


def check_columns(columns: Sequence[Column], rows: pa.Table, where: str, what: str, findings: Findings) -> None:
    """Checks that numbers are possible values of their column, and that required ones are not null."""
    for column in columns:
        name, values = column.name, rows[column.name]
        if column.required and values.null_count:
            findings.wrong_rows("values", where, rows, ~valid(values), f"{name}: null", what=what)
        if pa.types.is_floating(values.type) or pa.types.is_integer(values.type):
            low, high = COLUMNS.get(name) or UNITS.get(column.unit, (-math.inf, math.inf))
            numbers = floats(values)
            outside = (numbers < low - SLACK) | (numbers > high + SLACK)
            if name not in INFINITE:
                outside |= np.isinf(numbers)
            text = f"{name}: {{:g}} where {low:g} to {high:g} is possible"
            findings.wrong_rows("values", where, rows, outside, text, numbers, what=what)


def check_words(rows: pa.Table, where: str, metrics: Mapping[str, Sequence[str]], findings: Findings) -> None:
    """Checks states, errors and names of metrics, and that every null score has a reason."""

    def tell(mask: Mask, text: str) -> None:
        findings.wrong_rows("values", where, rows, mask, text)

    status, covers, reasons = (Words(rows[name]) for name in ("status", "metrics", "null_reasons"))
    ok, failed = (status.mask([text == state for text in status.texts]) for state in ("ok", "failed"))
    has_error = valid(rows["error"])
    tell(~ok & ~failed, "status: neither ok nor failed")
    tell(failed & ~has_error, "error: none in a failed row")
    tell(ok & has_error, "error: one in a row that is ok")
    listed = [set(filter(None, (text or "").split(","))) for text in covers.texts]
    tell(covers.mask([not names <= metrics.keys() for names in listed]), "metrics: unknown")
    stated = [_reasons(text) for text in reasons.texts]
    tell(reasons.mask([each is None for each in stated]), "null_reasons: invalid")
    for metric, columns in metrics.items():
        asked = ok & covers.mask([metric in names for names in listed])
        for name in columns:
            if rows[name].null_count:
                excused = reasons.mask([each is None or name in each for each in stated])
                tell(asked & ~valid(rows[name]) & ~excused, f"{name}: null without a reason")


def _reasons(text: str | None) -> frozenset[str] | None:
    """Columns that a row gives a reason for; None if the text is something else."""
    try:
        reasons = object_of(text or "{}", "null_reasons")
    except UserError:
        return None
    return frozenset(reasons) if reasons.keys() <= {column.name for column in RECORDS} else None


# Records against their classes

ROUNDING = 1e-9
_FOREGROUND = (
    *("nsd", "assd_mm", "volume_error_ml", "volume_error_relative", "component_f1"),
    *("betti0_error", "betti1_error", "betti2_error"),
)
MEANS: Mapping[str, tuple[str, int]] = {
    "dsc": ("dsc", 0),
    "dsc_clean": ("dsc_clean", 0),
    "dsc_foreground": ("dsc", 1),
    "dsc_foreground_clean": ("dsc_clean", 1),
    "hd95": ("hd95", 0),
    "hd95_clean": ("hd95_clean", 0),
    "hd95_mm": ("hd95_mm", 1),
    "hd95_mm_clean": ("hd95_mm_clean", 1),
    "hd95_medpy_mm": ("hd95_medpy_mm", 1),
    **{each: (each, 1) for name in _FOREGROUND for each in (name, f"{name}_clean")},
    "ece_foreground": ("ece", 1),
    "ece_foreground_clean": ("ece_clean", 1),
}
"""Columns of records that are means of defined values in a column of the classes, with their first class."""
UNDEFINED: Mapping[str, tuple[str, int]] = {
    "hd95_undefined_classes": ("hd95", 0),
    "nsd_undefined_classes": ("nsd", 1),
    "assd_undefined_classes": ("assd_mm", 1),
    "volume_undefined_classes": ("volume_error_ml", 1),
    "components_undefined_classes": ("component_f1", 1),
    "topology_undefined_classes": ("betti0_error", 1),
    "calibration_undefined_classes": ("ece", 1),
}
"""Columns of records that count undefined values in a column of the classes, with their first class."""
COUNTS = (*UNDEFINED, "missed_classes", "hallucinated_classes")
NEEDED = (*COMMIT, "status", "num_classes", *MEANS, *COUNTS)


class ClassSums:
    """Sums over the classes of the records of one file, columns NEEDED."""

    def __init__(self, records: pa.Table) -> None:
        self._records = records
        hashes = hash_rows(records, COMMIT)
        self._order = np.argsort(hashes, kind="stable")
        self._hashes: Hashes = hashes[self._order]
        self._sums = defaultdict[tuple[str, str], Floats](lambda: np.zeros(len(records)))
        self._orphans = 0

    def add(self, classes: pa.Table) -> None:
        """Adds rows of class_records."""
        hashes = hash_rows(classes, COMMIT)
        is_known = among(hashes, self._hashes)
        if not is_known.all():
            self._orphans += int((~is_known).sum())
            classes, hashes = classes.filter(pa.array(is_known)), hashes[is_known]
        of = self._order[np.searchsorted(self._hashes, hashes)]

        def add(name: str, what: str, weights: NDArray[Any]) -> None:
            self._sums[name, what] += np.bincount(of, weights, len(self._records))

        index = pc.fill_null(classes["class_index"], -1).to_numpy()
        add("class_index", "rows", np.ones(len(index)))
        add("class_index", "squares", (index + 1.0) ** 2)
        for name, (column, first) in MEANS.items():
            if classes[column].null_count == len(classes):
                continue  # not asked for
            values = floats(classes[column])
            is_defined = (index >= first) & ~np.isnan(values)
            add(name, "asked", (index >= first) & valid(classes[column]))
            add(name, "defined", is_defined)
            add(name, "total", np.where(is_defined, values, 0.0))
        label, pred = floats(classes["label_voxels"]), floats(classes["pred_voxels"])
        has_voxels, is_foreground = ~np.isnan(label) & ~np.isnan(pred), index > 0
        undefined = (
            (name, (index >= first) & valid(classes[column]), np.isnan(floats(classes[column])))
            for name, (column, first) in UNDEFINED.items()
        )
        for name, asked, counted in (
            *undefined,
            ("missed_classes", has_voxels, is_foreground & (label > 0) & (pred <= 0)),
            ("hallucinated_classes", has_voxels, is_foreground & (label <= 0) & (pred > 0)),
        ):
            add(name, "asked", asked)
            add(name, "total", asked & counted)

    @np.errstate(invalid="ignore")
    def compare(self, where: str, findings: Findings) -> None:
        """Reports records that do not have each class once, and means and counts that contradict their classes."""
        records, sums = self._records, self._sums
        if self._orphans:
            findings.wrong("classes", f"{where}{self._orphans} rows of classes have no record in their file")
        expected = np.where(is_ok(records), np.nan_to_num(floats(records["num_classes"])), 0.0)
        squares = expected * (expected + 1) * (2 * expected + 1) / 6  # of 1 to K: each class once
        rows = sums["class_index", "rows"]
        is_complete, is_each = rows == expected, sums["class_index", "squares"] == squares
        text = "rows of classes: {:g}, expected {:g}"
        findings.wrong_rows("classes", where, records, ~is_complete, text, rows, expected)
        findings.wrong_rows("classes", where, records, is_complete & ~is_each, "class_index: not each class once")
        is_whole = is_ok(records) & is_complete & is_each
        for name in (*MEANS, *COUNTS):
            stored = floats(records[name])
            expected = sums[name, "total"] / (sums[name, "defined"] if name in MEANS else 1.0)
            compared = is_whole & valid(records[name]) & (sums[name, "asked"] > 0)
            wrong = compared & ~np.isclose(stored, expected, rtol=ROUNDING, atol=ROUNDING, equal_nan=True)
            text = f"{name}: {{:g}}, the classes say {{:g}}"
            findings.wrong_rows("classes", where, records, wrong, text, stored, expected)
