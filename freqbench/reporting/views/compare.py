"""Compares two stores: first the differences in what made them, then their scores, paired by volume."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import pandas as pd

from freqbench.analysis.frames import plain
from freqbench.analysis.groups import ATTACK, bounds, select_scored
from freqbench.analysis.labels import attack_labels
from freqbench.analysis.statistics import holm, t_tests
from freqbench.core.terminal import amount
from freqbench.reporting.render import Section

GROUP = ["dataset", "source_model", "target_model", *ATTACK]
CLEAN = "clean"
_VOLUME = [*GROUP, "case_id", "seed"]
_MORE = ["variant", "params", "precision", "compile"]

HOW_PAIRED = (
    "The difference is B minus A in points of foreground DSC (x100), over the volumes that both have: same dataset, "
    "case, models, attack and seed, by name. Interval (95 %, of the row alone) and p are Student's t over patients; p "
    "is Holm-corrected over all rows of this table, so a row differs where p is below 0.05, and empty where every "
    "difference is 0 or there is one patient. `detectable` is the smallest true difference that so many patients would "
    "show with a power of 80 % (at 0.05, uncorrected): a difference below it that is not significant does not show "
    "that the two are equal."
)
ABSENT = "(none)"
_DIGITS = 12
_NAMED = {"label": "attack", "source_model": "made on", "target_model": "model"}

Runs = Sequence[Mapping[str, Any]]

HOW_ONLY = "Volumes that one store has and the other lacks; they do not count in the differences above."


def compare(records_a: pd.DataFrame, records_b: pd.DataFrame, runs_a: Runs, runs_b: Runs) -> list[Section]:
    """Compares origins and, paired by volume, scores of two stores; lists volumes of only one.

    Args:
        records_a: of the first store, after `tables.current`; `records_b`: of the other.
        records_b: see `records_a`.
        runs_a: facts of the runs that made them (`Store.runs`); those without a row are passed over.
        runs_b: see `runs_a`.
    """
    parts = []
    wrote = []
    for is_b, (records, runs) in enumerate(((records_a, runs_a), (records_b, runs_b))):
        parts.append(plain(select_scored(records, _MORE)).assign(in_b=bool(is_b)))
        ids = {*records["run_id"].unique()}
        wrote.append([run for run in runs if run.get("run_id") in ids])
    both = pd.concat(parts, ignore_index=True)
    both = both.assign(label=attack_labels(both))
    volumes = _match_rows(both, _VOLUME, ("dsc_foreground", "dsc"))
    cases = _match_rows(both, ["dataset", "target_model", "case_id"], ("dsc_foreground_clean", "clean"))
    cases = cases.assign(source_model="", label=CLEAN, threat_model="")
    shared = [each[each["in_a"] & each["in_b"]] for each in (cases, volumes)]
    tables = [_test_groups(each) for each in shared if len(each)]
    if not len(shared[1]):
        text = "No volume is in both: the two share no dataset, case, models, attack and seed of the same names."
        paired = Section("Paired differences, B - A", text=text)
    else:
        rows = pd.concat(tables, ignore_index=True)
        rows = rows.assign(p_holm=holm(rows["p"]))
        paired = Section("Paired differences, B - A", _table(rows), HOW_PAIRED, rows)
    return [_origins(*wrote), paired, _only(volumes)]


def _origins(a: Runs, b: Runs) -> Section:
    """Makes one row per fact that differs between the two: versions, code, devices, models and data, by their runs."""
    title = "What differs between A and B"
    if not a or not b:
        lacking = " and ".join(name for name, runs in (("A", a), ("B", b)) if not runs)
        return Section(title, text=f"No run file tells what made {lacking}, so nothing can be said about what differs.")
    facts_a = _run_facts(a)
    facts_b = _run_facts(b)
    described = [(thing, _text(facts_a.get(thing)), _text(facts_b.get(thing))) for thing in facts_a | facts_b]
    rows = [row for row in described if row[1] != row[2]]
    files_a = _fingerprints(a)
    files_b = _fingerprints(b)
    changed = sorted(case for case in files_a.keys() & files_b.keys() if files_a[case] != files_b[case])
    for dataset, group in groupby(changed, key=itemgetter(0)):
        cases = [*group]
        first = cases[0]
        in_a, in_b = (_text({each[:_DIGITS] for each in of[first]}) for of in (files_a, files_b))
        rows.append((f"files of {amount(len(cases), 'case')} of {dataset}, {first[1]} first", in_a, in_b))
    if not rows:
        return Section(title, text="Nothing: the same versions, code, devices, checkpoints and files of the cases.")
    text = (
        "Differences of scores below may come from any of these. Where a store has rows of several runs that differ "
        "among themselves, all values stand in its cell."
    )
    return Section(title, pd.DataFrame(rows, columns=["what", "A", "B"]), text)


def _run_facts(runs: Runs) -> dict[str, set[str]]:
    values = defaultdict[str, set[str]](set)
    for run in runs:
        for name, version in run.get("versions", {}).items():
            values[f"version of {name}"].add(str(version))
        changed = ", with uncommitted changes" if (code := run.get("code") or {}).get("dirty") else ""
        values["git commit"].add(f"{str(code['commit'])[:_DIGITS]}{changed}" if "commit" in code else "unknown")
        values["devices"].add(", ".join(map(str, run.get("devices", ()))))
        for model_id, model in run.get("models", {}).items():
            about = {"id": model_id[:_DIGITS], "sha256": str(model.get("sha256") or ABSENT)[:_DIGITS]}
            about |= {name: str(model.get(name) or ABSENT) for name in ("checkpoint", "migration")}
            for name, value in about.items():
                values[f"{name} of model {model['name']}"].add(value)
        for name, dataset in run.get("datasets", {}).items():
            for key, value in _settings(dataset.get("recipe") or {}):
                values[f"{key} of dataset {name}"].add(value)
    return values


def _settings(recipe: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Yields the keys of a dataset's recipe, inner ones after a point, with their values as a job file has them."""
    for key, value in recipe.items():
        if isinstance(value, Mapping) and value:
            yield from _settings(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value if isinstance(value, str) else json.dumps(value)


def _text(values: set[str] | None) -> str:
    return "; ".join(sorted(values or ())) or ABSENT


def _fingerprints(runs: Runs) -> dict[tuple[str, str], set[str]]:
    fingerprints = defaultdict[tuple[str, str], set[str]](set)
    for run in runs:
        for name, dataset in run.get("datasets", {}).items():
            for case, fingerprint in dataset.get("cases", {}).items():
                fingerprints[name, case].add(str(fingerprint))
    return fingerprints


def _match_rows(both: pd.DataFrame, keys: list[str], values: tuple[str, str]) -> pd.DataFrame:
    """Pairs the rows by their keys: foreground DSC `a` and `b`, papers' `dsc_a` and `dsc_b`, and `in_a` and `in_b`."""
    sides = []
    for store, is_b in (("a", False), ("b", True)):
        own = both.loc[both["in_b"] == is_b, [*keys, "patient_id", *values]].drop_duplicates(keys, keep="last")
        sides.append(own.rename(columns=dict(zip(values, (store, f"dsc_{store}"), strict=True))))
    a, b = sides
    rows = a.merge(b, on=keys, how="outer", suffixes=("", "_b"), indicator="found")
    patients = rows["patient_id"].where(rows["patient_id"].notna(), rows["patient_id_b"])
    return rows.assign(patient_id=patients, in_a=rows["found"] != "right_only", in_b=rows["found"] != "left_only")


def _test_groups(pairs: pd.DataFrame) -> pd.DataFrame:
    """Makes one row per group: both means over complete pairs, their difference with interval, p and `detectable`."""
    pairs = pairs.assign(difference=pairs["b"] - pairs["a"])
    complete = pairs.dropna(subset="difference")
    names = {"mean": "difference", "n": "pairs", "clusters": "patients"}
    rows = t_tests(pairs, GROUP, "difference").rename(columns=names)
    means = plain(complete.groupby(GROUP, observed=True)[["a", "b", "dsc_a", "dsc_b"]].mean().reset_index())
    counts = pairs.groupby(GROUP, observed=True, dropna=False)["difference"]
    rows = plain(rows.assign(undefined=(counts.size() - counts.count()).to_numpy()))
    rows = rows.merge(means.rename(columns={"a": "dsc_foreground_a", "b": "dsc_foreground_b"}), on=GROUP, how="left")
    scores = ("dsc_foreground_a", "dsc_foreground_b", "difference", "low", "high", "p", "detectable", "dsc_a", "dsc_b")
    return rows[[*GROUP, "pairs", "patients", "undefined", *scores]]


def _table(rows: pd.DataFrame) -> pd.DataFrame:
    names = {"dsc_foreground_a": "foreground DSC\nA", "dsc_foreground_b": "foreground DSC\nB"}
    table = rows[["dataset", *_NAMED, "threat_model", "pairs", "patients", "undefined", *names]]
    table = table.rename(columns=_NAMED | names)
    table["difference"] = ["0.00" if round(value, 2) == 0 else _filled(value, "+.2f") for value in rows["difference"]]
    table["interval"] = bounds(rows, digits=2)
    table["detectable"] = [_filled(value, ".2f") for value in rows["detectable"]]
    table["p (Holm)"] = [_filled(value, ".3g") for value in rows["p_holm"]]
    table["DSC\nA"] = rows["dsc_a"]
    table["DSC\nB"] = rows["dsc_b"]
    return table


def _filled(value: float, form: str) -> str:
    return "" if np.isnan(value) else format(value, form)


def _only(volumes: pd.DataFrame) -> Section:
    title = "In one of the two only"
    in_a = volumes["in_a"]
    in_b = volumes["in_b"]
    groups = volumes.assign(both=in_a & in_b, only_a=in_a & ~in_b, only_b=in_b & ~in_a).groupby(GROUP, observed=True)
    rows = plain(groups[["both", "only_a", "only_b"]].sum().reset_index())
    if (rows := rows[(rows["only_a"] > 0) | (rows["only_b"] > 0)]).empty:
        return Section(title, text="Both have the same volumes.")
    return Section(title, rows.rename(columns=_NAMED | {"only_a": "only in A", "only_b": "only in B"}), HOW_ONLY, rows)
