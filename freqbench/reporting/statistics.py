"""How far a table's number can be trusted: intervals, paired differences and tests, all with patients as the unit.

Cases of one patient (ED and ES of one heart) and seeds of one case are not independent, so nothing here counts them as
if they were: the bootstrap draws patients, and tests see one mean a patient. One patient has no interval and no test;
from about six on they say something, and they speak of new patients from the same source only, never of other scanners.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import optimize, special, stats

from freqbench.reporting.resampling import Array, bootstrap, method

INTERVAL = ["mean", "low", "high", "n", "clusters", "method"]
WILCOXON = ["difference", "pairs", "clusters", "statistic", "p", "p_holm", "detectable"]
_CELLS_AT_ONCE = 4_000_000
SPREADS = ["between_cases", "between_seeds"]
_MIDDLES = 4000
_NUMBERS = frozenset({"value", "a", "b"})


@dataclass(frozen=True)
class Interval:
    """A mean with its interval.

    Attributes:
        mean: over the values that are defined; NaN where none is.
        low: lower bound; NaN with fewer than two clusters, where no spread can be seen.
        high: upper bound, likewise.
        n: defined values.
        clusters: patients with a defined value.
        method: `bca`, `percentile`, or empty where there are no bounds.
    """

    mean: float
    low: float
    high: float
    n: int
    clusters: int
    method: str


def mean_interval(
    values: ArrayLike, clusters: ArrayLike, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """The mean over cases with its cluster-bootstrap interval.

    Whole clusters are drawn with replacement, and the mean is that of all cases drawn: `sum(w S) / sum(w N)` with the
    clusters' sums S, sizes N and times drawn w. From 20 clusters on the interval is BCa (bias-corrected and
    accelerated), below it is the percentile interval, as BCa's acceleration is itself too uncertain then. Percentile
    intervals of few clusters are too narrow: of 5, a nominal 95 % covers about 80-85 %.

    Sources: Efron, JASA 82 (1987) for BCa; Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters
    13-14; Davison and Hinkley, Bootstrap Methods and their Application (1997), section 3.8, for clusters.

    Args:
        values: one a case (and seed); NaN is left out.
        clusters: the patient of each.
        level: of the interval, in (0, 1).
        resamples: number of bootstrap draws.
        seed: of the draws; the same data give the same interval in any order of rows.

    Raises:
        ValueError: lengths differ.
    """
    frame = _frame(value=values, cluster=clusters)
    row = mean_intervals(frame.assign(all=0), ["all"], "value", "cluster", level, resamples, seed)
    if row.empty:
        return Interval(np.nan, np.nan, np.nan, 0, 0, "")
    mean, low, high, n, patients, how = row[INTERVAL].iloc[0]
    return Interval(float(mean), float(low), float(high), int(n), int(patients), str(how))


def mean_intervals(
    frame: pd.DataFrame,
    by: Sequence[str],
    value: str,
    cluster: str = "patient_id",
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """`mean_interval` of every group at once.

    Args:
        frame: one row a value, with the columns named in the other arguments.
        by: the columns that make a group; missing values are a group of their own.
        value: the column of numbers.
        cluster: the column of patients.
        level: as in `mean_interval`, like all that follow.

    Returns:
        A row a group, in sorted order: the columns `by`, then INTERVAL.
    """
    groups = frame.groupby(list(by), observed=True, dropna=False)
    rows = groups.size().index.to_frame(index=False)
    position, values = groups.ngroup().to_numpy(), frame[value].to_numpy(float, na_value=np.nan)
    codes, names = pd.factorize(frame[cluster], sort=True)
    held = ~np.isnan(values)
    pairs, of_pair = np.unique(position[held] * max(len(names), 1) + codes[held], return_inverse=True)
    owner = pairs // max(len(names), 1)
    sums = np.bincount(of_pair, weights=values[held], minlength=len(pairs))
    counts = np.bincount(of_pair, minlength=len(pairs)).astype(float)
    clusters = np.bincount(owner, minlength=len(rows))
    bounds = np.full((len(rows), 3), np.nan)
    for size in np.unique(clusters[clusters > 0]):
        members = clusters[owner] == size  # sorted by group, so each group's clusters stand together
        own_sums, own_counts = sums[members].reshape(-1, size), counts[members].reshape(-1, size)
        step = max(_CELLS_AT_ONCE // max(resamples, size), 1)
        bounds[clusters == size] = np.concatenate(
            [
                bootstrap(
                    own_sums[start : start + step], own_counts[start : start + step], None, level, resamples, seed
                )
                for start in range(0, len(own_sums), step)
            ]
        )
    rows[INTERVAL[:3]] = bounds
    n = np.bincount(position[held], minlength=len(rows))
    return rows.assign(n=n, clusters=clusters, method=[method(count) for count in clusters.tolist()])


def paired_difference(
    a: ArrayLike, b: ArrayLike, clusters: ArrayLike, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """The mean of a - b over pairs with its interval, as in `mean_interval`; pairs with a NaN are left out.

    Raises:
        ValueError: lengths differ.
    """
    frame = _frame(a=a, b=b, cluster=clusters)
    return mean_interval(frame["a"] - frame["b"], frame["cluster"], level, resamples, seed)


def holm(p_values: ArrayLike) -> Array:
    """Holm's step-down adjusted p: the i-th smallest of m becomes max over j <= i of min(1, (m - j + 1) p_(j)).

    Keeps the chance of any false rejection below the level whatever the dependence of the tests. NaN (no test) stays
    NaN and does not count in m. Source: Holm, Scandinavian Journal of Statistics 6 (1979).
    """
    p = np.asarray(p_values, float)
    adjusted = np.full_like(p, np.nan)
    order = np.flatnonzero(~np.isnan(p))[np.argsort(p[~np.isnan(p)], kind="stable")]
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, p[order] * np.arange(len(order), 0, -1)))
    return adjusted


def wilcoxon_holm(
    frame: pd.DataFrame, by: Sequence[str], value: str = "difference", cluster: str = "patient_id"
) -> pd.DataFrame:
    """Wilcoxon's signed-rank test of each group's paired differences, Holm-corrected over all groups.

    The test is two-sided and sees one mean difference a patient, as `scipy.stats.wilcoxon` does it (exact where it can
    be; zeros are dropped). With k patients p cannot fall below 2^(1 - k): five patients never reach 0.05. Where all
    differences are zero there is nothing to rank, and p is NaN. Source: Wilcoxon, Biometrics Bulletin 1 (1945).

    Args:
        frame: one row a pair.
        by: the columns that make a group; every group is one test of the family.
        value: the column of differences; NaN is left out.
        cluster: the column of patients.

    Returns:
        A row a group, in sorted order: the columns `by`, then WILCOXON: `difference` is the mean over pairs, and
        `detectable` the `minimum_detectable_difference` of the group with a power of 0.8 at a level of 0.05.
    """
    groups = frame.groupby(list(by), observed=True, dropna=False)
    rows = groups[value].agg(["mean", "count"]).set_axis(["difference", "pairs"], axis=1).reset_index()
    position = groups.ngroup().rename("group")
    patients = frame[value].groupby([position, frame[cluster]], observed=True).mean().dropna()
    tests = {group: _wilcoxon(means.to_numpy(float)) for group, means in patients.groupby("group")}
    tested = [tests.get(group, (0, np.nan, np.nan)) for group in range(len(rows))]
    rows[["clusters", "statistic", "p"]] = pd.DataFrame(tested, columns=["clusters", "statistic", "p"])
    deviations = patients.groupby("group").std(ddof=1).reindex(rows.index)
    rows["detectable"] = [_detectable_effect(count) for count in rows["clusters"].tolist()] * deviations
    return rows.assign(p_holm=holm(rows["p"]))[[*by, *WILCOXON]]


def _wilcoxon(differences: Array) -> tuple[int, float, float]:
    if not differences.any():
        return len(differences), np.nan, np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # scipy's on few cases, of which the docstring speaks
        result = stats.wilcoxon(differences)
    return len(differences), float(result.statistic), float(result.pvalue)


def minimum_detectable_difference(
    differences: ArrayLike, clusters: ArrayLike, power: float = 0.8, level: float = 0.05
) -> float:
    """The true mean difference that a two-sided paired t-test on these patients finds with the given power.

    `d * s`: s is the standard deviation of the k patients' mean differences, and d solves
    `P(|T| > t(1 - level / 2, k - 1)) = power` with T noncentral t, k - 1 degrees, noncentrality d sqrt(k). A difference
    that is not significant and is below it says little: there were too few patients. The signed-rank test needs about
    5 % more of them. Source: Cohen, Statistical Power Analysis for the Behavioral Sciences (1988), chapter 2.

    Args:
        differences: of the pairs, in any unit; NaN is left out.
        clusters: the patient of each.
        power: the chance to find it, above `level` and below 1.
        level: of the test.

    Returns:
        In the unit of the differences; NaN with fewer than two patients.

    Raises:
        ValueError: lengths differ.
    """
    means = _frame(value=differences, cluster=clusters).dropna().groupby("cluster", observed=True)["value"].mean()
    return _detectable_effect(len(means), power, level) * float(means.std(ddof=1))


@lru_cache
def _detectable_effect(clusters: int, power: float = 0.8, level: float = 0.05) -> float:
    """In standard deviations."""
    if clusters < 2:
        return float("nan")
    critical = stats.t.ppf(1 - level / 2, clusters - 1)
    middles = (np.arange(_MIDDLES) + 0.5) / _MIDDLES
    scale = np.sqrt(stats.chi2.ppf(middles, clusters - 1) / (clusters - 1))  # scipy's nct fails for 2 patients
    reach = critical * scale

    def lacking(effect: float) -> float:
        shift = effect * np.sqrt(clusters)
        return float(np.mean(special.ndtr(shift - reach) + special.ndtr(-shift - reach))) - power

    high = 1.0
    while lacking(high) < 0:
        high *= 2
    return float(optimize.brentq(lacking, 0.0, high))


def spreads(values: ArrayLike, cases: ArrayLike, seeds: ArrayLike) -> tuple[float, float]:
    """Standard deviations between cases and between seeds.

    Between cases: of the cases' means over seeds, the spread of difficulty. Between seeds: of the seeds' means over
    cases, how far a table's number moves when only the seed changes. Only cases that every seed has a value for count.

    Args:
        values: one a case and seed; NaN is left out.
        cases: the case of each.
        seeds: the seed of each; missing ones are one seed.

    Returns:
        (between cases, between seeds), n - 1 in the denominator; NaN where there are fewer than two.

    Raises:
        ValueError: lengths differ.
    """
    frame = _frame(value=values, case=cases, seed=seeds).assign(all=0)
    rows = group_spreads(frame, ["all"], "value", "case", "seed")
    return (float("nan"), float("nan")) if rows.empty else tuple(rows.loc[0, SPREADS])


def group_spreads(
    frame: pd.DataFrame, by: Sequence[str], value: str, case: str = "case_id", seed: str = "seed"
) -> pd.DataFrame:
    """`spreads` of every group at once: a row a group, in sorted order, with the columns `by`, then SPREADS."""
    groups = frame.groupby(list(by), observed=True, dropna=False)
    rows = groups.size().index.to_frame(index=False)
    codes = {name: pd.factorize(frame[name], use_na_sentinel=False)[0] for name in (case, seed)}
    long = pd.DataFrame({"group": groups.ngroup(), "case": codes[case], "seed": codes[seed], "value": frame[value]})
    cells = long.dropna(subset="value").groupby(["group", "case", "seed"])["value"].mean().reset_index()
    own = cells.groupby(["group", "case"])["seed"].transform("size")
    whole = cells[own == cells.groupby("group")["seed"].transform("nunique")]
    for name, unit in zip(SPREADS, ("case", "seed"), strict=True):
        means = whole.groupby(["group", unit])["value"].mean()
        rows[name] = means.groupby("group").std(ddof=1).reindex(range(len(rows))).to_numpy()
    return rows


def _frame(**columns: ArrayLike) -> pd.DataFrame:
    """Columns side by side by position, whatever index they bring."""
    series = {name: pd.Series(column).reset_index(drop=True) for name, column in columns.items()}
    if len({len(column) for column in series.values()}) > 1:
        lengths = ", ".join(f"{name} {len(column)}" for name, column in series.items())
        raise ValueError(f"expected columns of one length, got {lengths}")
    return pd.DataFrame(series).astype({name: float for name in series if name in _NUMBERS})
