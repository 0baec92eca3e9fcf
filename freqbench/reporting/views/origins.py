"""What made two stores: versions, code, devices, checkpoints and data, as far as they differ."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from freqbench.reporting.render import Section

TITLE = "What differs between A and B"
ABSENT = "(none)"
_DIGITS = 12

Runs = Sequence[Mapping[str, Any]]


def origins(a: Runs, b: Runs) -> Section:
    """A row a thing that is not the same in both: versions, code, devices, models and data, from their runs' facts.

    Args:
        a: what the runs of the first store say about themselves.
        b: those of the second.
    """
    if not a or not b:
        lacking = " and ".join(name for name, runs in (("A", a), ("B", b)) if not runs)
        return Section(TITLE, text=f"No run file tells what made {lacking}, so nothing can be said about what differs.")
    described = _described(a), _described(b)
    things = dict.fromkeys([*described[0], *described[1]])
    rows = [(thing, _text(described[0].get(thing)), _text(described[1].get(thing))) for thing in things]
    rows = [row for row in rows if row[1] != row[2]] + _changed_files(a, b)
    if not rows:
        return Section(TITLE, text="Nothing: the same versions, code, devices, checkpoints and files of the cases.")
    text = (
        "Differences of scores below may come from any of these. Where a store has rows of several runs that differ "
        "among themselves, all values stand in its cell."
    )
    return Section(TITLE, pd.DataFrame(rows, columns=["what", "A", "B"]), text)


def _described(runs: Runs) -> dict[str, set[str]]:
    """Thing to the values that it had in the runs."""
    found: dict[str, set[str]] = {}

    def note(thing: str, value: str) -> None:
        found.setdefault(thing, set()).add(value)

    for run in runs:
        for name, version in run.get("versions", {}).items():
            note(f"version of {name}", str(version))
        code = run.get("code") or {}
        changed = ", with uncommitted changes" if code.get("dirty") else ""
        note("git commit", f"{str(code['commit'])[:_DIGITS]}{changed}" if "commit" in code else "unknown")
        note("devices", ", ".join(map(str, run.get("devices", ()))))
        for model_id, model in run.get("models", {}).items():
            about = {"id": model_id[:_DIGITS], "sha256": str(model.get("sha256") or ABSENT)[:_DIGITS]}
            about |= {name: str(model.get(name) or ABSENT) for name in ("checkpoint", "migration")}
            for name, value in about.items():
                note(f"{name} of model {model['name']}", value)
        for name, dataset in run.get("datasets", {}).items():
            recipe = json.dumps(dataset.get("recipe"), sort_keys=True)
            note(f"recipe of dataset {name}", hashlib.sha256(recipe.encode()).hexdigest()[:_DIGITS])
    return found


def _text(values: set[str] | None) -> str:
    return "; ".join(sorted(values or ())) or ABSENT


def _changed_files(a: Runs, b: Runs) -> list[tuple[str, str, str]]:
    """A row a dataset that has cases of one name and other files."""
    of_a, of_b = _fingerprints(a), _fingerprints(b)
    changed: dict[str, list[str]] = {}
    for dataset, case in sorted(of_a.keys() & of_b.keys()):
        if of_a[dataset, case] != of_b[dataset, case]:
            changed.setdefault(dataset, []).append(case)
    rows = []
    for dataset, cases in changed.items():
        first_a, first_b = (_text({each[:_DIGITS] for each in of[dataset, cases[0]]}) for of in (of_a, of_b))
        rows.append((f"files of {len(cases)} cases of {dataset}, {cases[0]} first", first_a, first_b))
    return rows


def _fingerprints(runs: Runs) -> dict[tuple[str, str], set[str]]:
    found: dict[tuple[str, str], set[str]] = {}
    for run in runs:
        for name, dataset in run.get("datasets", {}).items():
            for case, fingerprint in dataset.get("cases", {}).items():
                found.setdefault((name, case), set()).add(str(fingerprint))
    return found
