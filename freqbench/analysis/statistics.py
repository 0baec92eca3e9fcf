"""How far a table's number can be trusted: intervals, paired differences and tests, all with patients as the unit.

Cases of one patient (ED and ES of one heart) and seeds of one case are not independent, so nothing here counts them as
if they were. Intervals and tests are Student's t over patients; from 20 patients on, intervals of means are the
bootstrap's (BCa), which need no normal means. What decides is always `t_tests`, corrected over the decisions of one
table. One patient has no interval and no test; all speak of new patients from the same source only, never of other
scanners.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

from freqbench.analysis.clusters import BCA_CLUSTERS, Array, bootstrap, method

INTERVAL = ["mean", "low", "high", "n", "clusters", "method"]
TEST = ["mean", "low", "high", "n", "clusters", "p", "p_holm", "detectable"]
SIGNIFICANCE = 0.05
"""A decision is made where the corrected p is below it."""

_CELLS_AT_ONCE = 4_000_000
SPREADS = ["between_cases", "between_seeds"]
_MIDDLES = 4000
_NUMBERS = frozenset({"value", "a", "b"})
_ROUNDING = 1e-9
"""A mean difference up to it is what float64 leaves of equal numbers."""


@dataclass(frozen=True)
class Interval:
    """A mean with its interval.

    Attributes:
        mean: over the values that are defined; NaN where none is.
        low: lower bound; NaN with fewer than two clusters, where no spread can be seen.
        high: upper bound, likewise.
        n: defined values.
        clusters: patients with a defined value.
        method: `t`, `bca`, or empty where there are no bounds.
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
    r"""The mean over cases with its interval over patients: Student's t below 20 of them, BCa from 20 on.

    Of k patients with sums S, counts N, and the mean over all cases m (a ratio of totals: Cochran, Sampling
    Techniques, 3rd edition, 1977, chapter 6), t has the standard error of the linearised ratio:

    .. math:: m = \frac{\sum_i S_i}{\sum_i N_i}, \qquad
              m \pm t_{k-1} \sqrt{\frac{k}{k-1} \sum_i (S_i - m N_i)^2} \Big/ \sum_i N_i

    With one case a patient that is the interval of a t-test. It leans on means that are about normal, covers what it
    says from two patients on, and pays by its width: t is 12.7 of two, 4.3 of three, 2.8 of five; bounds of a score
    near 0 or 100 may lie beyond. BCa: see `freqbench.analysis.clusters`; whole patients are drawn, and the mean is
    that of all cases drawn, `sum(w S) / sum(w N)` with the times drawn w.

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
    own = _totals(frame, by, value, cluster)
    low, high = own.bounds(level)
    for size in np.unique(own.clusters[own.clusters >= BCA_CLUSTERS]):
        members = own.clusters[own.owner] == size  # sorted by group, so each group's clusters stand together
        own_sums, own_counts = own.sums[members].reshape(-1, size), own.counts[members].reshape(-1, size)
        step = max(_CELLS_AT_ONCE // max(resamples, size), 1)
        starts = range(0, len(own_sums), step)
        parts = [(own_sums[start : start + step], own_counts[start : start + step]) for start in starts]
        found = np.concatenate([bootstrap(*part, None, level, resamples, seed) for part in parts])
        low[own.clusters == size], high[own.clusters == size] = found[:, 1], found[:, 2]
    return own.rows.assign(
        mean=own.mean,
        low=low,
        high=high,
        n=own.n,
        clusters=own.clusters,
        method=[method(count) for count in own.clusters.tolist()],
    )


def t_intervals(
    frame: pd.DataFrame, by: Sequence[str], value: str, cluster: str = "patient_id", comparisons: int = 1
) -> pd.DataFrame:
    """The 95 % intervals of each group's mean by Student's t, of `mean_interval`, whatever the number of patients.

    Args:
        frame: one row a value, with the columns named in the other arguments.
        by: the columns that make a group.
        value: the column of numbers; NaN is left out.
        cluster: the column of patients.
        comparisons: as many intervals hold together with 95 % at least, each being one of 100 - 5 / comparisons %
            (Bonferroni).

    Returns:
        A row a group that has a value, in sorted order: the columns `by`, then `mean low high n clusters`; bounds are
        NaN with one patient.
    """
    own = _totals(frame, by, value, cluster)
    low, high = own.bounds(1 - 0.05 / comparisons)
    rows = own.rows.assign(mean=own.mean, low=low, high=high, n=own.n, clusters=own.clusters)
    return rows[own.n > 0].reset_index(drop=True)


def t_tests(frame: pd.DataFrame, by: Sequence[str], value: str, cluster: str = "patient_id") -> pd.DataFrame:
    """Student's t-test over patients of each group's mean against 0, two-sided, Holm-corrected over all groups.

    The interval is that of `t_intervals`, and holds 0 where p is above 0.05. It is not corrected; `p_holm` is, so a
    decision is `p_holm < SIGNIFICANCE`. Where all values are 0 there is nothing
    to test: p is NaN, and the group does not count in the correction.

    Args:
        frame: one row a difference.
        by: the columns that make a group; every group is one decision of the table.
        value: the column of differences; NaN is left out.
        cluster: the column of patients.

    Returns:
        A row a group, in sorted order: the columns `by`, then TEST. `detectable` is the true mean that such a test of
        these patients finds with a power of 0.8 at a level of 0.05, uncorrected: `minimum_detectable_difference`.
    """
    own = _totals(frame, by, value, cluster)
    low, high = own.bounds(0.95)
    k, error = own.clusters, own.error
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stats.t.sf(np.where(np.abs(own.mean) > _ROUNDING, np.abs(own.mean), 0.0) / error, k - 1)
    effects = np.array([_detectable_effect(count) for count in k.tolist()])
    rows = own.rows.assign(mean=own.mean, low=low, high=high, n=own.n, clusters=k, p=p, p_holm=holm(p))
    return rows.assign(detectable=effects * np.sqrt(k) * error)


@dataclass(frozen=True)
class _Totals:
    """Sums over the clusters of each group.

    Attributes:
        rows: the columns that make a group, a row a group.
        owner: the group of each cluster, sorted.
        sums: of each cluster's values, and their `counts`.
        mean: of each group, its standard error `error` (NaN with fewer than two clusters), `n` and `clusters`.
    """

    rows: pd.DataFrame
    owner: NDArray[np.int64]
    sums: Array
    counts: Array
    mean: Array
    error: Array
    n: NDArray[np.int64]
    clusters: NDArray[np.int64]

    def bounds(self, level: float) -> tuple[Array, Array]:
        """Low and high of Student's t."""
        with np.errstate(invalid="ignore"):
            reach = stats.t.ppf((1 + level) / 2, self.clusters - 1) * self.error
        return self.mean - reach, self.mean + reach


