"""Checks a whole store: its files by themselves, then against its job and its runs. Never writes to it."""

import gzip
import io
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from freqbench.audit.store_checks import CELL, MOST_KINDS, Check, Errors, Row, StoreSurvey
from freqbench.core.documents import object_of
from freqbench.core.errors import UserError, one_line
from freqbench.core.files import storage
from freqbench.core.terminal import amount
from freqbench.data import case_key_of
from freqbench.engine.rows import cell_columns
from freqbench.exchange import adversarial_volumes
from freqbench.job.grid import expand
from freqbench.job.schema import stored_job
from freqbench.results import SCHEMA_VERSION, Shard, Store, index_keys
from freqbench.results.store import row_id
from freqbench.results.volumes import SUFFIX, VOLUMES, whole

MOST_KEYS = 3
MOST_JOBS = 20
CHUNK = 2**24
Runs = Mapping[str, Mapping[str, Any]]


def show_checks(checks: Sequence[Check], title: str, console: Console) -> bool:
    """Prints the results of checks, and returns True if nothing is wrong."""
    table = Table("check", Column("verdict", no_wrap=True), Column("what was found", overflow="fold"), title=title)
    for each in checks:
        table.add_row(*each)
    console.print(table)
    return all(each.verdict != "wrong" for each in checks)


def verify(store: Store, with_volumes: bool = False) -> list[Check]:
    """Runs every check of a store in which no run goes on. `files`: pages fit their checksums; `schema`: columns and
    types; `values`: nulls, words, ranges; `classes`: each ok record has each once, with its means; `doubles`: rows of
    one key agree; `runs`: rows' runs have files that know their models; `cases`, `cells`: keys and ids are those of
    recipes and settings; `holes`: the job's records are there; `volumes`: complete (`with_volumes`: read to the end).
    Raises a UserError if there is no store, another release wrote it, or it changes meanwhile."""
    job = store.job()
    errors = Errors()
    survey = StoreSurvey(store.root, errors)
    runs = _runs(store, survey, errors)
    unknown = _check_origins(survey, runs, errors)
    ranges = f"{survey.num_rows} records and {survey.num_classes} rows of classes are in their ranges"
    return [
        errors.check("files", f"{len(survey.names)} files can be read to the end"),
        errors.check("schema", f"{len(survey.names)} files have the columns of schema version {SCHEMA_VERSION}"),
        errors.check("values", ranges),
        errors.check("classes", "means and counts of records are those of their classes"),
        errors.check("doubles", survey.compare_doubles()),
        errors.check("runs", f"{len(runs)} runs have their files"),
        errors.check("cases", "keys of cases are those of recipe and files", unknown),
        _check_cells(store, job, survey, runs, errors),
        _check_holes(job, survey, runs, errors),
        _check_volumes(store, job, survey, errors, with_volumes),
    ]


def _runs(store: Store, survey: StoreSurvey, errors: Errors) -> Runs:
    ids = store.run_ids()
    runs = dict[str, Mapping[str, Any]]()
    for run_id in ids:
        try:
            runs[run_id] = store.run(run_id)
        except UserError as error:
            errors.wrong("runs", str(error))
    for run_id in sorted({str(row["run_id"]) for row in survey.origins} - set(ids)):
        errors.wrong("runs", f"runs/{run_id}.json: missing, though rows are of that run: {store.remedy(run_id)}")
    return runs


def _check_origins(survey: StoreSurvey, runs: Runs, errors: Errors) -> str:
    """Checks models and case keys of rows against the facts of their runs; returns why some could not be checked."""
    unknown = 0
    for row in survey.origins:
        run = runs.get(row["run_id"], {})
        models = run.get("models")
        datasets = run.get("datasets")
        for name in ("source_model_id", "target_model_id"):
            if isinstance(models, dict) and row[name] not in models:
                errors.wrong("runs", f"runs/{row['run_id']}.json: does not know the {name} {row[name]} of its rows")
        if not isinstance(datasets, dict):
            unknown += 1
            continue
        facts = datasets.get(row["dataset"]) or {}
        fingerprint = (facts.get("cases") or {}).get(row["case_id"])
        if (expected := fingerprint and case_key_of(facts.get("recipe") or {}, fingerprint)) != row["case_key"]:
            got = f"{expected} by its run's recipe and files" if expected else "which its run does not know"
            errors.wrong("cases", f"case {row['case_id']} of {row['dataset']}: key {row['case_key']}, {got}")
    return f"the runs' files of {unknown} cases do not say what they were made of" if unknown else ""


