"""Reads records and class records as frames: only the columns asked for, texts as sorted categoricals: a tenth as
large, grouped ten times as fast. Source and target share theirs, so that the two can be compared."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from freqbench.core.errors import UserError
from freqbench.core.types import AGREEMENT, IN_FILE
from freqbench.results import KEY, RECORDS, Key, Store, latest
from freqbench.results.releases import mixture
from freqbench.results.schema import COMMIT, added_values

IDENTITY = (  # columns that every table needs to identify its rows
    *KEY,
    *("source_model_id", "dataset", "reference", "scored_on", "case_id", "patient_id", "source_model", "target_model"),
    *("attack", "variant", "params", "budget_name", "budget", "threat_model", "seed", "precision", "compile"),
    *("num_classes", "status", "error", "null_reasons", "run_id", "finished_at", "releases", "clean_number"),
)
CLASSES = (
    *(*KEY, "class_index", "class_name", "label_voxels", "pred_voxels", "pred_voxels_clean"),
    *("dsc", "dsc_clean", "hd95_mm", "hd95_mm_clean"),
)
STATED = "stated"
_SAME = (("source_model", "target_model"), ("source_model_id", "target_model_id"))


def records_frame(sources: Sequence[Store], columns: Collection[str] | None = None) -> pd.DataFrame:
    """Reads IDENTITY and `columns` (None: all) of one row per key of the stores `sources`: ok before failed, then the
    latest."""
    names = [column.name for column in RECORDS if columns is None or column.name in {*columns, *IDENTITY}]
    tables = [store.records(names, coded=True) for store in sources]
    table = tables[0] if len(tables) == 1 else latest(pa.concat_tables(tables).unify_dictionaries())
    return categorical(table.to_pandas())


def found_records(
    sources: Sequence[Store],
    job_keys: Collection[Key] | None,
    columns: Collection[str] | None = None,
    may_be_empty: bool = False,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Reads all rows of `records_frame`, and selects those of interest. Datasets' names end in AGREEMENT (`reference:
    prediction`) or IN_FILE (file's grids), so that no mean mixes scores.

    Args:
        sources: stores, one or several.
        job_keys: keys of the job of interest; None: all.
        columns: of RECORDS, beside IDENTITY; None: all.
        may_be_empty: no row of interest is no error.

    Returns:
        All rows, and those of interest.

    Raises:
        UserError: a store cannot be read, or has no row of interest.
    """
    stored = records_frame(sources, columns)
    for is_other, mark in ((stored["scored_on"] == "file", IN_FILE), (stored["reference"] == "prediction", AGREEMENT)):
        if is_other.any():
            names = stored["dataset"].astype(object)
            stored = stored.assign(dataset=names.where(~is_other, names + mark).astype("category"))
    if (records := stored if job_keys is None else select_job(stored, job_keys)).empty and not may_be_empty:
        where = ", ".join(store.root for store in sources)
        raise UserError(f"{where}: expected results to report, found none: run the job first, or check the folder")
    return stored, records


def caption_of(records: pd.DataFrame, runs: Iterable[Mapping[str, Any]], with_clean: bool = True) -> str | None:
    """Returns what a table says of records by stores' `runs`: several releases, and, unless `with_clean` is false,
    clean numbers' proofs; None if there is nothing to say."""
    counts = records.groupby(["releases", "run_id"], observed=True, dropna=False).size().reset_index()
    origins = counts.itertuples(index=False, name=None)
    mixed = mixture({(text if isinstance(text, str) else None, run_id): rows for text, run_id, rows in origins}, runs)
    said = records[["clean_number", "dataset", "target_model"]].dropna().drop_duplicates().itertuples(index=False)
    lines = [f"{model} on {dataset}: {words}" for words, dataset, model in said if words != STATED and with_clean]
    return "\n\n".join(filter(None, (mixed, f"Clean number: {'; '.join(lines)}." if lines else None))) or None


