"""The schema of the page's data: what is made and what JavaScript reads of it, held against it."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from page_rows import data_of, grid, robustness_rows
from reporting.handmade import records, row
from viewer_page import rows_of

from freqbench.analysis.scores import SCORES
from freqbench.reporting import page
from freqbench.reporting.page.manifest import write_volumes
from freqbench.results import Store

FOLDER = Path(page.__file__).parent
SCHEMA = json.loads((FOLDER / "web/data.schema.json").read_text())
PARTS: Mapping[str, Mapping[str, Any]] = {
    name: part.get("properties", {}) for name, part in ({"PageData": SCHEMA} | SCHEMA["$defs"]).items()
}
FRAMES = [name for name, part in PARTS.items() if {"texts", "numbers"} <= part.keys()]
SCRIPTS = {path.stem: path.read_text() for path in sorted(FOLDER.glob("*/src/*.js")) if path.stem != "grid"}
DERIVED = {*re.findall(r"\bdata\.(\w+) = ", SCRIPTS["data"])}
"""Keys that JavaScript adds to the data."""
SHARED = {*re.findall(r'"(\w+)"', SCRIPTS["data"].partition("const SHARED = ")[2].partition("]")[0])}
"""Columns of the summary that JavaScript adds to the cases."""

EVERYWHERE: Mapping[str, Sequence[str]] = {
    **{"data": ["PageData"], "raw": ["PageData"], "summary": ["SummaryFrame"], "clean": ["Clean"]},
    **{"run": ["PageRun"], "job": ["PageJob"], "slice": ["Slice"]},
    **{"manifest": ["Manifest"], "chosen": ["SavedCase"], "glimpse": ["ShownGlimpse"]},
}
"""Parts of the data that a name holds in the scripts; of several, any may be meant."""
IN_SCRIPTS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "data": {"raw": ["PageData", "Clean"]},
    "filters": {"summary": []},
    "audit": {"each": ["AuditFinding", "AuditedModel"], "clean": []},
    "overview": {"each": ["LeftOut", "Failures", "Sentence"]},
    **{name: {"clean": []} for name in ("drill", "loaded", "slices", "curves")},
    "cases": {"each": ["SavedCase"], "row": ["SavedCase"]},
}


def columns(frame: str, kind: str) -> set[str]:
    """Names of a frame's columns of a kind: `texts` or `numbers`."""
    names = PARTS[frame][kind].get("propertyNames", {})
    scores = {score.name for score in SCORES} if "anyOf" in names else set()
    listed = names.get("anyOf", [names])[0].get("enum", ())
    return {*listed} | scores | (SHARED if frame == "CaseFrame" and kind == "texts" else set())


COLUMNS = {kind: set[str]().union(*(columns(frame, kind) for frame in FRAMES)) for kind in ("texts", "numbers")}


def unknown(parts: Sequence[str], keys: Sequence[str]) -> str:
    """First key of a chain of reads that no part has; empty if all are known."""
    for place, key in enumerate(keys):
        if not parts or (parts[0] in FRAMES and key in ("text", "number")):
            return ""
        if parts[0] in FRAMES and key in COLUMNS and len(keys) > place + 1:
            return "" if keys[place + 1] in columns(parts[0], key) else keys[place + 1]
        fields = {name: field for part in parts for name, field in PARTS[part].items()}
        if key not in fields and not (parts[0] == "PageData" and key in DERIVED):
            return key
        field = fields.get(key, {})
        parts = [each["$ref"].rpartition("/")[2] for each in [field, *field.get("anyOf", ())] if "$ref" in each]
    return ""


def unknown_reads(name: str, text: str) -> Iterator[str]:
    """Keys and columns that a script reads of the page's data, and that the schema lacks."""
    text = re.sub(r"(?s:/\*.*?\*/)|(?m:^\s*//.*$)", "", text)
    for holder, parts in ({**EVERYWHERE, **IN_SCRIPTS.get(name, {})}).items():
        before = r"(?<![\w$./\"'])(?:app\.)?"
        for match in re.finditer(rf"{before}{re.escape(holder)}((?:\??\.[A-Za-z_]\w*)+)", text):
            if key := unknown(parts, re.findall(r"\w+", match[1])):
                yield f"{name}.js: {match[0]}: {key}"
        for match in re.finditer(rf"{{([^{{}}=]*)}} = {before}{re.escape(holder)};", text):
            for key in re.findall(r"(\w+)(?:: \w+)?(?:,|\s*$)", match[1]):
                if unknown(parts, [key]):
                    yield f"{name}.js: {match[0]}: {key}"
    for match in re.finditer(r"\.(text|number)\(\"(\w+)\"", text):
        if match[2] not in COLUMNS[f"{match[1]}s"]:
            yield f"{name}.js: {match[0]}: {match[2]}"


@pytest.mark.parametrize("name", SCRIPTS)
def test_javascript_reads_only_what_the_schema_has(name: str) -> None:
    assert [*unknown_reads(name, SCRIPTS[name])] == []


@pytest.mark.parametrize(
    ("name", "read", "misspelt"),
    [
        ("overview", "data.findings", "data.finding"),
        ("runfacts", "{ clean } = data", "{ cleaned } = data"),
        ("glimpses", "{ size, aspect, captions } = slice", "{ size, ratio, captions } = slice"),
        ("drill", 'text("transfer"', 'text("transferred"'),
        ("drill", "data.cases.numbers.classes", "data.cases.numbers.class"),
        ("main", "data.audit?.findings", "data.audit?.found"),
        ("loaded", "chosen.files.label", "chosen.files.labels"),
    ],
)
def test_a_misspelt_read_is_seen(name: str, read: str, misspelt: str) -> None:
    assert read in SCRIPTS[name]
    assert [*unknown_reads(name, SCRIPTS[name].replace(read, misspelt))]


def faults(data: Mapping[str, Any]) -> list[str]:
    """Objections of the schema to data, as a browser gets them."""
    errors = Draft202012Validator(SCHEMA).iter_errors(json.loads(json.dumps(data)))
    return [f"{each.json_path}: {each.message:.200}" for each in errors]


def test_data_of_every_kind_of_row_have_the_schema() -> None:
    """Corruptions, defences, certificates, failed rows and such as are left out; then classes, and no rows at all."""
    others = row(status="failed", error="died"), row("gn", dsc=0.5, precision="bf16"), row("fmn", smallest_linf=0.01)
    made = data_of(records(*robustness_rows(), *others), None)
    assert all(made[name] for name in ("natural", "bounds", "tables", "smallest", "failures", "left_out", "findings"))
    assert faults(made) == []
    rows, classes = grid(1, ["a"], ["a"], 2, 2)
    assert faults(data_of(rows, classes)) == faults(data_of(rows[:0], classes[:0])) == []


def test_data_of_a_store_with_volumes_have_the_schema(volumes_store: str, tmp_path: Path) -> None:
    made = page.data_of([Store(volumes_store)])[1]
    assert all(made[name] for name in ("glimpses", "audit", "runs", "jobs"))
    assert faults(made | {"volumes": write_volumes(*rows_of(volumes_store), [volumes_store], str(tmp_path), {})}) == []


def test_an_unknown_key_a_missing_one_and_another_type_are_seen() -> None:
    made = data_of(*grid(1, ["a"], ["a"], 1, 2))
    assert faults(made | {"extra": 1})[0].startswith("$: Additional properties")
    assert faults({name: made[name] for name in made if name != "jobs"}) == ["$: 'jobs' is a required property"]
    assert faults(made | {"title": 1}) == ["$.title: 1 is not of type 'string'"]
