"""The page that answers which attacks break which networks, white-box and transferred."""

from collections.abc import Callable, Collection, Mapping, Sequence

import pandas as pd
import pyarrow as pa

from freqbench.errors import UserError, unknown
from freqbench.reporting import render
from freqbench.reporting.render import Section
from freqbench.reporting.tables import PAIR, attack_table, current, failures, summary, transfer_table
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

    Raises:
        UserError: no such format, nothing to show, or a store that cannot be read.
    """
    if format not in (*FORMATS, "csv"):
        raise UserError(unknown("format", format, [*FORMATS, "csv"]))
    table = sources if isinstance(sources, pa.Table) else pa.concat_tables([store.records() for store in sources])
    records = latest(table).to_pandas()
    if job_keys is not None:
        records = records[pd.MultiIndex.from_frame(records[list(KEY)]).isin(list(job_keys))]
    if records.empty:
        where = "" if isinstance(sources, pa.Table) else ", ".join(store.root for store in sources) + ": "
        raise UserError(f"{where}expected results to report, found none: run the job first, or check the folder")
    if format == "csv":
        return render.csv(summary(records))
    return FORMATS[format](_sections(records, None if job_keys is None else len(job_keys)))


def _sections(records: pd.DataFrame, planned: int | None) -> list[Section]:
    sections = [Section("Records", text=_counts(records, planned))]
    for dataset, of_dataset in records.groupby("dataset"):
        shown = attack_table(of_dataset)
        targets = [] if len(shown) else sorted(of_dataset["target_model"].unique())
        shown = pd.concat([shown, *(attack_table(of_dataset, target) for target in targets)])
        for (source, target), rows in shown.groupby(PAIR[1:]):
            title = "white-box" if source == target else f"transferred to {target}"
            sections.append(Section(f"{dataset}: attacks on {source}, {title}", rows.drop(columns=PAIR)))
        if (of_dataset["source_model_id"] != of_dataset["target_model_id"]).any():
            title = f"{dataset}: DSC x100 of each target (columns) under volumes made on each source (* white-box)"
            sections.append(Section(title, transfer_table(of_dataset)))
    failed = failures(records)
    if len(failed):
        sections.append(Section("Failed", failed))
    return [*sections, Section("How to read this", text=NOTES)]


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
