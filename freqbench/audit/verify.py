"""Checks a whole store: its files by themselves, then against what its job and its runs say. Never writes to it."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from freqbench.audit.expected import check_cells
from freqbench.audit.intact import check_volumes
from freqbench.core.errors import UserError
from freqbench.data import case_key_of
from freqbench.metrics import METRICS
from freqbench.results import Shard, Store, index_keys
from freqbench.results.doubles import check_doubles
from freqbench.results.findings import Check, Findings
from freqbench.results.fingerprints import Numbers, among, mixed, text_numbers
from freqbench.results.migrations import AGES
from freqbench.results.rowid import row_id
from freqbench.results.soundness import Survey, leftovers, look_through

MOST_KEYS = 3

Runs = Mapping[str, Mapping[str, Any]]


def verify(store: Store, with_volumes: bool = False) -> list[Check]:
    """Every check of a store.

    `files`: pairs are whole, every page can be read, and is as its checksum says (files of older releases have none);
    `schema`: columns and types are those of an age of the schema; `values`: nulls, words, ranges; `classes`: each
    record that is ok has each class once, and their means are the record's; `doubles`: rows of one key agree; `runs`:
    every row's run has its file, which knows its models; `cases`: keys of cases are those of their recipes and files;
    `cells`: ids of cells are those of their settings; `holes`: what the job asks for is there; `volumes`: what was
    saved is whole.

    Args:
        store: in which no run goes on.
        with_volumes: whether saved volumes are read to their end.

    Raises:
        UserError: no store is there, a newer release wrote it, or it changes while it is read.
    """
    job = store.job()
    findings = Findings()
    survey = look_through(store.root, {name: metric.columns for name, metric in METRICS.items()}, findings)
    runs = _runs(store, survey, findings)
    left = leftovers(store.root)
    ages = ", ".join(f"{survey.ages[age.name]} of schema {age.name}" for age in AGES if survey.ages.get(age.name))
    beside = f"; {left} files of classes without records, which nobody reads" if left else ""
    doubles = check_doubles(store.root, survey, findings)
    unknown = _check_origins(survey, runs, findings)
    return [
        findings.check("files", f"{len(survey.names)} pairs can be read to the end{beside}"),
        findings.check("schema", f"pairs by age: {ages or 'none'}"),
        findings.check("values", f"{survey.records} records and {survey.classes} rows of classes are in their ranges"),
        findings.check("classes", "means and counts of records are those of their classes"),
        findings.check("doubles", doubles),
        findings.check("runs", f"{len(runs)} runs have their files"),
        findings.check("cases", "keys of cases are those of recipe and files", unknown),
        check_cells(store, job, survey, runs, findings),
        _holes(job, survey, runs, findings),
        check_volumes(store, job, survey, findings, with_volumes),
    ]


def _runs(store: Store, survey: Survey, findings: Findings) -> Runs:
    """What the runs wrote about themselves; rows of a run without a file are told of."""
    ids, found = store.run_ids(), dict[str, Mapping[str, Any]]()
    for run_id in ids:
        try:
            found[run_id] = store.run(run_id)
        except UserError as error:
            findings.wrong("runs", str(error))
    for run_id in sorted({row["run_id"] for row in survey.origins.values()} - set(ids)):
        findings.wrong("runs", f"runs/{run_id}.json: missing, though rows are of that run")
    return found


def _check_origins(survey: Survey, runs: Runs, findings: Findings) -> str:
    """Models and keys of cases of rows against what their runs say; returns why some could not be checked."""
    unknown = 0
    for row in survey.origins.values():
        run = runs.get(row["run_id"], {})
        models, datasets = run.get("models"), run.get("datasets")
        for name in ("source_model_id", "target_model_id"):
            if isinstance(models, dict) and row[name] not in models:
                findings.wrong("runs", f"runs/{row['run_id']}.json: does not know the {name} {row[name]} of its rows")
        if not isinstance(datasets, dict):
            unknown += 1
            continue
        facts = datasets.get(row["dataset"]) or {}
        fingerprint = (facts.get("cases") or {}).get(row["case_id"])
        expected = fingerprint and case_key_of(facts.get("recipe") or {}, fingerprint)
        if expected != row["case_key"]:
            got = f"{expected} by its run's recipe and files" if expected else "which its run does not know"
            findings.wrong("cases", f"case {row['case_id']} of {row['dataset']}: key {row['case_key']}, {got}")
    return f"the runs' files of {unknown} cases do not say what they were made of" if unknown else ""


def _holes(job: Mapping[str, Any], survey: Survey, runs: Runs, findings: Findings) -> Check:
    """Records that the job asks for and no row is there of; those of shards that no run was for are none."""
    if "index" not in job:
        return findings.check("holes", "", "run.json holds no index of the job's records")
    index_keys({**job["index"], "cells": job["index"]["cells"][:1]})  # refuses what is no index, in one line
    shards = _shards(runs)
    missing = failed = asked = later = 0
    examples: list[str] = []
    there, good = np.unique(survey.keys), np.unique(survey.keys[survey.ok])
    for cell, cases, targets, numbers in _asked(job["index"]):
        if shards and not any(shard.holds(cell) for shard in shards):
            later += numbers.size
            continue
        asked += numbers.size
        lacks = ~among(numbers, there)
        missing += int(lacks.sum())
        if len(good) < len(there):
            failed += int((~lacks & ~among(numbers, good)).sum())
        for i, j in np.argwhere(lacks)[: MOST_KEYS - len(examples)]:
            examples.append(row_id(cell, cases[i], targets[j]))
    states = sorted({str(run.get("status")) for run in runs.values()} - {"done"})
    why = f" (runs ended as {', '.join(states)})" if states else ""
    beside = f"; {failed} of them failed, for the reasons in their rows" if failed else ""
    beside += f"; {later} more are of shards that no run was for" if later else ""
    if missing:
        text = f"{missing} of {asked} records that the job asks for have no row, such as {', '.join(examples)}{why}"
        findings.wrong("holes", f"{text}: run the job again")
    return findings.check("holes", f"{asked} records that the job asks for have a row{beside}")


def _asked(index: Mapping[str, Any]) -> Iterator[tuple[str, list[str], list[str], Numbers]]:
    """Of each cell of an index its id, cases and targets, and the numbers of its keys, `[cases, targets]`."""
    of_cases = {name: text_numbers(keys) for name, keys in index["cases"].items()}
    for cell in index["cells"]:
        own = "cases" in cell
        cases = cell["cases"] if own else index["cases"][cell["dataset"]]
        numbers = text_numbers(cases) if own else of_cases[cell["dataset"]]
        targets = text_numbers(cell["targets"])
        yield (
            cell["cell_id"],
            cases,
            cell["targets"],
            mixed([text_numbers([cell["cell_id"]]), numbers[:, None], targets]),
        )


def _shards(runs: Runs) -> list[Shard]:
    """The parts of the grid that runs were for; none where one was for all of it, or an older release does not say."""
    found = []
    for run in runs.values():
        text = run.get("shard")
        if "shard" not in run or text == str(Shard()):
            return []
        if isinstance(text, str):  # none: what was scored, not made
            found.append(Shard.parse(text))
    return found
