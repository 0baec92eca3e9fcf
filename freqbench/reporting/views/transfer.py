"""How far an attack on one model carries to models it never saw.

The transfer rate from s to t is 100 x (mean drop of t) / (mean drop of s) over the same volumes made on s: the share
of the white-box damage that arrives. Drops are of the foreground DSC. The rate is undefined where the white-box drop
is below MIN_DROP points, as a share of nearly nothing says nothing. An attack's rate is the mean over its ordered pairs
s != t whose rate is defined; its interval is over patients, each with all pairs' volumes together.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from freqbench.analysis.frames import plain
from freqbench.analysis.groups import (
    ATTACK,
    COUNTS,
    beside,
    bounds,
    budget_texts,
    by_attack,
    grouped,
    is_white_box,
    most,
    one_patient_note,
    points,
    scored,
    with_settings,
)
from freqbench.analysis.statistics import Array, Statistic, statistic_intervals
from freqbench.reporting.render import Section
from freqbench.reporting.views.matched import matched_by_distance

MIN_DROP = 1.0
PAIR = ["source_model", "target_model"]
DROP = "dsc_foreground_drop"
UNBOUNDED = "none"
NULL_ROW = " control="  # of a label: the change without the optimisation
_HEADINGS = (*ATTACK, "source_model", "attack", "made on")
_DISTANCES = ["ssim_body", "lpips_body", "l2_body"]

HOW_MATRIX = (
    "Each cell is the mean drop of the target's foreground DSC in points (clean minus attacked) under volumes made on "
    "the source, and in brackets that drop in per cent of the white-box drop of the source on the same volumes; * is "
    f"white-box. The per cent are left empty where the white-box drop is below {MIN_DROP:g} point: nothing was there "
    "to transfer. "
)
HOW_RATES = (
    "The rate is the mean over all ordered pairs of different models of (drop of the target) / (white-box drop of the "
    "source) in per cent, over the same volumes; drops are points of foreground DSC. A high rate of a weak attack is "
    "still a weak attack, so the points stand beside it. Ranks are by rate within one threat model and budget only, "
    "each over its own n, and say nothing of whether other patients would give the same order; attacks of the threat "
    "model `none` have none, nor have null rows (`control=...`), which know no model and carry to all alike. Pairs "
    f"with a white-box drop below {MIN_DROP:g} point have no rate and are counted as undefined. "
)


def transfer(records: pd.DataFrame) -> list[Section]:
    """Of each dataset the attacks' transfer rates, the source x target matrices, and attacks matched by distance.

    Args:
        records: after `tables.current(strength.checked(...))`, with `ssim_body`, `lpips_body` and `l2_body`.
    """
    frame = scored(records, _DISTANCES)
    sections = []
    for dataset, own in frame.groupby("dataset", observed=True):
        carried = _carried(own)
        if carried.empty:
            sections.append(Section(f"{dataset}: transfer", text=_nothing(own)))
            continue
        rates, pairs = _rates(carried)
        sections.append(_ranking(str(dataset), own, rates))
        sections.append(_matrix(str(dataset), own, pairs))
        sections.append(matched_by_distance(str(dataset), own[~is_white_box(own)]))
    return sections or [Section("Transfer", text="No attack was scored, so there is no transfer to show.")]


def _nothing(frame: pd.DataFrame) -> str:
    if is_white_box(frame).all():
        return (
            "Every volume was scored by the model that it was made on only, so nothing is known about transfer: give "
            "the job several models and `targets: all`."
        )
    return (
        "No transferred volume was also scored by the model that it was made on, so no drop can be set against a "
        "white-box drop: run the sources as targets too."
    )


def _carried(frame: pd.DataFrame) -> pd.DataFrame:
    """A row a transferred volume whose white-box drop is known too: `drop` of the target, `own` of the source."""
    frame = frame[frame[DROP].notna()]
    keys = [*ATTACK, "source_model", "case_id", "seed"]
    volume = frame.groupby(keys, observed=True, dropna=False, sort=False).ngroup().to_numpy()
    white = is_white_box(frame).to_numpy()
    own = np.full(volume.max(initial=-1) + 1, np.nan)
    own[volume[white]] = frame[DROP].to_numpy()[white]
    carried = frame.loc[~white, [*ATTACK, *PAIR, "case_id", "patient_id", "seed", DROP]].rename(columns={DROP: "drop"})
    return carried.assign(own=own[volume[~white]]).dropna(subset="own")


def _rates(carried: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of each attack and of each of its pairs: `rate`, `low`, `high` in per cent."""
    of_attacks, of_pairs = [], []
    for (label, threat_model), own in carried.groupby(ATTACK, observed=True):
        groups = own.groupby(PAIR, observed=True)
        pairs = plain(groups[["drop", "own"]].mean().reset_index())
        patients, names = pd.factorize(own["patient_id"], sort=True)
        place = groups.ngroup().to_numpy() * len(names) + patients
        cells, shape = len(pairs) * len(names), (len(pairs), len(names))
        counts = np.bincount(place, minlength=cells).reshape(shape).astype(float)
        drops, owns = (
            np.bincount(place, weights=own[name].to_numpy(), minlength=cells).reshape(shape) for name in ("drop", "own")
        )
        is_defined = (pairs["own"] >= MIN_DROP).to_numpy()
        known = np.array([len(names), *(counts > 0).sum(axis=1)])
        found = statistic_intervals(np.vstack([drops, owns]), np.vstack([counts, counts]), _shares(is_defined), known)
        of_attacks.append((label, threat_model, *found[0], len(pairs), int((~is_defined).sum())))
        of_pairs.append(
            pairs.assign(
                label=str(label), threat_model=str(threat_model), rate=found[1:, 0], low=found[1:, 1], high=found[1:, 2]
            )
        )
    columns = [*ATTACK, "rate", "rate_low", "rate_high", "pairs", "undefined"]
    return pd.DataFrame(of_attacks, columns=columns), pd.concat(of_pairs, ignore_index=True)


