"""Makes tables of results, and selects the rows of a worst case. Scores are means over cases and seeds, without
undefined values. Rows are ordered by threat model, attack and budget, never by score, as threat models are not
comparable by DSC alone. Rows of a reduced precision are kept where `freqbench.analysis.precision` passes them."""

from collections.abc import Sequence

import pandas as pd

from freqbench.analysis.frames import added_scores, categorical, found_records, plain
from freqbench.analysis.labels import attack_labels, model_names
from freqbench.analysis.precision import exclude
from freqbench.analysis.scores import SCORES, shown_scores
from freqbench.core.errors import UserError, unknown
from freqbench.core.types import dataset_name
from freqbench.results import RECORDS, Store, index_keys

PAIR = ["dataset", "source_model", "target_model"]
CLEAN = "clean"
COUNTED = ("dsc_foreground", "hd95_penalised_mm", "dsc", "hd95")  # with a count of cases, such as `dsc_cases`
_CASES = [f"{name}_cases" for name in COUNTED]
_COUNTS = ["cases", "seeds", "failed", *_CASES, "hd95_undefined"]
_MEANS = [score.name for score in SCORES if score.name not in _COUNTS]
_ON_CLEAN = {score.name: score for score in SCORES if score.name in (*COUNTED, "hd95_mm")}
SUMMARY = [*PAIR, "attack", "threat_model", "budget_name", "budget", *_COUNTS, *_MEANS]
ATTACK_TABLE = [
    *PAIR,
    *("attack", "threat_model", "cases", "seeds", "failed", "dsc_foreground", "dsc_foreground_cases"),
    *("dsc_foreground_drop", "hd95_penalised_mm", "hd95_penalised_mm_cases", "dsc_cases", "dsc", "dsc_drop"),
    *("hd95", "hd95_cases", "hd95_undefined", "ssim", "ssim_body", "lpips", "lpips_body", "linf_255", "l2_body"),
]
MOVED = ("displacement_mean_mm", "displacement_max_mm", "jacobian_min")  # after ATTACK_TABLE, if the anatomy moved
ADDED = "@"  # precedes the name of another package's metric as a column, which is then no other column's


def current(records: pd.DataFrame, reference: pd.DataFrame | None = None) -> pd.DataFrame:
    """Adds `left_out` (as `exclude`, against `reference`) and `label` to `records` without; makes model names
    unambiguous. Of rows that differ in facts that no table shows (another preprocessing, a changed file), the latest is
    kept."""
    if "label" in (records := exclude(records, reference)):
        return records
    names = model_names(records)
    categories = pd.CategoricalDtype(sorted(set(names.values())))
    frame = records.assign(
        label=attack_labels(records),
        source_model=records["source_model_id"].map(names).astype(categories),
        target_model=records["target_model_id"].map(names).astype(categories),
    )
    frame = frame.sort_values("finished_at", kind="stable")
    return frame.drop_duplicates([*PAIR, "case_id", "label", "seed"], keep="last")


def job_records(store: Store, columns: Sequence[str] | None = None, former: bool = False) -> pd.DataFrame:
    """Reads the rows that a report shows of a store, in order of time: those of its job of now.

    Args:
        store: the store of a run.
        columns: names of RECORDS and of other packages' metrics (NAME, NAME_clean), in the order of the result's
            columns; None: all.
        former: return rows of former jobs, code and data too, and a column `former`, True for them.

    Returns:
        A row per key; texts are categories, datasets have their name in the job.

    Raises:
        UserError: a store that cannot be read or has no row, or no column of a name.
    """
    known = [column.name for column in RECORDS]
    read = None if columns is None else [*columns, "dsc", "added_metrics"]
    keys = set() if store.is_empty else index_keys(store.job()["index"])
    stored, of_job = found_records([store], keys, read, may_be_empty=former)
    shown = current(of_job, stored).index
    rows = stored.assign(former=~stored.index.isin(shown)) if former else stored.loc[shown]
    rows = rows.join(added_scores(rows))
    for name in columns or ():
        if name not in rows:
            raise UserError(f"{store.root}: {unknown('column', name, {*known, *rows})}")
    if columns is not None:
        rows = rows[[*columns, *(["former"] if former else [])]]
    if "dataset" in rows:
        plain_names = rows["dataset"].astype(object).map(dataset_name)  # as `reference` and `scored_on` tell it
        rows = rows.assign(dataset=plain_names.astype("category"))
    texts = [name for name in rows if isinstance(rows[name].dtype, pd.CategoricalDtype)]
    used = {name: rows[name].cat.remove_unused_categories() for name in texts}
    return categorical(rows.assign(**used)).copy()


def summary(records: pd.DataFrame) -> pd.DataFrame:
    """Makes one row per dataset, source, target and attack, after a `clean` row per dataset and target (no source). The
    `records` have columns of RECORDS, one row per key. Columns are SUMMARY, and `@NAME` of other packages' metrics, as
    stored. Dice, SSIM, LPIPS (1 - distance) and `voxel_success` x100; drops are the mean over cases of clean minus
    attacked; `dsc` is over the `dsc_cases` rows that have one, `hd95` in voxels with `hd95_undefined` classes left out;
    `linf_255` in 1/255."""
    frame = current(records)
    frame = frame[frame["left_out"] == ""]
    scores = added_scores(frame).add_prefix(ADDED)
    frame = frame.join(scores)
    added = [name for name in map(str, scores) if not name.endswith("_clean")]
    rows = pd.concat([plain(_clean_rows(frame, added)), plain(_attack_rows(frame, added))], ignore_index=True)
    rows = rows.astype(dict.fromkeys(_COUNTS, "Int64"))
    rows["_attacked"] = rows["attack"] != CLEAN
    order = [*PAIR[:1], "_attacked", *PAIR[1:], "threat_model", "_name", "budget", "attack"]
    return rows.sort_values(order, kind="stable", ignore_index=True)[[*SUMMARY, *added]]


