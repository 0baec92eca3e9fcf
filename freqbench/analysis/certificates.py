r"""Certifies scores of randomised networks from draws.  Chiang et al., NeurIPS 2020, arXiv:2007.03730.

Let d be the score of one prediction of a scan x under the draw c ~ N(0, sigma^2) of the defence `smoothing`, and h_p
the p-quantile of d. A change of the same kind with norm R or less moves the distribution of c by at most R, so that an
event of probability p becomes at most as probable as :math:`\Phi(\Phi^{-1}(p) + R / \sigma)`. For
:math:`p = \Phi(-R / \sigma)` that is 1/2: the median of d stays at h_p or above, whatever the change is. The k-th
smallest of n draws bounds h_p from below: it lies above only if fewer than k draws are at h_p or below, with
probability at most :math:`P(\mathrm{Bin}(n, p) < k)`. k is the largest with a probability of alpha or less.

`gain_offset` does not simply add. After the attack's (k, b), the draw (k', b') acts as (k + k', b + b' / exp(k)): the
offset's deviation is divided by exp(k). An event of probability p of a normal becomes no more probable, at s times its
deviation, than :math:`2 \Phi(-\Phi^{-1}(1 - p / 2) / s)` for s >= 1 (the tails), or
:math:`2 \Phi(\Phi^{-1}((1 + p) / 2) / s) - 1` for s < 1 (the middle): Neyman and Pearson's lemma, in Li et al., CCS
2021, arXiv:2002.12398. The rest is a shift as above, and p is the least over a grid of directions and norms of (k, b).
"""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import product
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd

from freqbench.core.documents import object_of
from freqbench.core.errors import UserError

ALPHA = 0.001  # probability that any statement of a table is wrong
LOWER = ("volume_error_relative",)  # scores of which less is better: they are bounded from above
DIRECTIONS = 181
NORMS = 17
COLUMNS = ("target_defence", "draws")  # columns of RECORDS that `brackets` needs beside those that identify a row
PLACE = ["dataset", "target_model", "threat_model", "kind", "sigma"]
SHOWN = "dsc_foreground"
_normal = NormalDist()


@cache
def level(kind: str, radius: float, sigma: float) -> float:
    """Returns p: no change of this `kind` and of norm `radius` or less makes an event of probability p more probable
    than 1/2 under draws of deviation `sigma`, in the change's own unit as the radius."""
    if kind != "gain_offset":
        return _normal.cdf(-radius / sigma)
    angles = np.linspace(0, math.pi, DIRECTIONS)  # the sign of b does not matter
    changes = product(np.linspace(0, radius, NORMS), angles)
    return min(_gain_p(norm * math.cos(angle), norm * math.sin(angle), sigma) for norm, angle in changes)


def _gain_p(k: float, b: float, sigma: float) -> float:
    """Returns p for the gain exp(k) and the offset b."""
    s = math.exp(-k)
    after = _normal.cdf(-math.hypot(k / sigma, b / (s * sigma)))
    if s >= 1:
        return 2 * _normal.cdf(s * _normal.inv_cdf(after / 2)) if after / 2 > 0 else 0.0
    return 2 * _normal.cdf(s * _normal.inv_cdf((1 + after) / 2)) - 1


def rank(draws: int, level: float, alpha: float) -> int:
    """Returns k: the k-th smallest of the draws is at or below the quantile `level` of the score, but for a chance of
    `alpha`; 0: none is."""
    from scipy.stats import binom

    below = int(binom.ppf(alpha, draws, level))  # the fewest with P(Bin <= below) >= alpha
    return below + bool(binom.cdf(below, draws, level) <= alpha)


def least_draws(level: float, alpha: float) -> float:
    """Returns the least number of draws of which the smallest bounds the quantile `level` but for a chance of `alpha`;
    infinite if no number does."""
    return math.ceil(math.log(alpha) / math.log1p(-level)) if level > 0 else math.inf


def require(draws: int, kind: str, radius: float, sigma: float, alpha: float) -> int:
    """Returns the rank of the draw that bounds the median within a `radius` but for a chance of `alpha`, of `draws` of
    a `kind` with the deviation `sigma`; raises UserError for too few draws."""
    p = level(kind, radius, sigma)
    if (k := rank(draws, p, alpha)) == 0:
        least = least_draws(p, alpha)
        wanted = f"at least {least:,} draws" if least < 1e9 else "a smaller radius or a larger sigma"
        place = f"{kind}: radius {radius:g}, sigma {sigma:g}"
        raise UserError(f"{place}: needs {wanted} at confidence {1 - alpha:.6g}, got {draws}")
    return k


