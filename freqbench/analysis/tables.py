"""Tables of results: pure functions from records to data frames.

Scores are means over cases and seeds that leave undefined values out (their number is stated), then x100 where the
papers do so. Rows are ordered by threat model, attack and budget and never by score: attacks of different threat
models are not comparable by DSC alone, so the distances stand in the same row. Rows of a reduced precision stand there
where the strength check lets them (`freqbench.analysis.strength`).
"""

import pandas as pd

from freqbench.analysis.frames import plain
from freqbench.analysis.labels import attack_labels, model_names
from freqbench.analysis.strength import checked

PAIR = ["dataset", "source_model", "target_model"]
CLEAN = "clean"

_PERCENT = {
    "dsc": "dsc",
    "dsc_drop": "dsc_drop",
    "dsc_foreground": "dsc_foreground",
    "dsc_foreground_drop": "dsc_foreground_drop",
    "ssim": "ssim",
    "ssim_body": "ssim_body",
    "lpips": "lpips_similarity",
    "lpips_body": "lpips_body_similarity",
    "voxel_success": "voxel_success",
}
_PLAIN = {
    "hd95": "hd95",
    "hd95_mm": "hd95_mm",
    "hd95_medpy_mm": "hd95_medpy_mm",
    "hd95_penalised_mm": "hd95_penalised",
    "psnr": "psnr",
    "linf_255": "linf",
    "l2": "l2",
    "l2_body": "l2_body",
    "energy_low": "energy_low",
    "energy_middle": "energy_middle",
    "energy_high": "energy_high",
    "seam_energy": "seam_energy",
    "forwards": "num_forwards",
    "backwards": "num_backwards",
    "attack_seconds": "attack_seconds",
}
_ON_CLEAN = {
    "dsc": "dsc_clean",
    "dsc_foreground": "dsc_foreground_clean",
    "hd95": "hd95_clean",
    "hd95_mm": "hd95_mm_clean",
    "hd95_penalised_mm": "hd95_penalised_clean",
}
_DROPS = {"dsc_foreground_drop", "dsc_drop"}
_SCORED = {
    "dsc_foreground_cases": "dsc_foreground",
    "hd95_penalised_mm_cases": "hd95_penalised",
    "dsc_cases": "dsc",
    "hd95_cases": "hd95",
}
_COUNTS = ["cases", "seeds", "failed", *_SCORED, "hd95_undefined"]
SUMMARY = [*PAIR, "attack", "threat_model", "budget_name", "budget", *_COUNTS, *_PERCENT, *_PLAIN]
ATTACK_TABLE = [
    *PAIR,
    *("attack", "threat_model", "cases", "seeds", "failed", "dsc_foreground", "dsc_foreground_cases"),
    *("dsc_foreground_drop", "hd95_penalised_mm", "hd95_penalised_mm_cases", "dsc_cases", "dsc", "dsc_drop"),
    *("hd95", "hd95_cases", "hd95_undefined", "ssim", "ssim_body", "lpips", "lpips_body"),
    *("linf_255", "l2_body"),
]


def current(records: pd.DataFrame) -> pd.DataFrame:
    """Records with a `label` a row and unambiguous model names, without those of former versions.

    Two rows of one dataset, case, models, attack and seed differ in what a table does not show (another preprocessing,
    a changed file): only the latest is kept, as their mean would be of nothing. Records that have labels are returned
    as they are: parts of a frame keep the names that tell all of it apart.
    """
    if "label" in records:
        return records
    names = model_names(records)
    known = pd.CategoricalDtype(sorted(set(names.values())))
    frame = records.assign(
        label=attack_labels(records),
        source_model=records["source_model_id"].map(names).astype(known),
        target_model=records["target_model_id"].map(names).astype(known),
    )
    frame = frame.sort_values("finished_at", kind="stable")
    return frame.drop_duplicates([*PAIR, "case_id", "label", "seed"], keep="last")


def summary(records: pd.DataFrame) -> pd.DataFrame:
    """One row a dataset, source, target and attack, after one `clean` row a dataset and target (without a source).

    Args:
        records: columns of `freqbench.results.RECORDS`, one row a key; with the column `left_out` of `checked`, or they
            are checked among themselves.

    Returns:
        The columns of SUMMARY. `dsc`, `dsc_foreground`, `ssim`, `ssim_body`, `lpips` and `lpips_body` (1 - distance)
        and `voxel_success` x100; `dsc_foreground_drop` and `dsc_drop` in the same points, the mean over cases of clean
        minus attacked; `dsc` is over the `dsc_cases` rows that have one, and so on, `hd95` in voxels with
        `hd95_undefined` classes left out in all; `linf_255` in 1/255.
    """
    frame = current(checked(records))
    frame = frame[frame["left_out"] == ""]
    frame = frame.assign(lpips_body_similarity=1 - frame["lpips_body"].astype(float))
    sources = {*_PERCENT.values(), *_PLAIN.values(), *_ON_CLEAN.values(), "hd95_undefined_classes"} - _DROPS
    frame = frame.astype(dict.fromkeys(sources, float))
    rows = pd.concat([plain(_clean_rows(frame)), plain(_attack_rows(frame))], ignore_index=True)
    rows[list(_PERCENT)] *= 100
    rows["linf_255"] *= 255
    rows = rows.astype(dict.fromkeys(_COUNTS, "Int64"))
    rows["_attacked"] = rows["attack"] != CLEAN
    order = [*PAIR[:1], "_attacked", *PAIR[1:], "threat_model", "_name", "budget", "attack"]
    return rows.sort_values(order, kind="stable", ignore_index=True)[SUMMARY]