def attack_table(rows: pd.DataFrame, target: str | None = None) -> pd.DataFrame:
    """Selects ATTACK_TABLE (and MOVED) of `rows` of a summary, the target's `clean` row first; `target` None:
    white-box."""
    attacked = rows[rows["attack"] != CLEAN]
    attacked = attacked[attacked["target_model"] == (attacked["source_model"] if target is None else target)]
    clean = rows[rows["attack"] == CLEAN].drop(columns="source_model")
    clean = attacked[PAIR].drop_duplicates().merge(clean, on=["dataset", "target_model"])
    both = pd.concat([clean, attacked], ignore_index=True)
    moved = [name for name in MOVED if both[name].notna().any()]
    return both.sort_values(PAIR, kind="stable", ignore_index=True)[[*ATTACK_TABLE, *moved]]


def transfer_table(rows: pd.DataFrame, score: str = "dsc_foreground") -> pd.DataFrame:
    """Spreads a score of `rows`, a dataset's summary: a row an attack and source after the `clean` row; targets are
    columns."""
    keys = ["attack", "threat_model", "source_model"]
    order = rows[keys].drop_duplicates()
    order = order.assign(_first=order["attack"].map({name: n for n, name in enumerate(order["attack"].unique())}))
    order = order.sort_values(["_first", "source_model"], kind="stable")[keys]
    return order.merge(rows.pivot(index=keys, columns="target_model", values=score).reset_index(), on=keys, how="left")


def failures(records: pd.DataFrame) -> pd.DataFrame:
    """Lists failed records: `dataset`, `source_model`, `target_model`, `attack`, their number and the first reason."""
    frame = current(records)
    frame = frame[frame["status"] == "failed"].drop(columns="attack").rename(columns={"label": "attack"})
    frame = plain(frame[[*PAIR, "attack", "status", "error"]])
    groups = frame.groupby([*PAIR, "attack"], as_index=False, dropna=False)
    return groups.agg(failed=("status", "size"), first_reason=("error", "first"))


def comparable(frame: pd.DataFrame) -> pd.DataFrame:
    """Selects of a `frame`, all of whose rows have a score, the attacks (`label`) and cases that all models
    (`target_model`) have one for."""
    models = frame["target_model"].nunique()
    attacked = frame.groupby("label", observed=True)["target_model"].transform("nunique")
    shared = frame[attacked == models]
    attacks = shared.groupby(["target_model", "case_id"], observed=True)["label"].transform("nunique")
    complete = shared[attacks == shared.groupby("target_model", observed=True)["label"].transform("nunique")]
    return complete[complete.groupby("case_id", observed=True)["target_model"].transform("nunique") == models]


def case_minima(frame: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Selects, for each `case_id` of each group of a `frame`, by the columns `by`, the row with the lowest `_score` of
    any attack and seed."""
    lowest = frame.sort_values("_score", kind="stable").drop_duplicates([*by, "case_id"])
    return lowest.sort_values([*by, "case_id"], kind="stable", ignore_index=True)


def _attack_rows(frame: pd.DataFrame, added: Sequence[str]) -> pd.DataFrame:
    is_ok = frame["status"] == "ok"
    scores = pd.DataFrame(shown_scores(frame))
    frame = pd.concat([frame.drop(columns=[*scores], errors="ignore"), scores], axis=1)
    frame = frame.assign(_name=frame["attack"], attack=frame["label"], _failed=~is_ok)
    frame = frame.assign(_case=frame["case_id"].where(is_ok), _seed=frame["seed"].where(is_ok))
    by = [*PAIR, "attack", "_name", "threat_model", "budget_name", "budget"]
    groups = frame.groupby(by, observed=True, dropna=False)
    rows = groups[[*_MEANS, *added]].mean()
    rows[_CASES] = groups[[*COUNTED]].count()
    rows[["cases", "seeds"]] = groups[["_case", "_seed"]].nunique()
    undefined = groups["hd95_undefined"].sum(min_count=1)
    return rows.assign(failed=groups["_failed"].sum(), hd95_undefined=undefined).reset_index()


def _clean_rows(frame: pd.DataFrame, added: Sequence[str]) -> pd.DataFrame:
    """Scores the models on the clean volumes: each case once, whatever attacked it."""
    scores = {name: each.scale * frame[f"{each.source}_clean"].astype(float) for name, each in _ON_CLEAN.items()}
    scores |= {name: frame[f"{name}_clean"] for name in added}
    cases = frame.assign(**scores).groupby(["dataset", "target_model", "case_id"], observed=True)[[*scores]].first()
    groups = cases[cases.notna().any(axis=1)].groupby(["dataset", "target_model"], observed=True)
    rows = groups.mean().assign(cases=groups.size())
    rows[_CASES] = groups[[*COUNTED]].count()
    return rows.reset_index().assign(source_model="", attack=CLEAN, _name="", threat_model="")
