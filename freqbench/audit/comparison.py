"""Compares a record as stored with the record as recomputed, and the circumstances of then with those of now."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from freqbench.core.documents import object_of
from freqbench.core.machine import PACKAGES, TOOLCHAINS, versions
from freqbench.core.measures import ADDED_METRIC, Tolerance
from freqbench.engine import provenance
from freqbench.job.grid import Grid
from freqbench.pipelines import Pipeline
from freqbench.results import CLASS_RECORDS, RECORDS, Column
from freqbench.results.releases import code_text, parse_releases
from freqbench.results.schema import ADDED, RELEASES, added_values
from freqbench.results.tolerances import EXACT, TOLERANCES

Row = Mapping[str, Any]
TEXTS = ("metrics", "null_reasons", ADDED.name)  # they list columns and values, which are compared themselves
LATER = {"resampling_error": "an earlier release left it out of rows that are scored on the file"}
MOVING = {*PACKAGES, *(name for names in TOOLCHAINS.values() for name in names)} - {"ray", "pyarrow"}
NUMERIC = {"python", *MOVING} - {"freqbench"}  # may change last bits; Ray, pyarrow and freqbench itself must not


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Column whose values differ."""

    column: str  # with the class, for a column of class records
    stored: Any
    found: Any  # as recomputed
    tolerance: Tolerance  # for another device or other versions

    @property
    def gap(self) -> float | None:
        """Recomputed minus stored value; None if they are not numbers."""
        numbers = [isinstance(value, int | float) for value in (self.stored, self.found)]
        return float(self.found) - float(self.stored) if all(numbers) else None

    @property
    def is_tolerated(self) -> bool:
        """True if the difference is within the tolerance."""
        return self.gap is not None and self.tolerance.allows(float(self.stored), float(self.found))


@dataclass(frozen=True, kw_only=True)
class RowComparison:
    """Result of comparing two versions of a record."""

    compared: int  # values
    differences: tuple[Difference, ...]  # values that are not equal to the bit
    skipped: Mapping[str, str]  # columns that one side lacks, and the reason


def compare(stored: Row, stored_classes: Sequence[Row], found: Row, found_classes: Sequence[Row]) -> RowComparison:
    """Compares every identity and result column of a record and its classes, to the bit (NaN equals NaN). One that
    could not be computed then or now is skipped with the reason. Only stored `params` count."""
    then, now = (object_of(row["null_reasons"] or "{}", "null_reasons") for row in (stored, found))
    params = [object_of(row["params"], "params") for row in (stored, found)]
    known = [{name: value for name, value in each.items() if name in params[0]} for each in params]
    texts = [json.dumps(each, sort_keys=True) for each in known]
    records = {**stored, "params": texts[0]}, {**found, "params": texts[1]}
    pairs: list[tuple[str, Sequence[Column], Row, Row, str]] = [("records", RECORDS, *records, "")]
    classes = {row["class_index"]: row for row in found_classes}
    for row in sorted(stored_classes, key=lambda row: row["class_index"]):
        if row["class_index"] in classes:
            pairs.append(("class_records", CLASS_RECORDS, row, classes[row["class_index"]], f"{row['class_name']}: "))
    compared = 0
    differences = list[Difference]()
    skipped = dict[str, str]()
    for kind, columns, one, other, begin in pairs:
        own = [column.name for column in columns if column.mark != "measured" and column.name not in TEXTS]
        added, computed = (added_values(row[ADDED.name]) for row in (one, other))
        one = {**one, **added}
        other = {**other, **computed}
        skipped |= dict.fromkeys(sorted(added.keys() - computed.keys()), "its package is here in another version")
        for name in (*own, *sorted(added.keys() & computed.keys())):
            value = one[name]
            again = other[name]
            if value is None and again is not None and name in then | LATER:
                skipped[name] = f"was not computed then: {(then | LATER)[name]}"
            elif again is None and value is not None and name in now:
                skipped[name] = f"cannot be computed here: {now[name]}"
            else:
                compared += 1
                if value != again and not (value != value and again != again):
                    tolerance = TOLERANCES[kind].get(name, ADDED_METRIC if name in added else EXACT)
                    differences.append(Difference(column=begin + name, stored=value, found=again, tolerance=tolerance))
    if sorted(classes) != sorted(row["class_index"] for row in stored_classes):
        counts = {"stored": len(stored_classes), "found": len(found_classes)}
        differences.append(Difference(column="rows of classes", tolerance=EXACT, **counts))
    return RowComparison(compared=compared, differences=tuple(differences), skipped=skipped)