def bound(scores: Sequence[float], k: int, is_lower_better: bool = False) -> float:
    """Returns the k-th smallest of scores in rising order, or the k-th largest if less is better
    (`is_lower_better`)."""
    return scores[-k] if is_lower_better else scores[k - 1]


def upper(scores: Sequence[float], alpha: float) -> float:
    """Returns an upper bound of the median of scores in rising order, as they are draws, wrong with a chance of
    `alpha`; infinite for too few."""
    return scores[-k] if (k := rank(len(scores), 0.5, alpha)) else math.inf


def brackets(records: pd.DataFrame, alpha: float = ALPHA) -> pd.DataFrame:
    """Brackets each score of each attacked volume of a smoothed network between a certificate and an attack: a row per
    record of the attack `ball` on a network smoothed by the same kind, and score of its draws; clean draws are its
    records of radius 0, one per seed.

    Args:
        records: rows with COLUMNS beside those that identify a row.
        alpha: probability that any bound is wrong, shared equally by all rows and scores.

    Returns:
        The identity columns with `kind`, `sigma`, `draws`, `radius`, `score`; `certified`: the median's bound, NaN for
        too few draws; `attacked`: its median in `attacked_draws`, and `attacked_high`, which it exceeds with the same
        small chance; `clean`: the median without attack. For LOWER, where a lower score is better, `certified` bounds
        from above, and `attacked_high` is a lower limit.
    """
    balls = records[(records["attack"] == "ball") & records["draws"].notna() & (records["status"] == "ok")]
    balls = balls[balls["source_model_id"] == balls["target_model_id"]]
    clean = _clean_draws(balls[balls["budget"] == 0])
    rows: list[dict[str, Any]] = []
    for record in balls[balls["budget"] > 0].to_dict("records"):
        defence, params = (object_of(record[name], name) for name in ("target_defence", "params"))
        if defence["kind"] != params["kind"] or params["control"] != "none":
            continue
        attacked = object_of(record["draws"], "draws")
        place = {name: record[name] for name in ("dataset", "target_model", "threat_model", "case_id", "patient_id")}
        place |= {"kind": defence["kind"], "sigma": float(defence["sigma"]), "radius": float(record["budget"])}
        volume = (record["dataset"], record["target_model_id"], record["case_id"])
        for name, values in clean.get(volume, {}).items():
            if name in attacked:
                rows.append({**place, "score": name, "clean": values, "attacked": attacked[name]})
    return pd.DataFrame([row | _bracket(row, alpha / len(rows)) for row in rows])


def _clean_draws(records: pd.DataFrame) -> dict[tuple[str, str, str], dict[str, list[float]]]:
    """Returns each clean volume's scores in rising order, once a seed, by dataset, model id and case id."""
    draws: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    place = ["dataset", "target_model_id", "case_id"]
    for record in records.fillna({"seed": 0}).drop_duplicates([*place, "seed"]).to_dict("records"):
        scores = draws.setdefault((record["dataset"], record["target_model_id"], record["case_id"]), {})
        for name, values in object_of(record["draws"], "draws").items():
            scores[name] = sorted([*scores.get(name, ()), *values])
    return draws


def means(rows: pd.DataFrame, score: str = SHOWN) -> pd.DataFrame:
    """Returns means over cases of a score x100 in `rows` of `brackets`, one row per PLACE and radius; `cases` counts
    them."""
    if rows.empty:
        return rows
    shown = rows[rows["score"] == score].assign(attacked=rows[["clean", "attacked"]].min(axis=1))  # no change is one
    groups = shown.groupby([*PLACE, "radius"], sort=True)
    table = 100 * groups[["clean", "certified", "attacked"]].mean()
    whole = groups["certified"].count() == groups.size()  # no mean over some of the cases
    table["certified"] = table["certified"].where(whole)
    return table.assign(cases=groups["case_id"].nunique(), draws=groups["draws"].min()).reset_index()


def _bracket(row: Mapping[str, Any], alpha: float) -> dict[str, float]:
    clean = row["clean"]
    attacked = row["attacked"]
    is_lower = row["score"] in LOWER
    draws = len(clean)
    attacked_draws = len(attacked)
    k = rank(draws, level(row["kind"], row["radius"], row["sigma"]), alpha)
    high = -upper([-value for value in attacked[::-1]], alpha) if is_lower else upper(attacked, alpha)
    return {
        "draws": draws,
        "clean": clean[(draws - 1) // 2],
        "certified": bound(clean, k, is_lower) if k else math.nan,
        "attacked": attacked[(attacked_draws - 1) // 2],
        "attacked_draws": attacked_draws,
        "attacked_high": high,
    }