def attack_table(records: pd.DataFrame, target: str | None = None) -> pd.DataFrame:
    """What each attack does, for each source model after its `clean` row.

    Args:
        records: as in `summary`.
        target: the model whose prediction is scored; None: the source itself (white-box).

    Returns:
        The columns of ATTACK_TABLE, grouped by dataset and source model. The clean row is of the target.
    """
    rows = summary(records)
    attacked = rows[rows["attack"] != CLEAN]
    wanted = attacked["source_model"] if target is None else target
    attacked = attacked[attacked["target_model"] == wanted]
    clean = rows[rows["attack"] == CLEAN].drop(columns="source_model")
    clean = attacked[PAIR].drop_duplicates().merge(clean, on=["dataset", "target_model"])
    both = pd.concat([clean, attacked], ignore_index=True)
    return both.sort_values(PAIR, kind="stable", ignore_index=True)[ATTACK_TABLE]


def transfer_table(records: pd.DataFrame, score: str = "dsc_foreground") -> pd.DataFrame:
    """A score of every attack: a row an attack and source model, a column a target model, after the `clean` row.

    Args:
        records: as in `summary`, of one dataset.
        score: a column of SUMMARY.

    Returns:
        Columns `attack`, `threat_model`, `source_model`, then the targets by name.

    Raises:
        ValueError: records of several datasets.
    """
    if records["dataset"].nunique() > 1:
        raise ValueError("transfer_table: expected records of one dataset: filter them first")
    rows = summary(records)
    keys = ["attack", "threat_model", "source_model"]
    order = rows[keys].drop_duplicates()
    order = order.assign(_first=order["attack"].map({name: n for n, name in enumerate(order["attack"].unique())}))
    order = order.sort_values(["_first", "source_model"], kind="stable")[keys]
    wide = rows.pivot(index=keys, columns="target_model", values=score).reset_index()
    return order.merge(wide, on=keys, how="left")


def transfer_matrix(records: pd.DataFrame, attack: str, drop: bool = False) -> pd.DataFrame:
    """Source x target of one attack; the diagonal is white-box.

    Args:
        records: as in `summary`, of one dataset.
        attack: its text in the `attack` column of the other tables, such as `pgd eps=8/255`.
        drop: points lost against clean instead of the foreground DSC x100 that is left (which has a `clean` row first).

    Returns:
        Index `source_model`, a column a target model; NaN where nothing was scored.

    Raises:
        ValueError: records of several datasets, or no such attack.
    """
    rows = summary(records)
    if rows["dataset"].nunique() > 1:
        raise ValueError("transfer_matrix: expected records of one dataset: filter them first")
    known = rows.loc[rows["attack"] != CLEAN, "attack"].unique()
    if attack not in known:
        raise ValueError(f"transfer_matrix: no attack {attack!r} among {', '.join(known)}")
    found = rows[rows["attack"] == attack]
    score = "dsc_foreground_drop" if drop else "dsc_foreground"
    matrix = found.pivot(index="source_model", columns="target_model", values=score)
    if not drop:
        clean = rows[rows["attack"] == CLEAN].set_index("target_model")[score].reindex(matrix.columns)
        matrix = pd.concat([clean.to_frame(CLEAN).T, matrix])
    return matrix.rename_axis(index="source_model", columns="target_model")


def failures(records: pd.DataFrame) -> pd.DataFrame:
    """Failed records: `dataset`, `source_model`, `target_model`, `attack`, their number and the first reason."""
    frame = current(records)
    frame = frame[frame["status"] == "failed"].drop(columns="attack").rename(columns={"label": "attack"})
    frame = plain(frame[[*PAIR, "attack", "status", "error"]])
    groups = frame.groupby([*PAIR, "attack"], as_index=False, dropna=False)
    return groups.agg(failed=("status", "size"), first_reason=("error", "first"))


def _attack_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Means of the ok rows and counts of all."""
    is_ok = frame["status"] == "ok"
    frame = frame.assign(
        _name=frame["attack"],
        attack=frame["label"],
        dsc_foreground_drop=frame["dsc_foreground_clean"] - frame["dsc_foreground"],
        dsc_drop=frame["dsc_clean"] - frame["dsc"],
        _case=frame["case_id"].where(is_ok),
        _seed=frame["seed"].where(is_ok),
        _failed=~is_ok,
    )
    groups = frame.groupby([*PAIR, "attack", "_name", "threat_model", "budget_name", "budget"], dropna=False)
    means = {name: groups[column].mean() for name, column in (_PERCENT | _PLAIN).items()}
    undefined = frame["hd95_undefined_classes"].groupby([frame[name] for name in groups.keys], dropna=False)
    counts = {
        "cases": groups["_case"].nunique(),
        "seeds": groups["_seed"].nunique(),
        "failed": groups["_failed"].sum(),
        **{name: groups[column].count() for name, column in _SCORED.items()},
        "hd95_undefined": undefined.sum(min_count=1),
    }
    return pd.DataFrame(counts | means).reset_index()


def _clean_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """What the models predict on the clean volumes: each case once, whatever attacked it."""
    cases = frame.groupby(["dataset", "target_model", "case_id"])[list(_ON_CLEAN.values())].first()
    groups = cases[cases.notna().any(axis=1)].groupby(["dataset", "target_model"])
    means = {name: groups[column].mean() for name, column in _ON_CLEAN.items()}
    counts = {
        "cases": groups.size(),
        **{name: groups[f"{column}_clean"].count() for name, column in _SCORED.items()},
    }
    rows = pd.DataFrame(counts | means).reset_index()
    return rows.assign(source_model="", attack=CLEAN, _name="", threat_model="")
