"""Shows how far an attack on one model carries to models it never saw. The transfer rate from s to t is 100 x
(mean drop of t) / (mean drop of s) of foreground DSC over the same volumes made on s; undefined where the white-box
drop is below MIN_DROP points. An attack's rate is the mean over its ordered pairs s != t whose rate is defined; its
interval is over patients, each with all pairs' volumes."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from freqbench.analysis import groups
from freqbench.analysis.frames import plain
from freqbench.analysis.groups import ATTACK, points
from freqbench.analysis.statistics import Array, Statistic, statistic_intervals
from freqbench.reporting.render import Section

MIN_DROP = 1.0
PAIR = ["source_model", "target_model"]
DROP = "dsc_foreground_drop"
UNBOUNDED = "none"
OF_MODELS = {  # new names of models that are called like a column of a table
    name: f"{name} (model)" for name in (*ATTACK, "source_model", "attack", "made on", "drop", "null row", "SSIM body")
}
DISTANCES = ["ssim_body", "lpips_body", "l2_body"]

HOW_MATRIX = (
    "Each cell is the mean drop of the target's foreground DSC in points (clean minus attacked) under volumes made on "
    "the source, and in brackets that drop in per cent of the white-box drop of the source on the same volumes; * is "
    f"white-box. The per cent are left empty where the white-box drop is below {MIN_DROP:g} point: nothing was there "
    "to transfer. "
)
HOW_RATES = (
    "The rate is the mean over all ordered pairs of different models of (drop of the target) / (white-box drop of the "
    "source) in per cent, over the same volumes; drops are points of foreground DSC. A high rate of a weak attack is "
    "still a weak attack, so the points stand beside it. Ranks compare attacks of one threat model and budget. They "
    "are not tested. Null rows (`control=...`) and attacks without a bound have no rank. Pairs with a white-box drop "
    f"below {MIN_DROP:g} point have no rate and are counted as undefined. "
)
ONE_MODEL = (
    "Every volume was scored by the model that it was made on only, so nothing is known about transfer: give "
    "the job several models and `targets: all`."
)
NO_WHITE_BOX = (
    "No transferred volume was also scored by the model that it was made on, so no drop can be set against a "
    "white-box drop: run the sources as targets too."
)


def transfer(records: pd.DataFrame) -> list[Section]:
    """Shows of `records` with DISTANCES, for each dataset, transfer rates by attack, and source x target matrices."""
    sections = []
    for dataset, group in groups.by_dataset(groups.select_scored(records, DISTANCES)):
        if (carried := _carried_drops(group)).empty:
            is_alone = groups.is_white_box(group).all()
            sections.append(Section(f"{dataset}: transfer", text=ONE_MODEL if is_alone else NO_WHITE_BOX))
            continue
        rates, pairs = _rates(carried)
        sections += [_ranking(dataset, group, rates), _matrix(dataset, group, pairs)]
    return sections or [Section("Transfer", text="No attack was scored, so there is no transfer to show.")]


def _carried_drops(frame: pd.DataFrame) -> pd.DataFrame:
    """Makes one row per transferred volume whose white-box drop is known: `drop` of the target, `own` of the source."""
    frame = frame[frame[DROP].notna()]
    keys = [*ATTACK, "source_model", "case_id", "seed"]
    volume = frame.groupby(keys, observed=True, dropna=False, sort=False).ngroup().to_numpy()
    white = groups.is_white_box(frame).to_numpy()
    white_drops = np.full(volume.max(initial=-1) + 1, np.nan)
    white_drops[volume[white]] = frame[DROP].to_numpy()[white]
    carried = frame.loc[~white, [*ATTACK, *PAIR, "case_id", "patient_id", "seed", DROP]].rename(columns={DROP: "drop"})
    return carried.assign(own=white_drops[volume[~white]]).dropna(subset="own")


def _rates(carried: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Computes `rate`, `low` and `high` in per cent, of each attack and of each of its pairs."""
    keys = [*ATTACK, *PAIR]
    values = ["drop", "own"]
    pairs = plain(carried.groupby(keys, observed=True)[values].mean().reset_index())
    of_patients = carried.groupby([*keys, "patient_id"], observed=True)[values]
    sums = of_patients.sum().unstack(fill_value=0.0)
    counts = of_patients.size().unstack(fill_value=0).to_numpy(float)
    drops = sums["drop"].to_numpy()
    owns = sums["own"].to_numpy()
    is_defined = (pairs["own"] >= MIN_DROP).to_numpy()
    of_attacks = []
    of_pairs = np.empty((len(pairs), 3))
    for (label, threat_model), group in pairs.groupby(ATTACK):
        rows = group.index.to_numpy()
        seen = counts[rows].any(axis=0)
        count = counts[rows][:, seen]
        both = np.vstack([drops[rows], owns[rows]])[:, seen]
        patients = np.array([seen.sum(), *(count > 0).sum(axis=1)])
        bounds = statistic_intervals(both, np.vstack([count, count]), _shares(is_defined[rows]), patients)
        of_attacks.append((label, threat_model, *bounds[0], len(rows), int((~is_defined[rows]).sum())))
        of_pairs[rows] = bounds[1:]
    columns = [*ATTACK, "rate", "rate_low", "rate_high", "pairs", "undefined"]
    pairs[["rate", "low", "high"]] = of_pairs
    return pd.DataFrame(of_attacks, columns=columns), pairs


