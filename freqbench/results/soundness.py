"""Looks through the files of a store, each once and a piece at a time, and checks all that they say by themselves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from freqbench.core import storage
from freqbench.core.errors import UserError
from freqbench.results.files import SCHEMAS, Files, coded_schema
from freqbench.results.findings import Findings
from freqbench.results.fingerprints import Numbers, row_numbers
from freqbench.results.migrations import AGES, age_of
from freqbench.results.schema import CLASS_RECORDS, KEY, RECORDS, VERSION_FIELD
from freqbench.results.sums import NEEDED, Sums
from freqbench.results.values import check_columns, check_words

TABLES = {"records": RECORDS, "class_records": CLASS_RECORDS}
CELL = (
    *("cell_id", "source_model_id", "attack", "variant", "budget_name", "budget", "threat_model", "seed"),
    *("precision", "compile", "num_classes", "params"),
)
ORIGIN = ("run_id", "dataset", "case_id", "case_key", "source_model_id", "target_model_id")

MOST_KINDS = 100_000
"""Settings of cells, and origins of rows, that are kept: a grid of 100,000 cells is a year's work."""

Row = dict[str, Any]
Part = tuple[Numbers, Numbers, NDArray[np.bool_], NDArray[np.int32]]


@dataclass(kw_only=True)
class Survey:
    """What a look through a store's files leaves: one small number a row, and what is few.

    Attributes:
        names: of the files.
        keys: a number a record, of its key; `freqbench.results.fingerprints`.
        volumes: a number a record, of its cell and case.
        ok: a record, whether its row is ok.
        file: a record, the place of its file in `names`.
        cells: the distinct settings of cells, columns CELL.
        origins: the distinct runs, cases and models of rows, columns ORIGIN.
        records, classes: rows.
        left_out: kinds that `cells` and `origins` had no room for.
        ages: files by the age of their schema.
    """

    names: list[str] = field(default_factory=list)
    keys: Numbers = field(default_factory=lambda: np.zeros(0, np.uint64))
    volumes: Numbers = field(default_factory=lambda: np.zeros(0, np.uint64))
    ok: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    file: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    cells: dict[int, Row] = field(default_factory=dict)
    origins: dict[int, Row] = field(default_factory=dict)
    records: int = 0
    classes: int = 0
    left_out: int = 0
    ages: dict[str, int] = field(default_factory=dict)


def look_through(root: str, metrics: Mapping[str, Sequence[str]], findings: Findings) -> Survey:
    """Read every committed file to its end.

    Args:
        root: of the store.
        metrics: the columns of each metric.
        findings: told of what is wrong: `files`, `schema`, `values`, `classes`.

    Raises:
        UserError: a file is of a newer release, or the store changes while it is read.
    """
    files = Files(root)
    survey = Survey(names=files.names())
    parts: list[Part] = []
    for number, name in enumerate(survey.names):
        try:
            parts += _pair(files, name, number, metrics, findings, survey)
        except FileNotFoundError:
            if name not in files.names():
                raise UserError(f"{root}: changes while it is read: verify it when no run goes on") from None
            findings.wrong("files", f"class_records/{name}: missing, though its records are there")
    if parts:
        keys, volumes, ok, file = zip(*parts, strict=True)
        survey.keys, survey.volumes = np.concatenate(keys), np.concatenate(volumes)
        survey.ok, survey.file = np.concatenate(ok), np.concatenate(file)
    return survey


def leftovers(root: str) -> int:
    """How many files of classes have no records: what a writer that died leaves, and readers ignore."""
    folders = (storage.join(root, kind) for kind in ("class_records", "records"))
    classes, records = (set(storage.list_files(folder, ".parquet")) for folder in folders)
    return len(classes - records)


