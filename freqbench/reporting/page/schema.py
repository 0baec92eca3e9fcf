"""The schema of the page's data, which `data.py` makes and the JavaScript in `web` and `viewer` reads.

A number is null where it could not be computed (`null_reasons` of the row, JSON text), was not asked for (its score's
`metric` is not among `metrics`), or is undefined on these volumes; a failed row has an `error`.
"""

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, WithJsonSchema
from pydantic_core import CoreSchema, core_schema

from freqbench.analysis.scores import SCORES
from freqbench.core.types import Window
from freqbench.results.glimpses import Slice
from freqbench.results.volumes import RegionsOfLabels, Unit

SCORE_NAMES = tuple(score.name for score in SCORES)
ADDED = r"^@\w+$"
"""Matches a score of another package: its metric's name behind tables.ADDED."""
Look = tuple[str, str, str]
"""Colour, marker and dash of a series."""


@dataclass(frozen=True)
class OneOf:
    """Annotation of a text that is one of these names, or matches `others`."""

    names: tuple[str, ...]
    others: str | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        listed = core_schema.literal_schema([*self.names])
        others = core_schema.str_schema(pattern=self.others)
        return core_schema.union_schema([listed, others]) if self.others else listed

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "type": "string"}  # of a union pydantic would leave the keys out


class Part(BaseModel):
    """A part of the page's data, with these keys and no others."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class Texts(Part):
    """A column of texts."""

    values: list[str]
    """The distinct texts, in order of appearance."""
    codes: list[int]
    """Place in `values` of each row's text; -1: none."""


Number = Annotated[int | float, WithJsonSchema({"type": "number"})]
"""A number as it is: a whole one has no point in JSON."""
Numbers = list[Number | None]
"""A column of numbers, short and null where missing."""


class Frame(Part):
    """A table by columns: texts and numbers by name."""

    rows: int
    texts: dict[str, Texts]
    numbers: dict[str, Numbers]


SETTING = ("dataset", "source", "target", "attack", "family", "base", "threat", "budget_text", "transfer")
REASONS = ("error", "metrics", "null_reasons")
ENDS = ("dsc_foreground_low", "dsc_foreground_high")
COUNTS = ("budget", "cases", "seeds", "failed", "hd95_cases")


class SummaryFrame(Frame):
    """One row per dataset, source, target and attack.

    `attack` is the full label, `family` the label without its budget, `base` the attack's name; `_low` and `_high` end
    the 95 % interval of a mean; `null` 1 marks a null row, `minimal` 1 an attack whose result is a size and no score.
    """

    texts: dict[Annotated[str, OneOf((*SETTING, *REASONS))], Texts]
    numbers: dict[Annotated[str, OneOf((*COUNTS, *SCORE_NAMES, *ENDS, "null", "minimal"), ADDED)], Numbers]


class Clean(Frame):
    """One row per dataset and target."""

    texts: dict[Annotated[str, OneOf(("dataset", "target"))], Texts]
    numbers: dict[
        Annotated[str, OneOf(("cases", "dsc", "dsc_foreground", "hd95", "hd95_mm", "hd95_penalised_mm"))], Numbers
    ]


class ClassMeans(Frame):
    """One row per class of a summary's `row`."""

    numbers: dict[Annotated[str, OneOf(("row", "class", "cases", "dsc", "dsc_clean", "dsc_drop", "hd95_mm"))], Numbers]


OF_CASE = ("row", "seed", "missed_classes", "hallucinated_classes", "classes", "clean")


class CaseFrame(Frame):
    """One row per record, in the summary's order.

    `reproduce OUT --row` takes `id`; `row` is that of the summary, `classes` the number of its rows in `case_classes`,
    `clean` its block of `clean_classes`.
    """

    texts: dict[Annotated[str, OneOf(("case", "patient", "status", "run", "id", *REASONS))], Texts]
    numbers: dict[Annotated[str, OneOf((*OF_CASE, *SCORE_NAMES), ADDED)], Numbers]