@dataclass(frozen=True, kw_only=True)
class Cause:
    """Fact that differs between two executions, with its values then and now."""

    text: str
    excuses: bool  # results need no longer be equal to the bit
    is_release: bool = False  # of a package that may move numbers


def causes(run: Row, stored: Row, found: Row) -> list[Cause]:
    """Lists differences between the run that wrote a record (empty: gone), releases as in the row, and this machine."""
    differing = [
        Cause(text=f"{what}: {stored[column]} then, {found[column]} now", excuses=True)
        for column, what in (("device", "device"), ("threads", "threads"), ("window_batch", "window batch"))
        if stored[column] != found[column]
    ]
    ran = run.get("versions") or {}
    of_row = parse_releases(stored.get(RELEASES.name))
    if not (ran or of_row):
        differing.append(Cause(text="versions: neither the row nor the run's file says them", excuses=True))
    for then, now in ((ran, versions()), (of_row, parse_releases(found.get(RELEASES.name)))):
        for name in sorted(then.keys() | now.keys()) if then else ():
            if then.get(name) != now.get(name):
                text = f"{name}: {then.get(name, 'none')} then, {now.get(name, 'none')} now"
                differing.append(Cause(text=text, excuses=name in NUMERIC, is_release=name in MOVING))
    processor = run.get("processor")
    here = provenance.processor()
    if processor != here:
        text = f"{processor} then, {here} now" if processor else "the run's file does not say it"
        differing.append(Cause(text=f"processor: {text}", excuses=True))
    # Results must not change with the commit of freqbench unless an identity does.
    code, code_here = (code_text(code) for code in (run.get("code"), provenance.git_state()))
    if code != code_here or code.endswith("changed"):
        differing.append(Cause(text=f"code: {code} then, {code_here} now", excuses=False))
    return list(dict.fromkeys(differing))


def changed_inputs(run: Row, stored: Row, grid: Grid) -> list[str]:
    """Reasons why no cell of the same job's grid is that of a record: changes in its models, data and settings."""
    models = {model.name: model for cell in grid.cells for model in (*cell.models, *cell.targets)}
    run_models = run.get("models") or {}
    used = [(stored[f"{k}_model"], stored[f"{k}_model_id"]) for k in ("source", "target")]
    surrogates = object_of(stored["params"], "params").get("surrogates", ())
    used += [(facts["name"], model_id) for model_id, facts in run_models.items() if facts["name"] in surrogates]
    reasons = []
    for name, model_id in dict.fromkeys(used):
        then = (run_models.get(model_id) or {}).get("sha256")
        now = models.get(name)
        if now is None:
            reasons.append(f"model {name}: the job has none of that name")
        elif then and then != now.checkpoint_sha256:
            digests = f"sha256 {then[:12]} then, {now.checkpoint_sha256[:12]} now"
            reasons.append(f"checkpoint of {name}: {digests} ({now.checkpoint})")
        elif model_id != now.model_id:
            space = now.space
            ran_by = run.get("versions") or {}
            release = ran_by.get(space.toolchain) if isinstance(space, Pipeline) else None
            if isinstance(space, Pipeline) and release and release != space.release:
                reasons.append(f"model {name}: prepared by {space.toolchain} {release} then, by {space.release} now")
            else:
                reasons.append(f"model {name}: arguments, window, preprocessing or code have changed since")
    return reasons + _changed_data(run.get("datasets") or {}, stored, grid)


def _changed_data(datasets: Row, stored: Row, grid: Grid) -> list[str]:
    name = stored["dataset"]
    case_id = stored["case_id"]
    if (dataset := next((cell.dataset for cell in grid.cells if cell.dataset.name == name), None)) is None:
        return [f"dataset {name}: the job has none of that name"]
    if (ref := next((ref for ref in grid.cases[name] if ref.case_id == case_id), None)) is None:
        return [f"data: case {case_id} is not in {name} here"]
    then = datasets.get(name) or {}
    fingerprint = (then.get("cases") or {}).get(case_id)
    reasons = []
    if fingerprint and fingerprint != ref.fingerprint:
        reasons.append(f"data: the files of case {case_id} differ: {fingerprint[:12]} then, {ref.fingerprint[:12]} now")
    recipe = then.get("recipe") or {}
    now = json.loads(json.dumps(dataset.whole_recipe()))  # tuples as lists, as the run's file has them
    changed = [key for key in sorted(recipe.keys() | now.keys()) if recipe.get(key) != now.get(key)]
    if recipe and changed:
        reasons.append(f"data: the recipe of {name} differs in {', '.join(changed)}")
    return reasons