def _pair(
    files: Files,
    name: str,
    number: int,
    metrics: Mapping[str, Sequence[str]],
    findings: Findings,
    survey: Survey,
) -> list[Part]:
    """One pair of files; of what cannot be read the finding is all."""
    present: dict[str, list[str]] = {}
    for kind in TABLES:
        if (columns := _present(files, kind, name, findings, survey)) is None:
            return []
        present[kind] = columns
    found, kept, where = [], [], f"records/{name}"
    sums = None
    try:
        for piece in _pieces(files, "records", name):
            check_columns("records", RECORDS, present["records"], piece, where, findings)
            check_words(present["records"], piece, where, metrics, findings)
            survey.left_out += _collect(piece, CELL, survey.cells) + _collect(piece, ORIGIN, survey.origins)
            ok = pc.fill_null(pc.equal(piece["status"].cast(pa.string()), "ok"), False).to_numpy()
            volumes = row_numbers(piece, ("cell_id", "case_key"))
            found.append((row_numbers(piece, KEY), volumes, ok, np.full(len(piece), number, np.int32)))
            kept.append(piece.select(list(NEEDED)))
            survey.records += len(piece)
        empty = coded_schema("records", NEEDED).empty_table()
        sums = Sums(pa.concat_tables([empty, *kept]).unify_dictionaries(), where)
        for piece in _pieces(files, "class_records", name):
            check_columns(
                "class_records", CLASS_RECORDS, present["class_records"], piece, f"class_records/{name}", findings
            )
            sums.add(piece)
            survey.classes += len(piece)
    except UserError as error:
        findings.wrong("files", str(error))
        return found
    sums.compare(findings)
    return found


def _pieces(files: Files, kind: str, name: str) -> Any:
    """A file in pieces, all columns, texts as codes, the checksums of its pages looked at."""
    schema = coded_schema(kind, SCHEMAS[kind].names)
    return files.pieces(kind, name, files.open(kind, name), schema, is_checked=True)


def _present(files: Files, kind: str, name: str, findings: Findings, survey: Survey) -> list[str] | None:
    """The columns of a file that are as documented; None where it cannot be read by them.

    Raises:
        UserError: a newer release wrote it.
    """
    where = f"{kind}/{name}"
    try:
        schema, _ = files.footer(kind, name)
    except UserError as error:
        if "schema version" in str(error):
            raise
        findings.wrong("files", str(error))
        return None
    known = {column.name: column.type for column in TABLES[kind]}
    age = age_of(kind, schema.names)
    survey.ages[AGES[age].name] = survey.ages.get(AGES[age].name, 0) + (kind == "records")
    later = {column for each in AGES[age + 1 :] for column in each.added.get(kind, ())}
    for column in known.keys() - set(schema.names) - later:
        findings.wrong("schema", f"{where}: no column {column}, which files of schema {AGES[age].name} have")
    for column in set(schema.names) - known.keys():
        findings.wrong("schema", f"{where}: column {column}, which nobody documents")
    fits = True
    for field_ in schema:
        if field_.name in known and field_.type != known[field_.name]:
            fits = False
            findings.wrong("schema", f"{where}: {field_.name}: {field_.type} in place of {known[field_.name]}")
    if int(schema.metadata[VERSION_FIELD]) < 1:
        findings.wrong("schema", f"{where}: schema version {schema.metadata[VERSION_FIELD].decode()}")
    return [column for column in schema.names if column in known] if fits else None


def _collect(piece: pa.Table, columns: Sequence[str], into: dict[int, Row]) -> int:
    """Keep one row of each kind, the distinct values of some columns; returns of how many kinds there was no room."""
    numbers, first = np.unique(row_numbers(piece, columns), return_index=True)
    places = dict(zip(numbers.tolist(), first.tolist(), strict=True))
    fresh = [number for number in places if number not in into]
    new = [places[number] for number in fresh[: max(0, MOST_KINDS - len(into))]]
    rows = piece.select(list(columns)).take(pa.array(new, pa.int64())).to_pylist()
    into |= dict(zip(fresh[: len(new)], rows, strict=True))
    return len(fresh) - len(new)
