"""The schema of the page's data: its copy for JavaScript, and what JavaScript reads of the data, held against it."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from page_rows import data_of, grid
from pydantic import BaseModel, ValidationError

import freqbench.reporting.page
from freqbench.reporting.page import schema
from freqbench.reporting.page.schema import Frame, PageData, json_schema
from freqbench.results.glimpses import Slice

FOLDER = Path(freqbench.reporting.page.__file__).parent
SCRIPTS = {path.stem: path.read_text() for path in sorted(FOLDER.glob("*/src/*.js")) if path.stem != "grid"}
DERIVED = {*re.findall(r"\bdata\.(\w+) = ", SCRIPTS["data"])}
"""Keys that JavaScript adds to the data."""
SHARED = {*re.findall(r'"(\w+)"', SCRIPTS["data"].partition("const SHARED = ")[2].partition("]")[0])}
"""Columns of the summary that JavaScript adds to the cases."""

EVERYWHERE: dict[str, tuple[type[BaseModel], ...]] = {
    **{"data": (PageData,), "raw": (PageData,), "summary": (schema.SummaryFrame,), "clean": (schema.Clean,)},
    **{"counts": (schema.Counts,), "run": (schema.PageRun,), "job": (schema.PageJob,)},
    **{"manifest": (schema.Manifest,), "chosen": (schema.SavedCase,), "glimpse": (schema.ShownGlimpse,)},
    "slice": (Slice,),
}
"""Parts of the data that a name holds in the scripts; of several, any may be meant."""
IN_SCRIPTS: dict[str, dict[str, tuple[type[BaseModel], ...]]] = {
    "data": {"raw": (PageData, Frame)},
    "filters": {"summary": ()},
    "audit": {"each": (schema.AuditFinding, schema.AuditedModel), "clean": ()},
    "overview": {"each": (schema.LeftOut, schema.Failures, schema.Sentence)},
    "drill": {"clean": ()},
    "loaded": {"clean": ()},
    "slices": {"clean": ()},
    "curves": {"clean": ()},
    "cases": {"each": (schema.SavedCase,), "row": (schema.SavedCase,)},
}


def columns(frame: type[BaseModel], kind: str) -> set[str]:
    """Names of a frame's columns of a kind: `texts` or `numbers`."""
    names = frame.model_json_schema()["properties"][kind].get("propertyNames", {})
    listed = names.get("anyOf", [names])[0].get("enum", ())
    return {*listed} | (SHARED if frame is schema.CaseFrame and kind == "texts" else set())


FRAMES = [each for each in vars(schema).values() if isinstance(each, type) and issubclass(each, Frame)]
COLUMNS = {kind: set[str]().union(*(columns(frame, kind) for frame in FRAMES)) for kind in ("texts", "numbers")}


def held(annotation: Any) -> tuple[type[BaseModel], ...]:
    """Parts that a value of this type may be, null left out; none for lists, mappings and plain values."""
    options = get_args(annotation) if get_origin(annotation) is not None else (annotation,)
    return tuple(each for each in options if isinstance(each, type) and issubclass(each, BaseModel))


def unknown(parts: tuple[type[BaseModel], ...], keys: list[str]) -> str:
    """First key of a chain of reads that no part has; empty if all are known."""
    for place, key in enumerate(keys):
        if not parts or (issubclass(parts[0], Frame) and key in ("text", "number")):
            return ""
        if issubclass(parts[0], Frame) and key in COLUMNS and len(keys) > place + 1:
            return "" if keys[place + 1] in columns(parts[0], key) else keys[place + 1]
        fields = {name: field.annotation for part in parts for name, field in part.model_fields.items()}
        if key not in fields and not (parts[0] is PageData and key in DERIVED):
            return key
        parts = held(fields.get(key)) if not str(fields.get(key)).startswith(("list", "dict")) else ()
    return ""


def unknown_reads(name: str, text: str) -> Iterator[str]:
    """Keys and columns that a script reads of the page's data, and that the schema lacks."""
    text = re.sub(r"(?s:/\*.*?\*/)|(?m:^\s*//.*$)", "", text)
    for holder, parts in (EVERYWHERE | IN_SCRIPTS.get(name, {})).items():
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
        ("overview", "{ summary, clean, counts } = data", "{ summary, clean, count } = data"),
        ("overview", "counts.failed", "counts.fail"),
        ("overview", "run.planned", "run.plan"),
        ("glimpses", "glimpse.slice", "glimpse.picture"),
        ("glimpses", "{ size, aspect, captions } = slice", "{ size, ratio, captions } = slice"),
        ("drill", 'text("transfer"', 'text("transferred"'),
        ("drill", "data.cases.numbers.classes", "data.cases.numbers.class"),
        ("robustness", "{ tables, natural, bounds } = app.data", "{ tables, natural, bound } = app.data"),
        ("main", "data.audit?.findings", "data.audit?.found"),
        ("loaded", "chosen.files.label", "chosen.files.labels"),
    ],
)
def test_a_misspelt_read_is_seen(name: str, read: str, misspelt: str) -> None:
    assert read in SCRIPTS[name]
    assert [*unknown_reads(name, SCRIPTS[name].replace(read, misspelt))]


def test_json_schema_is_that_of_the_models() -> None:
    """Otherwise write the text of `json_schema()` to the file."""
    assert (FOLDER / "web/data.schema.json").read_text() == json_schema()


@pytest.mark.parametrize("place", [(), ("summary", "texts"), ("counts",)])
def test_data_with_an_unknown_key_are_refused(place: tuple[str, ...]) -> None:
    data = data_of(*grid(1, ["a"], ["a"], 2, 2)).model_dump()
    part = data
    for key in place:
        part = part[key]
    part["extra"] = {"values": [], "codes": []}
    with pytest.raises(ValidationError, match="extra"):
        PageData.model_validate(data)