class CaseClasses(Frame):
    """One row per class of each case, in the cases' order."""

    numbers: dict[Annotated[str, OneOf(("class", "dsc", "hd95_mm"))], Numbers]


class CleanClasses(Frame):
    """One row per class of each clean volume and target, by `block`."""

    numbers: dict[Annotated[str, OneOf(("block", "class", "label_voxels", "dsc", "hd95_mm"))], Numbers]


class ScoreColumn(Part):
    """A column of numbers; the page calls DSC agreement where a dataset's name marks it."""

    name: Annotated[str, OneOf(SCORE_NAMES, ADDED)]
    source: str
    """Column of RECORDS."""
    heading: str
    unit: str
    direction: Literal["higher", "lower", ""]
    """Value that means that less was lost or changed."""
    meaning: str
    digits: int
    """Digits after the point."""
    shown: bool
    """True if the table has the column without being asked."""
    metric: str
    """Metric that a job must ask for to get the score, or empty."""


class AttackPaper(Part):
    """Paper of an attack that freqbench has."""

    paper: str
    """Authors, venue and arXiv number; may be empty."""
    link: str | None
    """Address of the paper on arXiv."""
    is_own: bool
    """True if no paper has the attack in this form."""


class Sentence(Part):
    """A finding in one sentence."""

    dataset: str
    row: int
    """Row of the summary that it is about."""
    text: str


class ShownGlimpse(Part):
    """The glimpse of a white-box row: a slice of the case that lost most."""

    row: int
    """Row of the summary."""
    case: str
    drop: float
    """Lost points of foreground DSC."""
    words: str
    """Intensities that are black and white, and a word if a person sees the change."""
    slice: Slice


class _RowGroup(Part):
    """Rows of one attack on one pair of models."""

    dataset: str
    source: str
    target: str
    attack: str


class LeftOut(_RowGroup):
    """Rows that the strength check keeps out, and why."""

    reason: str | None
    rows: int


class Failures(_RowGroup):
    """Failed records and the first reason."""

    failed: int
    reason: str | None


class Counts(Part):
    """Numbers of records."""

    ok: int
    failed: int
    left_out: int


class RanDataset(Part):
    """A dataset of a run."""

    name: str
    cases: int
    recipe: Any


class PageRun(Part):
    """A run; what is Any is as its file in the store has it, and may be null."""

    store: str
    planned: int
    """Records that the store's job asks for."""
    done: int
    """Records of the store that are ok."""
    failed: int
    run_id: str
    status: Any
    started_at: Any
    heartbeat: Any
    warnings: Any
    versions: Any
    code: Any
    host: Any
    devices: Any
    engine: Any
    models: list[dict[str, Any]]
    """Facts of each model, among them `id name checkpoint sha256 migration`."""
    datasets: list[RanDataset]
    seeds: Any


class PageJob(Part):
    """A store's job."""

    store: str
    name: str
    text: str
    """The job as YAML, without empty values."""


class Heading(Part):
    """Heading of a ready table's column."""

    heading: str
    number: bool
    """True if the column has numbers."""


class ReadyTable(Part):
    """A section that a report shows unasked, such as that of defences."""

    title: str
    text: str
    columns: list[Heading]
    rows: list[list[str]]


class NaturalChart(Part):
    """Natural beside adversarial robustness on a dataset."""

    dataset: str
    models: list[str]
    rows: list[tuple[str, str]]
    """Group (corruptions or attacks) and name of each row."""
    drops: dict[str, list[tuple[float, float | None, float | None] | None]]
    """Drop of foreground DSC in points, by model and row: mean (of a corruption over severities), low, high."""
    series: dict[str, Look]
    """Look of each model."""
    cases: int


class BoundsChart(Part):
    """Certified and attacked ends of a smoothed model."""

    dataset: str
    model: str
    kind: str
    sigma: Number
    rows: list[dict[Literal["radius", "clean", "certified", "attacked"], Number | None]]
    """Means over cases of the foreground DSC x100 under changes of a norm, `radius`."""
    cases: int