def _shares(is_defined: NDArray[np.bool_]) -> Statistic:
    """Maps the pairs' drops, then the sources' own, to the mean rate of the pairs that have one, then each pair's."""

    def rates(means: Array) -> Array:
        drops, white_drops = np.split(means, 2)
        each = np.where(is_defined[:, None] & (white_drops != 0), 100 * drops / white_drops, np.nan)
        is_known = ~np.isnan(each)
        return np.vstack([np.where(is_known, each, 0).sum(axis=0) / is_known.sum(axis=0), each])

    return rates


def _ranking(dataset: str, frame: pd.DataFrame, rates: pd.DataFrame) -> Section:
    white = groups.is_white_box(frame)
    white_drops = plain(frame[white].groupby(ATTACK, observed=True)[DROP].mean().rename("white_box").reset_index())
    rows = groups.group_means(frame[~white], ATTACK, DROP, ["hd95_penalised", "drop", *DISTANCES])
    rows = groups.add_settings(rates.merge(rows, on=ATTACK).merge(white_drops, on=ATTACK), frame)
    rows = rows.assign(budget_text=groups.budget_texts(rows).astype(object))
    is_ranked = (rows["threat_model"] != UNBOUNDED) & ~groups.is_null_row(rows) & ~groups.is_minimal(rows)
    ranked = rows.assign(budget_name=rows["budget_name"].fillna(""), rate=rows["rate"].where(is_ranked))
    budgets = ranked.groupby(["threat_model", "budget_name", "budget_text"])
    rows["rank"] = budgets["rate"].rank(ascending=False, method="min").astype("Int64")
    rows = rows.sort_values(["threat_model", "budget_name", "budget", "rank"], kind="stable", ignore_index=True)
    rows = rows.astype(dict.fromkeys(DISTANCES, float))
    rows["ssim_body"] = 100 * rows["ssim_body"]
    rows["lpips_body"] = 100 * (1 - rows["lpips_body"])
    names = {"label": "attack", "rate": "rate %"}
    table = rows[["threat_model", "rank", "label", "cases", "seeds", "patients", "rate"]].rename(columns=names)
    table["interval"] = groups.bounds(rows, "rate_")
    drops = {"white-box drop": rows["white_box"], "transferred drop": rows[DROP]}
    table = table.assign(pairs=rows["pairs"], undefined=rows["undefined"], **drops, **groups.side_columns(rows))
    table = table.assign(dsc_drop=rows["drop"]).join(rows[DISTANCES])
    data = rows.drop(columns=["attack", "budget_text"]).assign(dataset=dataset)
    return Section(f"{dataset}: transfer rate of each attack", table, HOW_RATES + groups.counts_text(rows), data)


def _matrix(dataset: str, frame: pd.DataFrame, pairs: pd.DataFrame) -> Section:
    rows = groups.add_settings(groups.group_means(frame, [*ATTACK, *PAIR], DROP, ["hd95_penalised", "drop"]), frame)
    rates = pairs.rename(columns={"low": "rate_low", "high": "rate_high", "own": "white_box_drop"})
    keys = [*ATTACK, *PAIR]
    rows = rows.merge(rates[[*keys, "rate", "rate_low", "rate_high", "white_box_drop"]], on=keys, how="left")
    rows["cell"] = [_cell(*row) for row in rows[[*PAIR, DROP, "rate"]].itertuples(index=False)]
    lines = [*ATTACK, "source_model"]
    wide = rows.pivot(index=lines, columns="target_model", values="cell").fillna("").rename(columns=OF_MODELS)
    order = pd.MultiIndex.from_frame(rows[lines].drop_duplicates())
    table = wide.reindex(order).rename_axis(columns=None).reset_index()
    table = table.rename(columns={"label": "attack", "source_model": "made on"})
    data = rows.drop(columns=["attack", "cell"]).assign(dataset=dataset)
    title = f"{dataset}: drop of foreground DSC of each target (columns) under volumes made on each source (rows)"
    return Section(title, table, HOW_MATRIX + groups.most(rows), data)


def _cell(source: str, target: str, drop: float, rate: float) -> str:
    if np.isnan(drop) or np.isnan(rate):
        return points(drop) + ("*" if source == target else "")
    return f"{points(drop)} ({points(rate, 0)} %)"
