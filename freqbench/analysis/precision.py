"""Leaves rows of a reduced precision out of tables unless fp32 gives the same DSC."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

PLAIN: Mapping[str, Any] = {"precision": "fp32", "compile": False}
MAX_POINTS = 0.2
NOT_RUN = "not run in fp32 on the same cases: run the job with precision: fp32 and compile: false too"
NO_DSC = "no DSC to compare with fp32: run both with the metric dsc, and see what failed"
_SETTING = ["dataset", "source_model_id", "target_model_id", "attack", "variant", "params"]
_VOLUME = [*_SETTING, "case_key", "seed"]


def exclude(records: pd.DataFrame, reference: pd.DataFrame | None = None) -> pd.DataFrame:
    """Adds the column `left_out`: why a row is kept out of the tables, `""` if it is not. A setting (dataset, source,
    target, attack with all parameters) not in plain fp32 is compared with the same in fp32 over the cases and seeds,
    files and preprocessing that both have: |mean(DSC) - mean(DSC in fp32)| x 100 may be at most MAX_POINTS.

    Args:
        records: as in `tables.summary`; those that have the column are returned unchanged.
        reference: searched for the rows in fp32, such as all rows of the stores; None: `records`.
    """
    if "left_out" in records:
        return records
    is_reduced = ~is_plain(records)
    reduced = records[is_reduced]
    records = records.assign(left_out="")
    if reduced.empty:
        return records
    plain = records if reference is None else reference
    plain = plain[is_plain(plain)].sort_values("finished_at", kind="stable").drop_duplicates(_VOLUME, keep="last")
    keys = [*_SETTING, *PLAIN]
    latest = reduced.sort_values("finished_at", kind="stable").drop_duplicates([*keys, "case_id", "seed"], keep="last")
    latest = latest[[*keys, "case_key", "seed", "dsc"]]
    pairs = latest.merge(plain[[*_VOLUME, "dsc"]], on=_VOLUME, suffixes=(None, "_fp32"))
    differences = pairs.assign(left_out=pairs["dsc"].astype(float) - pairs["dsc_fp32"].astype(float))
    settings = differences.groupby(keys, as_index=False, observed=True, dropna=False)["left_out"].mean()
    points = (100 * settings["left_out"].abs()).round(6)  # 0.502 - 0.5 is a little more than 0.2 points in binary
    beyond = [f"{by:.2f} DSC points from fp32, more than {MAX_POINTS}" if by > MAX_POINTS else "" for by in points]
    settings["left_out"] = pd.Series(beyond, settings.index, object).mask(points.isna(), NO_DSC)
    reasons = reduced[keys].merge(settings, on=keys, how="left")["left_out"].fillna(NOT_RUN)
    records.loc[is_reduced, "left_out"] = reasons.to_numpy()
    return records


def is_plain(records: pd.DataFrame) -> pd.Series:
    """True for each row of `records` that was computed in fp32 without compile."""
    return pd.Series((records["precision"] == PLAIN["precision"]) & (records["compile"] == PLAIN["compile"]))