class AuditedModel(Part):
    """Verdict on a model."""

    dataset: str
    model: str
    verdict: str
    label: str
    """The verdict with the number of checks that hold."""
    sentence: str


class AuditFinding(Part):
    """Finding of a check."""

    check: str
    should: str
    """Statement that should hold."""
    dataset: str
    model: str
    subject: str
    verdict: str
    sentence: str


class PageAudit(Part):
    """The audit of the stores."""

    models: list[AuditedModel]
    findings: list[AuditFinding]
    notes: list[str]


Regions = dict[str, RegionsOfLabels]
"""Regions of each label, by dataset whose classes are regions."""


class VolumeKeys(Part):
    """Keys of the files of a saved case; null: not saved."""

    clean: str
    adversarial: str
    label: str | None
    predictions: dict[str, dict[Literal["clean", "adversarial"], str | None]]
    """Predictions by target and the volume that was predicted."""


class SavedCase(Part):
    """A case whose volumes are saved."""

    dataset: str
    case: str
    attack: str
    source: str
    files: VolumeKeys
    class_names: list[str]
    dsc: dict[str, tuple[float | None, float | None]]
    """The manifest's `score` on the clean and on the adversarial volume, by target."""
    ranges: list[Window | None]
    """Intensities of the file that are 0 and 1, by channel; none: unknown."""
    unit: Unit
    """Unit of the file; empty: its own, without a name."""


class Manifest(Part):
    """Saved volumes, for the viewer."""

    kind: Literal["script"]
    """Way in which a browser gets a file: it runs `KEY.js`."""
    base: str
    """Place of the files beside the page."""
    colors: list[str]
    """Colour of each class."""
    cases: list[SavedCase]
    score: str
    """Definition of the cases' `dsc`, in words."""
    regions: Regions
    notes: list[str]
    """Lines on what could not be read."""
    bytes: int | None = None
    """Bytes of all files."""
    rounding: float | None = None
    """Largest change of a voxel."""


class PageData(Part):
    """The page's data."""

    format: Literal[1]
    title: str
    """Names of the jobs."""
    made_at: str
    version: str
    """Version of freqbench."""
    scores: list[ScoreColumn]
    summary: SummaryFrame
    clean: Clean
    cases: CaseFrame | None
    """Null here and below: `omitted` says why."""
    case_classes: CaseClasses | None
    clean_classes: CleanClasses | None
    class_means: ClassMeans | None
    classes: dict[str, list[tuple[int, str, str]]]
    """Index, name and colour of each class by dataset."""
    omitted: dict[Literal["cases", "case_classes", "class_means"], str]
    """Reason for each missing frame."""
    regions: Regions
    series: dict[str, Look]
    """Look of each family."""
    attacks: dict[str, AttackPaper]
    """Paper of each `base` of the summary."""
    threats: dict[str, str]
    """Name in words of each `threat` of the summary."""
    docs: str | None
    """Address of the documentation."""
    findings: list[Sentence]
    glimpses: list[ShownGlimpse]
    """The largest drop first."""
    class_colors: list[str]
    """Colours of classes by index, in slices of glimpses."""
    left_out: list[LeftOut]
    failures: list[Failures]
    counts: Counts
    runs: list[PageRun]
    jobs: list[PageJob]
    notes: list[str]
    cautions: list[str]
    tables: list[ReadyTable]
    smallest: list[ReadyTable]
    """Sizes of smallest changes, a dataset each, in place of scores."""
    natural: list[NaturalChart]
    bounds: list[BoundsChart]
    audit: PageAudit | None
    volumes: Manifest | None = None


def json_schema() -> str:
    """Returns the schema of the page's data as JSON Schema, as `web/data.schema.json` holds it."""
    return json.dumps(PageData.model_json_schema(), indent=1) + "\n"