def _check_cells(store: Store, job: Mapping[str, Any], survey: StoreSurvey, runs: Runs, errors: Errors) -> Check:
    """Checks that a cell's settings are the same in all its rows, and that its id is that of a stored job."""
    cells: dict[str, Row] = {}
    for row in survey.cells:
        first = cells.setdefault(row["cell_id"], row)
        for name in _differing(first, row):
            errors.wrong("cells", f"cell {row['cell_id']}: {name}: {first[name]} and {row[name]} in its rows")
    stored = (job.get("spec"), *(run.get("job") for run in runs.values()))
    jobs = {json.dumps(spec, sort_keys=True): spec for spec in stored if isinstance(spec, dict)}
    expected: dict[str, Row] = {}
    reasons: list[str] = []
    # Jobs are expanded as in a run: that needs data and checkpoints here, but runs no third-party code.
    for spec in list(jobs.values())[:MOST_JOBS]:
        try:
            made = stored_job(spec, trusted=False, where="the stored job")
            grid = adversarial_volumes.join_imported(expand(made), store.root)
            expected |= {cell.cell_id: cell_columns(cell) for cell in grid.cells}
        except UserError as error:
            reasons.append(one_line(error))
    by_settings = {_settings_key(row): cell_id for cell_id, row in expected.items()}
    unknown = 0
    for cell_id, row in cells.items():
        if cell_id in expected:
            for name in _differing(expected[cell_id], row):
                text = f"{name}: {row[name]} in its rows, {expected[cell_id][name]} by the job"
                errors.wrong("cells", f"cell {cell_id}: {text}")
        elif other := by_settings.get(_settings_key(row)):
            errors.wrong("cells", f"cell {cell_id}: the job makes {other} of the same settings")
        else:
            unknown += 1
    why = reasons[0] if reasons else "they are of former jobs, or data and checkpoints are others here"
    missing = f"{unknown} of {len(cells)} cells are none of the stored jobs as they are here: {why}" if unknown else ""
    if survey.left_out:
        missing = f"{survey.left_out} kinds of rows beyond the first {MOST_KINDS} were not looked at"
    return errors.check("cells", f"{len(cells)} cells have the ids of their settings", missing)


def _settings_key(row: Row) -> str:
    return json.dumps([row[name] for name in CELL[1:]], sort_keys=True, default=str)


def _differing(one: Row, other: Row) -> Iterable[str]:
    """Yields the columns in which two rows of a cell differ; parameters count only if both have them."""
    yield from (name for name in CELL if name != "params" and one[name] != other[name])
    first, second = (object_of(row["params"] or "{}", "params") for row in (one, other))
    if any(first[name] != second[name] for name in first.keys() & second.keys()):
        yield "params"


def _check_holes(job: Mapping[str, Any], survey: StoreSurvey, runs: Runs, errors: Errors) -> Check:
    """Finds records that the job asks for but the store lacks. Ignores shards that were never run."""
    wanted = index_keys(job["index"])
    shards = _shards(runs)
    asked = {key for key in wanted if not shards or any(shard.holds(key[0]) for shard in shards)}
    missing = sorted(asked - survey.keys)
    failed = len(asked & survey.keys - survey.ok.keys())
    states = sorted({str(run.get("status")) for run in runs.values()} - {"done"})
    why = f" (runs ended as {', '.join(states)})" if states else ""
    beside = f"; {failed} of them failed, for the reasons in their rows" if failed else ""
    beside += f"; {len(wanted) - len(asked)} more are of shards that no run was for" if len(wanted) > len(asked) else ""
    if missing:
        examples = ", ".join(row_id(*key) for key in missing[:MOST_KEYS])
        records = amount(len(asked), "record")
        text = f"{len(missing)} of {records} that the job asks for have no row, such as {examples}{why}"
        errors.wrong("holes", f"{text}: run the job again")
    return errors.check("holes", f"{len(asked)} records that the job asks for have a row{beside}")


def _shards(runs: Runs) -> list[Shard]:
    """Parts of the grid that runs were for; empty if one was for all of it, or does not say."""
    shards = []
    for run in runs.values():
        text = run.get("shard")
        if "shard" not in run or text == str(Shard()):
            return []
        if isinstance(text, str):  # None: a run that only scored
            shards.append(Shard.parse(text))
    return shards


def _check_volumes(store: Store, job: Mapping[str, Any], survey: StoreSurvey, errors: Errors, to_end: bool) -> Check:
    """Checks that each good record has the volume that its job saves (`save_only`); `to_end` reads all of it."""
    root = storage.join(store.root, VOLUMES)
    there = whole(root)
    if isinstance(spec := job.get("spec"), dict) and spec.get("save_adversarial") == "nifti":
        named = spec.get("save_only")
        others = {row["cell_id"] for row in survey.cells if named and row["attack"] not in named}
        lacking = [key for key in survey.ok if key[0] not in others and key[:2] not in there]
        if lost := sum(survey.ok[key] for key in lacking):
            errors.wrong("volumes", f"{lost} records have no whole volume, though the job saves them")
    if not there or not to_end:
        missing = f"{len(there)} are there; --volumes reads them to the end" if there else "none are saved"
        return errors.check("volumes", "", missing)
    count = 0
    for folder in sorted(there.values()):
        place = storage.join(root, folder)
        for name in storage.list_files(place, SUFFIX):
            count += 1
            if complaint := _complaint(storage.join(place, name)):
                errors.wrong("volumes", f"{VOLUMES}/{folder}/{name}: {complaint}")
    return errors.check("volumes", f"{count} files of {len(there)} volumes can be read to the end")


def _complaint(path: str) -> str:
    """Describes the damage of a gzip file, which its checksum shows; empty if there is none."""
    if not (packed := storage.read_bytes(path)):
        return "is empty"
    try:
        with gzip.open(io.BytesIO(packed)) as stream:
            while stream.read(CHUNK):
                pass
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        return str(error)
    return ""
