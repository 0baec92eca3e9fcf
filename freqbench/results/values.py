"""Checks of the values of single rows: what must be there, words, ranges, and a reason for what is not."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from freqbench.core.documents import object_of
from freqbench.core.errors import UserError
from freqbench.results.findings import Findings
from freqbench.results.rowid import row_id
from freqbench.results.schema import KEY, RECORDS, Column

SLACK = 1e-6  # beyond a range: rounding

Range = tuple[float, float]
Mask = NDArray[np.bool_]

UNITS: Mapping[str, Range] = {
    "fraction": (0.0, 1.0),
    "voxels": (0.0, math.inf),
    "mm": (0.0, math.inf),
    "count": (0.0, math.inf),
    "bytes": (0.0, math.inf),
    "s": (0.0, math.inf),
    "distance": (0.0, math.inf),
    "1 - distance": (-math.inf, 1.0),
    "ratio": (0.0, math.inf),
    "intensity 0..1": (0.0, math.inf),
    "the data's unit": (0.0, math.inf),
}
COLUMNS: Mapping[str, Range] = {"ssim": (-1.0, 1.0), "ssim_body": (-1.0, 1.0), "linf": (0.0, 1.0)}
INFINITE = frozenset({"psnr", "seam_energy"})  # of volumes that are equal, and of a change within one voxel of a seam
WORDS = frozenset({"ok", "failed"})


def check_columns(
    kind: str, columns: Sequence[Column], present: Sequence[str], piece: pa.Table, where: str, findings: Findings
) -> None:
    """What must not be null, and numbers in their ranges.

    Args:
        kind: of the table: names a check of its own in no finding, but the rows' ids in it.
        columns: of the table.
        present: those that the file has.
        piece: rows of it.
        where: begins a finding: the file.
        findings: told of what is wrong.
    """
    for column in columns:
        if column.name not in present:
            continue
        values = piece[column.name]
        if column.required and values.null_count:
            _tell(findings, piece, pc.is_null(values).to_numpy(), f"{where}: {column.name}: null", kind)
        if pa.types.is_floating(values.type) or pa.types.is_integer(values.type):
            _check_range(column, values, piece, where, findings, kind)


def _check_range(
    column: Column, values: pa.ChunkedArray, piece: pa.Table, where: str, findings: Findings, kind: str
) -> None:
    low, high = COLUMNS.get(column.name) or UNITS.get(column.unit, (-math.inf, math.inf))
    numbers = pc.fill_null(values.cast(pa.float64()), math.nan).to_numpy()
    with np.errstate(invalid="ignore"):
        outside = (numbers < low - SLACK) | (numbers > high + SLACK)
    if column.name not in INFINITE:
        outside |= np.isinf(numbers)
    if outside.any():
        got = numbers[outside][0]
        _tell(findings, piece, outside, f"{where}: {column.name}: {got:g} where {low:g} to {high:g} is possible", kind)


def check_words(
    present: Sequence[str], piece: pa.Table, where: str, metrics: Mapping[str, Sequence[str]], findings: Findings
) -> None:
    """States, errors, names of metrics, and for every score that is null a reason.

    Args:
        present: the columns that the file has.
        piece: rows of records, texts as codes.
        where: begins a finding: the file.
        metrics: the columns of each metric.
        findings: told of what is wrong.
    """
    status = piece["status"].cast(pa.string())
    ok = pc.fill_null(pc.equal(status, "ok"), False).to_numpy()
    known = pc.is_in(status, pa.array(sorted(WORDS))).to_numpy()
    has_error = pc.is_valid(piece["error"]).to_numpy()
    for mask, text in (
        (~known, "status: neither ok nor failed"),
        (~ok & known & ~has_error, "error: none in a failed row"),
        (ok & has_error, "error: one in a row that is ok"),
    ):
        _tell(findings, piece, mask, f"{where}: {text}")
    covers, reasons = _Words(piece["metrics"]), _Words(piece["null_reasons"])
    listed = [set(filter(None, (text or "").split(","))) for text in covers.texts]
    _tell(findings, piece, covers.mask([not words <= metrics.keys() for words in listed]), f"{where}: metrics: unknown")
    stated = [_stated(text) for text in reasons.texts]
    _tell(findings, piece, reasons.mask([each is None for each in stated]), f"{where}: null_reasons: not what it is")
    for metric, columns in metrics.items():
        asked = ok & covers.mask([metric in words for words in listed])
        for name in columns if asked.any() else ():
            if name in present and piece[name].null_count:
                excused = reasons.mask([each is None or name in each for each in stated])
                without = asked & pc.is_null(piece[name]).to_numpy() & ~excused
                _tell(findings, piece, without, f"{where}: {name}: null without a reason")


class _Words:
    """A column of few texts: each once, and which rows have those that something holds of."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        codes = column.unify_dictionaries().combine_chunks()
        self.texts: list[str | None] = [*codes.dictionary.to_pylist(), None]
        self._codes = pc.fill_null(codes.indices, len(self.texts) - 1).to_numpy()

    def mask(self, holds: Sequence[bool]) -> Mask:
        """The rows with such a text; `holds` has a value a text."""
        rows: Mask = np.array(holds, np.bool_)[self._codes]
        return rows


def _stated(text: str | None) -> frozenset[str] | None:
    """The columns that a row gives a reason for; None where the text is something else."""
    try:
        given = object_of(text or "{}", "null_reasons")
    except UserError:
        return None
    return frozenset(given) if given.keys() <= {column.name for column in RECORDS} else None


def _tell(findings: Findings, piece: pa.Table, mask: Mask, text: str, kind: str = "records") -> None:
    """Say what is wrong with the rows of a mask, if it has any; the first of them by its id."""
    if mask.any():
        count, first = int(mask.sum()), int(mask.argmax())
        key = [str(piece[name][first].as_py()) for name in KEY]
        of = "rows" if kind == "records" else "rows of classes"
        findings.wrong("values", f"{text} in {count} {of}, first of row {row_id(*key)}")