def _totals(frame: pd.DataFrame, by: Sequence[str], value: str, cluster: str) -> _Totals:
    groups = frame.groupby(list(by), observed=True, dropna=False)
    rows = groups.size().index.to_frame(index=False)
    position, values = groups.ngroup().to_numpy(), frame[value].to_numpy(float, na_value=np.nan)
    codes, names = pd.factorize(frame[cluster], sort=True)
    held = ~np.isnan(values)
    pairs, of_pair = np.unique(position[held] * max(len(names), 1) + codes[held], return_inverse=True)
    owner = pairs // max(len(names), 1)
    sums = np.bincount(of_pair, weights=values[held], minlength=len(pairs)).astype(float)
    counts = np.bincount(of_pair, minlength=len(pairs)).astype(float)
    n = np.bincount(position[held], minlength=len(rows))
    clusters = np.bincount(owner, minlength=len(rows))
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.bincount(owner, weights=sums, minlength=len(rows)) / n
        squares = np.bincount(owner, weights=(sums - counts * mean[owner]) ** 2, minlength=len(rows))
        k = np.where(clusters > 1, clusters, np.nan)
        error = np.sqrt(k / (k - 1) * squares) / n
    return _Totals(rows, owner, sums, counts, mean, error, n, clusters)


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


def minimum_detectable_difference(
    differences: ArrayLike, clusters: ArrayLike, power: float = 0.8, level: float = 0.05
) -> float:
    """The true mean difference that a two-sided paired t-test on these patients finds with the given power.

    `d * s`: s is the standard deviation of the k patients' mean differences, and d solves
    `P(|T| > t(1 - level / 2, k - 1)) = power` with T noncentral t, k - 1 degrees, noncentrality d sqrt(k). A difference
    that is not significant and is below it says little: there were too few patients. Source: Cohen, Statistical Power
    Analysis for the Behavioral Sciences (1988), chapter 2.

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
