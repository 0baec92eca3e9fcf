"""The page that answers which attacks break which networks, white-box and transferred."""

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence

import pandas as pd
import pyarrow as pa

from freqbench.errors import UserError, unknown
from freqbench.reporting import render
from freqbench.reporting.render import Section
from freqbench.reporting.strength import checked
from freqbench.reporting.tables import PAIR, attack_table, current, failures, summary, transfer_table
from freqbench.reporting.worst import worst_case
from freqbench.results import KEY, Key, Store, latest

NOTES = (
    "DSC, DSC fg, SSIM and LPIPS (1 - distance) are x100, higher is better; drop is in points of DSC against "
    "clean; n is cases, or cases x seeds. DSC and HD95 follow the published convention, all classes with "
    "background: a total failure still scores about 6 with 14 classes and 25 with 4, so DSC fg leaves the "
    "background out. HD95 is in voxels; undef counts the classes that have none, missing in the label or in the "
    "prediction, and drop out of its mean, so a stronger attack can look better there. Body columns leave the air "
    "around the patient out. L-inf is the largest change of a voxel in 1/255, L2 the Euclidean norm of the change "
    "on the [0, 1] scale.\n\n"
    "Rows of different threat models are not comparable by DSC alone: look at the distances in the same row."
)

LEFT_OUT_LINES = 10

FORMATS: Mapping[str, Callable[[Sequence[Section]], str]] = {
    "terminal": render.terminal,
    "markdown": render.markdown,
}


def report(
    sources: Sequence[Store] | pa.Table, job_keys: Collection[Key] | None = None, format: str = "terminal"
) -> str:
    """Tables of one or several stores.

    Args:
        sources: stores, or rows of `RECORDS`; of rows with the same key the best and latest counts.
        job_keys: the keys of the job of interest; others, such as those of a former version of it, are not shown.
            None: everything.
        format: `terminal` (110 columns, the first 60 rows of a table), `markdown`, or `csv` (one table with all means,
            each digit).

    Rows of a reduced precision that fail the strength check among all rows of the stores (`checked`) are left out. The
    page says which and why; for `csv` a UserWarning does.

    Raises:
        UserError: no such format, nothing to show, or a store that cannot be read.
    """
    if format not in (*FORMATS, "csv"):
        raise UserError(unknown("format", format, [*FORMATS, "csv"]))
    table = sources if isinstance(sources, pa.Table) else pa.concat_tables([store.records() for store in sources])
    stored = latest(table).to_pandas()
    records = stored
    if job_keys is not None:
        records = stored[pd.MultiIndex.from_frame(stored[list(KEY)]).isin(list(job_keys))]
    if records.empty:
        where = "" if isinstance(sources, pa.Table) else ", ".join(store.root for store in sources) + ": "
        raise UserError(f"{where}expected results to report, found none: run the job first, or check the folder")
    records = checked(records, stored)
    left_out = _left_out(records)
    if format == "csv":
        if left_out:
            warnings.warn(f"left out:\n{left_out}", stacklevel=2)
        return render.csv(summary(records))
    return FORMATS[format](_sections(records, left_out, None if job_keys is None else len(job_keys)))


def _sections(records: pd.DataFrame, left_out: str, planned: int | None) -> list[Section]:
    sections = [Section("Records", text=_counts(records, planned))]
    if left_out:
        sections.append(Section("Left out of the tables", text=left_out))
    for dataset, of_dataset in records[records["left_out"] == ""].groupby("dataset"):
        shown = attack_table(of_dataset)
        targets = [] if len(shown) else sorted(of_dataset["target_model"].unique())
        shown = pd.concat([shown, *(attack_table(of_dataset, target) for target in targets)])
        for (source, target), rows in shown.groupby(PAIR[1:]):
            title = "white-box" if source == target else f"transferred to {target}"
            sections.append(Section(f"{dataset}: attacks on {source}, {title}", rows.drop(columns=PAIR)))
        if (of_dataset["source_model_id"] != of_dataset["target_model_id"]).any():
            title = f"{dataset}: DSC x100 of each target (columns) under volumes made on each source (* white-box)"
            sections.append(Section(title, transfer_table(of_dataset)))
        worst = worst_case(of_dataset)
        if len(worst):
            title = f"{dataset}: worst case over attacks of one threat model and budget, case by case"
            sections.append(Section(title, worst.drop(columns=PAIR[:1])))
    failed = failures(records)
    if len(failed):
        sections.append(Section("Failed", failed))
    return [*sections, Section("How to read this", text=NOTES)]


def _left_out(records: pd.DataFrame) -> str:
    """A line for each row that the tables leave out, and the number of those beyond the first."""
    if (records["left_out"] == "").all():
        return ""
    keys = [*PAIR, "label"]
    rows = current(records)
    rows = rows[rows["left_out"] != ""].drop_duplicates(keys).sort_values(keys)
    lines = [
        f"- {dataset}: {label} on {source}" + (f", transferred to {target}" if target != source else "") + f": {reason}"
        for dataset, source, target, label, reason in rows[[*keys, "left_out"]].head(LEFT_OUT_LINES).to_numpy()
    ]
    if len(rows) > LEFT_OUT_LINES:
        lines.append(f"- and {len(rows) - LEFT_OUT_LINES:,} more rows, not run in fp32 or too far from it")
    return "\n".join(lines)


def _counts(records: pd.DataFrame, planned: int | None) -> str:
    ok = int((records["status"] == "ok").sum())
    text = f"{ok} ok, {len(records) - ok} failed"
    if planned is not None:
        text += f", {planned - len(records)} not done, of {planned}"
    former = len(records) - len(current(records))
    if former:
        text += (
            f"\n{former} of them are of a former version of a dataset, file or setting that has a newer record under "
            "the same names, and are left out below."
        )
    return text
