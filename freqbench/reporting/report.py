"""Reports which attacks break which networks, white-box and transferred: the whole page, or one of its tables."""

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import chain
from typing import Any

import pandas as pd

from freqbench.analysis.frames import caption_of, classes_frame, found_records
from freqbench.analysis.groups import by_dataset, is_minimal, steps_text
from freqbench.analysis.precision import exclude
from freqbench.analysis.tables import ADDED, PAIR, attack_table, current, failures, summary, transfer_table
from freqbench.audit import checks
from freqbench.core.errors import UserError, unknown
from freqbench.core.terminal import amount
from freqbench.core.types import AGREEMENT, IN_FILE, ScoredOn, dataset_name
from freqbench.reporting import audit, render
from freqbench.reporting.contents import regions_of
from freqbench.reporting.papers import recipes
from freqbench.reporting.papers.cells import COLUMNS, relevant
from freqbench.reporting.papers.paper_table import paper_table
from freqbench.reporting.papers.recipes import RECIPES
from freqbench.reporting.render import Section
from freqbench.reporting.views import VIEWS, unasked_sections
from freqbench.results import Key, Store

NOTES = (
    "DSC, SSIM and 1-LPIPS are x100, higher is better; drop is in points of the foreground DSC against clean; n is "
    "cases, or cases x seeds. The foreground DSC leaves the background out, and HD95 penalised is in mm, a missed "
    "class counting the volume's diagonal. DSC and HD95 follow the published convention, all classes with background: "
    "a total failure still scores about 6 DSC with 14 classes and 25 with 4. HD95 is in voxels; undef counts the "
    "classes that have none, missing in the label or in the prediction, and drop out of its mean, so a stronger attack "
    "can look better there. Body columns leave the air around the patient out. L-inf is the largest change of a voxel "
    "in 1/255, L2 the Euclidean norm of the change on the [0, 1] scale.\n\nRows of different threat models are not "
    "comparable by DSC alone: look at the distances in the same row."
)
LEFT_OUT_LINES = 10
AUDIT = "audit"
AUDITED_PATIENTS = 5
NOT_AUDITED = (
    f"Fewer than {AUDITED_PATIENTS} patients settle hardly any check, so none is shown: freqbench audit OUT shows all."
)
FORMATS: Mapping[str, Callable[[Sequence[Section]], str]] = {
    **{"terminal": render.terminal, "markdown": render.markdown, "latex": render.latex, "csv": render.sections_csv},
}


def report(
    stores: Sequence[Store], job_keys: Collection[Key] | None = None, format: str = "terminal", table: str | None = None
) -> str:
    """Reports stores as tables, without rows that fail the precision check (`exclude`): the page, for `csv` a
    UserWarning, says which. Of rows with one key the best and latest counts; `job_keys` are those of interest. Formats:
    `terminal` (its width, 110 columns at most; the first 60 rows of a table), `markdown`, `latex`, `csv` (each digit;
    without `table` one table of all means). `table` is a paper's, by its name in RECIPES or a recipe's path, a view of
    VIEWS, or `audit`; None: all attacks, unasked views, and the audit in short, of datasets with AUDITED_PATIENTS.
    Raises UserError for no such format or table, nothing to show, or a store that cannot be read."""
    runs = list(chain.from_iterable(store.runs() for store in stores))
    render_all = renderer(format, regions_of(runs))
    if table is not None:
        sections, caption = _one_table(table, stores, job_keys, runs, format != "csv")
        if caption and format == "csv":
            warnings.warn(caption, stacklevel=2)
        return render_all([*sections, *_note_on(caption)])
    stored, records = found_records(stores, job_keys)
    records = exclude(records, stored)
    left_out = _left_out(records, len(stored) - len(records))
    caption = caption_of(records, runs, format != "csv")
    if format == "csv":
        for text in filter(None, (left_out and f"left out:\n{left_out}", caption)):
            warnings.warn(text, stacklevel=2)
        return render.csv(summary(records).rename(columns=lambda name: name.removeprefix(ADDED)))
    sections = _sections(records, left_out, None if job_keys is None else len(job_keys)) + unasked_sections(records)
    sections += [*_audit(stores, job_keys, records), *_note_on(caption)]
    notes = "\n\n".join(filter(None, (NOTES, steps_text(records))))
    return render_all([*sections, Section("How to read this", text=notes)])


def renderer(format: str, regional: Collection[str] = ()) -> Callable[[Sequence[Section]], str]:
    """Returns the renderer of a format; UserError if there is no such format. `regional`: see `word_sections`."""
    if format not in FORMATS:
        raise UserError(unknown("format", format, FORMATS))
    return lambda sections: FORMATS[format](render.word_sections(sections, regional))


def _note_on(line: str | None) -> list[Section]:
    return [Section("Of these rows", text=line)] if line else []