def classes_frame(sources: Sequence[Store], records: pd.DataFrame) -> pd.DataFrame:
    """Reads CLASSES of records of `records_frame` from the stores `sources`; if several stores have a key, those of its
    row in `records`."""
    if len(sources) == 1:
        return categorical(sources[0].class_records(CLASSES, coded=True).to_pandas())
    tables = [store.class_records(tuple(dict.fromkeys((*COMMIT, *CLASSES))), coded=True) for store in sources]
    frame = plain(pa.concat_tables(tables).unify_dictionaries().to_pandas())
    frame = frame.merge(plain(records[list(COMMIT)]), on=list(COMMIT)).drop_duplicates([*KEY, "class_index"])
    texts = [name for name in frame.columns if pd.api.types.is_object_dtype(frame[name])]
    return categorical(frame.astype(dict.fromkeys(texts, "category")))


def added_scores(records: pd.DataFrame) -> pd.DataFrame:
    """Returns values of other packages' metrics, columns NAME and NAME_clean, with the records' index; NaN: none."""
    texts = records["added_metrics"].astype(object) if "added_metrics" in records else pd.Series(dtype=object)
    values = [added_values(text) if isinstance(text, str) else {} for text in texts] if texts.notna().any() else []
    names: dict[str, Any] = {}
    for row in values:
        names |= row
    columns = list[str]()
    for name in dict.fromkeys(name.removesuffix("_clean") for name in names):
        columns += [name, f"{name}_clean"]
    return pd.DataFrame(values or None, index=records.index, columns=columns, dtype=float)


def added_texts(records: pd.DataFrame) -> list[str]:
    """Lists the other packages' metrics that records cover, `NAME@PACKAGE VERSION SOURCE`, in order."""
    listed = ",".join(records["metrics"].dropna().unique())
    return sorted({name for name in listed.split(",") if "@" in name})


def joined_classes(records: pd.DataFrame, classes: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Selects of `classes` (CLASS_RECORDS) the rows whose record is among the records, and adds these columns of it."""
    keys = list(KEY)
    placed = records[[*keys, *columns]].astype(dict.fromkeys(keys, "category"))
    # The same categories, as codes are joined faster than texts.
    coded = {name: classes[name].astype("category").cat.set_categories(placed[name].cat.categories) for name in keys}
    return classes.assign(**coded).dropna(subset=keys).merge(placed, on=keys)


def select_job(frame: pd.DataFrame, job_keys: Collection[Key]) -> pd.DataFrame:
    """Selects the rows of a `frame` with KEY that have one of `job_keys`."""
    wanted = frozenset(job_keys)  # a look-up per row is faster than an index of as many keys
    columns = [frame[name].to_numpy(object) for name in KEY]
    return frame[np.fromiter((key in wanted for key in zip(*columns, strict=True)), bool, len(frame))]


def categorical(frame: pd.DataFrame) -> pd.DataFrame:
    """Turns the texts of a `frame` into categoricals with sorted categories, the same for source and target."""
    texts = [name for name in frame.columns if pd.api.types.infer_dtype(frame[name]) in ("categorical", "string")]
    coded = frame.astype(dict.fromkeys(texts, "category"))
    shared: dict[str, tuple[str, ...]] = {}
    for pair in _SAME:
        if set(pair) <= {*texts}:
            shared |= dict.fromkeys(pair, pair)
    for name in texts:
        categories = set[str]().union(*(coded[each].cat.categories for each in shared.get(name, (name,))))
        coded[name] = coded[name].cat.set_categories(sorted(categories))
    return coded


def plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Turns the categoricals of a `frame` into texts: for results, which are few."""
    coded = [name for name in frame.columns if isinstance(frame[name].dtype, pd.CategoricalDtype)]
    return frame.astype(dict.fromkeys(coded, object)).copy()  # else each column is a block of its own, and pandas warns