def _shares(is_defined: NDArray[np.bool_]) -> Statistic:
    """From the pairs' drops, then the sources' own, to the mean rate of the pairs that have one, then each pair's."""

    def rates(means: Array) -> Array:
        drops, own = np.split(means, 2)
        each = np.where(is_defined[:, None] & (own != 0), 100 * drops / own, np.nan)
        known = ~np.isnan(each)
        return np.vstack([np.where(known, each, 0).sum(axis=0) / known.sum(axis=0), each])

    return rates


def _ranking(dataset: str, frame: pd.DataFrame, rates: pd.DataFrame) -> Section:
    white = is_white_box(frame)
    own = plain(frame[white].groupby(ATTACK, observed=True)[DROP].mean().rename("white_box").reset_index())
    rows = grouped(frame[~white], ATTACK, DROP, ["hd95_penalised", "drop", *_DISTANCES])
    rows = with_settings(rates.merge(rows, on=ATTACK).merge(own, on=ATTACK), frame)
    rows = rows.assign(budget_text=budget_texts(rows).astype(object))
    is_ranked = (rows["threat_model"] != UNBOUNDED) & ~rows["label"].str.contains(NULL_ROW, regex=False)
    ranked = rows.assign(budget_name=rows["budget_name"].fillna(""), rate=rows["rate"].where(is_ranked))
    groups = ranked.groupby(["threat_model", "budget_name", "budget_text"])
    rows["rank"] = groups["rate"].rank(ascending=False, method="min").astype("Int64")
    rows = rows.sort_values(["threat_model", "budget_name", "budget", "rank"], kind="stable", ignore_index=True)
    columns = {
        "threat_model": rows["threat_model"],
        "rank": rows["rank"],
        "attack": rows["label"],
        **{name: rows[name] for name in ("cases", "seeds", "patients")},
        "rate %": rows["rate"],
        "interval": bounds(rows, "rate_low", "rate_high"),
        "pairs": rows["pairs"],
        "undefined": rows["undefined"],
        "white-box drop": rows["white_box"],
        "transferred drop": rows[DROP],
        **beside(rows),
        "dsc_drop": rows["drop"],
        "ssim_body": 100 * rows["ssim_body"].astype(float),
        "lpips_body": 100 * (1 - rows["lpips_body"].astype(float)),
        "l2_body": rows["l2_body"],
    }
    table = pd.DataFrame(columns)
    scaled = {name: table[name] for name in _DISTANCES}
    data = rows.drop(columns=["attack", "budget_text"]).assign(dataset=dataset, **scaled)
    return Section(f"{dataset}: transfer rate of each attack", table, HOW_RATES + COUNTS + one_patient_note(rows), data)


def _matrix(dataset: str, frame: pd.DataFrame, pairs: pd.DataFrame) -> Section:
    rows = with_settings(grouped(frame, [*ATTACK, *PAIR], DROP, ["hd95_penalised", "drop"]), frame)
    rates = pairs.rename(columns={"low": "rate_low", "high": "rate_high", "own": "white_box_drop"})
    keys = [*ATTACK, *PAIR]
    rows = rows.merge(rates[[*keys, "rate", "rate_low", "rate_high", "white_box_drop"]], on=keys, how="left")
    rows = by_attack(rows).assign(cell=[_cell(*row) for row in rows[[*PAIR, DROP, "rate"]].itertuples(index=False)])
    lines = [*ATTACK, "source_model"]
    wide = rows.pivot(index=lines, columns="target_model", values="cell").fillna("")
    wide = wide.rename(columns={name: f"{name} (model)" for name in _HEADINGS})
    order = pd.MultiIndex.from_frame(rows[lines].drop_duplicates())
    table = wide.reindex(order).reset_index().rename(columns={"label": "attack", "source_model": "made on"})
    table.columns.name = None
    data = rows.drop(columns=["attack", "cell"]).assign(dataset=dataset)
    title = f"{dataset}: drop of foreground DSC of each target (columns) under volumes made on each source (rows)"
    return Section(title, table, HOW_MATRIX + most(rows) + one_patient_note(rows), data)


def _cell(source: str, target: str, drop: float, rate: float) -> str:
    if np.isnan(drop) or np.isnan(rate):
        return points(drop) + ("*" if source == target else "")
    return f"{points(drop)} ({points(rate, 0)} %)"