def _one_table(
    name: str, stores: Sequence[Store], job_keys: Collection[Key] | None, runs: Sequence[Mapping[str, Any]], clean: bool
) -> tuple[list[Section], str | None]:
    """Makes the sections of a recipe, a view or the whole audit; returns also the line of `caption_of`."""
    if name == AUDIT:
        evidence = checks.gathered(stores, job_keys, all_classes=True)
        return audit.sections(checks.audited(evidence)), evidence.caption
    if view := VIEWS.get(name):
        stored, records = found_records(stores, job_keys, view.columns)
        rows = current(records, stored)
        classes = (classes_frame(stores, stored),) if view.needs_classes else ()
        return view.build(rows, *classes), caption_of(rows, runs, clean)
    if name not in RECIPES and not name.endswith((".yaml", ".yml")):
        raise UserError(unknown("table", name, [*RECIPES, *VIEWS, AUDIT]))
    recipe = recipes.load(name)
    stored, records = found_records(stores, job_keys, COLUMNS)
    there = {*records["dataset"].unique()}
    agree = sorted(name for name in there if name.endswith(AGREEMENT) and dataset_name(name) in recipe.dataset_of)
    if in_file := sorted(name for name in there if name.endswith(IN_FILE) and dataset_name(name) in recipe.dataset_of):
        raise UserError(
            f"{name}: expected scores on the grid that is attacked, as the paper's are, got {in_file[0]}, run with "
            f"{ScoredOn.FILE.key}: run it with {ScoredOn.GRID.key}, or report it by --table overview"
        )
    if agree:
        rest = "run with reference: prediction: run it with label maps, or report it by --table overview"
        raise UserError(f"{name}: expected scores against labels, as the paper's are, got {agree[0]}, {rest}")
    rows = current(relevant(recipe, records), relevant(recipe, stored))
    return paper_table(recipe, rows, runs), caption_of(rows, runs, clean)


def _sections(records: pd.DataFrame, left_out: str, planned: int | None) -> list[Section]:
    sections = [Section("Records", text=_counts(records, planned))]
    if left_out:
        sections.append(Section("Left out of the tables", text=left_out))
    ranked = records[(records["left_out"] == "") & ~is_minimal(records)]
    for dataset, of_dataset in by_dataset(ranked):
        rows = summary(of_dataset)
        targets = [] if len(table := attack_table(rows)) else sorted(of_dataset["target_model"].unique())
        table = pd.concat([table, *(attack_table(rows, target) for target in targets)])
        for (source, target), group in table.groupby(PAIR[1:]):
            title = "white-box" if source == target else f"transferred to {target}"
            sections.append(Section(f"{dataset}: attacks on {source}, {title}", group.drop(columns=PAIR)))
        if (of_dataset["source_model_id"] != of_dataset["target_model_id"]).any():
            place = "x100 of each target (columns) under volumes made on each source (* white-box)"
            sections.append(Section(f"{dataset}: foreground DSC {place}", transfer_table(rows)))
            sections.append(Section(f"{dataset}: DSC {place}", transfer_table(rows, "dsc")))
    if len(failed := failures(records)):
        sections.append(Section("Failed", failed))
    return sections


def _audit(stores: Sequence[Store], job_keys: Collection[Key] | None, records: pd.DataFrame) -> list[Section]:
    """Makes a short audit of the datasets with enough patients; one line if there are none."""
    patients = records.groupby("dataset", observed=True)["patient_id"].nunique()
    if not (enough := {str(name) for name, count in patients.items() if count >= AUDITED_PATIENTS}):
        return [Section("Audit", text=NOT_AUDITED)]
    findings = checks.audited(checks.gathered(stores, job_keys))
    return audit.short_sections(tuple(each for each in findings if each.dataset in enough))


def _left_out(records: pd.DataFrame, others: int) -> str:
    """Lists rows of no cell of the job, and those that the tables leave out: the first, and how many more."""
    lines = [f"- {amount(others, 'record')} of another job, or of a former version of this one"] if others else []
    if (records["left_out"] == "").all():
        return "".join(lines)
    keys = [*PAIR, "label"]
    rows = current(records)
    rows = rows[rows["left_out"] != ""].drop_duplicates(keys).sort_values(keys)
    for dataset, source, target, label, reason in rows[[*keys, "left_out"]].head(LEFT_OUT_LINES).to_numpy():
        whom = source if target == source else f"{source}, transferred to {target}"
        lines.append(f"- {dataset}: {label} on {whom}: {reason}")
    if len(rows) > LEFT_OUT_LINES:
        lines.append(f"- and {len(rows) - LEFT_OUT_LINES:,} more rows, not run in fp32 or too far from it")
    return "\n".join(lines)


def _counts(records: pd.DataFrame, planned: int | None) -> str:
    ok = int((records["status"] == "ok").sum())
    text = f"{ok} ok, {len(records) - ok} failed"
    if planned is not None:
        text += f", {planned - len(records)} not done, of {planned}"
    if former := len(records) - len(current(records)):
        rest = "file or setting that has a newer record under the same names, and are left out below."
        text += f"\n{former} of them are of a former version of a dataset, {rest}"
    return text
