"""Computes means with their intervals, tests and corrections, all with patients as the unit.

Cases of one patient (ED and ES of one heart) and seeds of one case are not independent, and are never counted as
if they were. Intervals and tests are Student's t over patients; from BCA_CLUSTERS patients on, intervals of means are
the bootstrap's (BCa: bias-corrected and accelerated). Means of scores with limits, such as DSC, have t on the logit
scale, which stays inside; reports/intervals/coverage.json compares the methods. Tables show no interval of fewer than
FEWEST patients. Decisions are made by `t_tests`, corrected over those of one table; one patient has no test. All hold
for new patients from the same source only, never for other scanners.

Sources: Efron, JASA 82 (1987) for BCa; Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 11
(jackknife), 13 and 14; Davison and Hinkley, Bootstrap Methods and their Application (1997), section 3.8, for clusters.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import special

LEVEL = 0.95
RESAMPLES = 2000
BCA_CLUSTERS = 20
FEWEST = 3  # patients of an interval in a table
SPREADS = ["between_cases", "between_seeds"]
SIGNIFICANCE = 0.05  # a corrected p below it decides
POWER = 0.8
_CELLS_AT_ONCE = 4_000_000
_MIDDLES = 4000
_UNITS = {"case": "case_id", "seed": "seed"}
_ROUNDING = 1e-9  # equal numbers may differ by as much in float64
Array = NDArray[np.float64]
Limits = tuple[float, float]
Statistic = Callable[[Array], Array]
DICE: Limits = (0.0, 100.0)
POINTS: Limits = (-100.0, 100.0)  # limits of a Dice x100, and of a difference of two


def mean_intervals(frame: pd.DataFrame, by: Sequence[str], value: str, within: Limits | None = None) -> pd.DataFrame:
    r"""Computes each group's mean over cases with its interval over patients: Student's t below 20 of them, else BCa.

    Of k patients with sums S, counts N, and the mean over all cases m (a ratio of totals: Cochran, Sampling
    Techniques, 3rd edition, 1977, chapter 6), t has the standard error of the linearised ratio:

    .. math:: m = \frac{\sum_i S_i}{\sum_i N_i}, \qquad
              m \pm t_{k-1} \sqrt{\frac{k}{k-1} \sum_i (S_i - m N_i)^2} \Big/ \sum_i N_i

    With few patients t is wide (4.3 of three). With limits it is taken on the logit scale (`inside`). BCa draws whole
    patients. The same data give the same interval in any order of rows.

    Args:
        frame: one row per case (and seed), with `patient_id`, columns `by` (missing values are a group of their own)
            and the numbers `value` (NaN is left out).
        within: limits of the values; None: they have none.

    Returns:
        One row per group, sorted: `by`, then `mean low high n clusters method`: `n` counts values, `clusters`
        patients with one, `method` is `t`, `bca`, or empty if fewer than FEWEST patients leave no bounds.
    """
    totals = _totals(frame, by, value)
    rows = totals.intervals(LEVEL, FEWEST)
    if within:
        rows["low"], rows["high"] = inside(within, rows["mean"].to_numpy(), (rows["mean"] - rows["low"]).to_numpy())
    for size in np.unique(totals.clusters[totals.clusters >= BCA_CLUSTERS]):
        members = totals.clusters[totals.owner] == size  # sorted by group, so each group's clusters stand together
        own_sums = totals.sums[members].reshape(-1, size)
        own_counts = totals.counts[members].reshape(-1, size)
        step = max(_CELLS_AT_ONCE // max(RESAMPLES, size), 1)
        starts = range(0, len(own_sums), step)
        parts = [(own_sums[start : start + step], own_counts[start : start + step]) for start in starts]
        intervals = np.concatenate([_bootstrap(*part, lambda means: means) for part in parts])
        rows.loc[totals.clusters == size, ["low", "high"]] = intervals[:, 1:]
    kinds = np.select([totals.clusters >= BCA_CLUSTERS, totals.clusters >= FEWEST], ["bca", "t"], "")
    return rows.assign(method=kinds.tolist())


def inside(within: Limits, mean: Array, reach: Array) -> tuple[Array, Array]:
    r"""Computes bounds between limits a < b from those of Student's t, m -+ reach, by t on the logit scale.

    With u = (m - a) / (b - a) and the standard error of logit u by the delta method (Agresti, Categorical Data
    Analysis, 3rd edition, 2013, section 3.1); values that are all equal have the bounds m:

    .. math:: \mathrm{logit}^{-1}\Bigl(\mathrm{logit}\,u \mp \frac{\mathrm{reach}}{(b - a)\,u\,(1 - u)}\Bigr)
    """
    low, high = within
    share = (mean - low) / (high - low)
    with np.errstate(divide="ignore", invalid="ignore"):
        away = reach / ((high - low) * share * (1 - share))
        ends = [low + (high - low) * special.expit(special.logit(share) + sign * away) for sign in (-1, 1)]
    below, above = (np.where(reach <= _ROUNDING, mean, end) for end in ends)
    return below, above


def t_intervals(frame: pd.DataFrame, by: Sequence[str], value: str, comparisons: int = 1) -> pd.DataFrame:
    """Computes Student's t intervals of differences in points by two patients or more, for checks, of groups of a
    `frame` with a value. With `comparisons`, that many hold together with at least 95 % (Bonferroni). Bounds are cut at
    POINTS. Columns: `by`, then `mean low high n clusters`."""
    rows = _totals(frame, by, value).intervals(1 - 0.05 / comparisons, 2, POINTS)
    return rows[rows["n"] > 0].reset_index(drop=True)


def t_tests(frame: pd.DataFrame, by: Sequence[str], value: str) -> pd.DataFrame:
    """Tests the mean of the column `value` of each group of a `frame` against 0: Student's t over patients, two-sided,
    Holm-corrected over all groups. Every group is one decision of the table, `p_holm < SIGNIFICANCE`; the interval is
    that of `t_intervals`, not corrected, and NaN below FEWEST patients. Where all values are 0 there is nothing to
    test: p is NaN, and does not count in the correction. One row per group, sorted: `by`, then `mean low high n
    clusters p p_holm detectable`, the last being the true mean that such a test of these patients finds with a power of
    0.8 at a level of 0.05, uncorrected."""
    totals = _totals(frame, by, value)
    size = np.where(np.abs(totals.mean) > _ROUNDING, np.abs(totals.mean), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * special.stdtr(totals.clusters - 1, -size / totals.error)
    effects = np.array([_detectable_effect(count) for count in totals.clusters.tolist()])
    least = effects * np.sqrt(totals.clusters) * totals.error
    return totals.intervals(LEVEL, FEWEST, POINTS).assign(p=p, p_holm=holm(p), detectable=least)


@dataclass(frozen=True)
class _Totals:
    """Sums and counts of clusters of group `owner`; groups' `rows`, mean, standard error (NaN: one cluster)."""

    rows: pd.DataFrame
    owner: NDArray[np.int64]
    sums: Array
    counts: Array
    mean: Array
    error: Array
    n: NDArray[np.int64]
    clusters: NDArray[np.int64]

    def intervals(self, level: float, fewest: int, within: Limits = (-np.inf, np.inf)) -> pd.DataFrame:
        """Returns `rows` with the mean and its bounds at the `level` by Student's t, cut at the limits `within`; NaN
        below `fewest` clusters."""
        with np.errstate(invalid="ignore"):
            degrees = np.where(self.clusters >= fewest, self.clusters - 1, np.nan)
            reach = special.stdtrit(degrees, (1 + level) / 2) * self.error
        bounds = {name: (self.mean + sign * reach).clip(*within) for name, sign in (("low", -1), ("high", 1))}
        return self.rows.assign(mean=self.mean, **bounds, n=self.n, clusters=self.clusters)


def _totals(frame: pd.DataFrame, by: Sequence[str], value: str) -> _Totals:
    groups = frame.groupby(list(by), observed=True, dropna=False)
    rows = groups.size().index.to_frame(index=False)
    position = groups.ngroup().to_numpy()
    values = frame[value].to_numpy(float, na_value=np.nan)
    codes, names = pd.factorize(frame["patient_id"], sort=True)
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


def holm(p_values: ArrayLike) -> Array:
    """Adjusts `p_values`, `[m]`, by Holm's step-down: the i-th smallest of m becomes max over j <= i of min(1, (m - j +
    1) p_(j)). Keeps the chance of any false rejection below the level, however the tests depend on each other. NaN (no
    test) stays NaN and does not count in m. Source: Holm, Scandinavian Journal of Statistics 6 (1979)."""
    p = np.asarray(p_values, float)
    adjusted = np.full_like(p, np.nan)
    order = np.flatnonzero(~np.isnan(p))[np.argsort(p[~np.isnan(p)], kind="stable")]
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, p[order] * np.arange(len(order), 0, -1)))
    return adjusted


@lru_cache
def _detectable_effect(clusters: int) -> float:
    """True mean, in standard deviations, that a two-sided t-test of k clusters finds with a power of POWER. d solves
    `P(|T| > t(1 - SIGNIFICANCE / 2, k - 1)) = POWER` with T noncentral t, k - 1 degrees, shift d sqrt(k). Source:
    Cohen, Statistical Power Analysis for the Behavioral Sciences (1988), chapter 2."""
    from scipy.optimize import brentq  # slow to import

    if clusters < 2:
        return float("nan")
    middles = (np.arange(_MIDDLES) + 0.5) / _MIDDLES
    half = (clusters - 1) / 2
    scale = np.sqrt(special.gammaincinv(half, middles) / half)  # of chi-square; scipy's nct fails for 2 patients
    reach = special.stdtrit(clusters - 1, 1 - SIGNIFICANCE / 2) * scale

    def lacking(effect: float) -> float:
        shift = effect * np.sqrt(clusters)
        return float(np.mean(special.ndtr(shift - reach) + special.ndtr(-shift - reach))) - POWER

    high = 1.0
    while lacking(high) < 0:
        high *= 2
    return float(brentq(lacking, 0.0, high))


def auroc(attacked: Array, other: Array) -> tuple[float, float, float]:
    r"""Returns the AUROC x100 of pairs `[n]` by patient, and its 95 % interval; bounds are NaN below three patients.

    With k = 1 where an attacked volume has more than another patient's or its own other volume, 1/2 where both have as
    much, the mean of k over all pairs, and a variance that counts both of a patient's volumes as one (Obuchowski,
    Biometrics 1997):

    .. math:: A = \frac{1}{n^2} \sum_{ij} k_{ij}, \qquad
              \frac{1}{n (n - 1)} \sum_i \Bigl(\frac1n \sum_j (k_{ij} + k_{ji}) - 2 A\Bigr)^2
    """
    k = 100 * ((attacked[:, None] > other) + (attacked[:, None] == other) / 2)
    n = len(attacked)
    mean = float(k.mean())
    if n < FEWEST:
        return mean, float("nan"), float("nan")
    if mean in DICE:
        rest = 100 * (1 - ((1 - LEVEL) / 2) ** (1 / n))
        return (mean, 0.0, rest) if mean == 0 else (mean, 100 - rest, 100.0)
    parts = k.mean(axis=0) + k.mean(axis=1) - 2 * mean
    error = np.sqrt(np.square(parts).sum() / (n * (n - 1)))
    low, high = inside(DICE, np.array([mean]), np.array([special.stdtrit(n - 1, (1 + LEVEL) / 2) * error]))
    return mean, float(low[0]), float(high[0])


def group_spreads(frame: pd.DataFrame, by: Sequence[str], value: str) -> pd.DataFrame:
    """Computes, by group of a `frame` with `case_id` and `seed`, standard deviations of cases' means over seeds and of
    seeds' means over cases: `by`, then SPREADS. Only cases that every seed has a value for count; missing seeds are one
    seed. The denominator is n - 1 (one: NaN)."""
    groups = frame.groupby(list(by), observed=True, dropna=False)
    rows = groups.size().index.to_frame(index=False)
    codes = {unit: pd.factorize(frame[name], use_na_sentinel=False)[0] for unit, name in _UNITS.items()}
    long = pd.DataFrame({"group": groups.ngroup(), **codes, "value": frame[value]})
    cells = long.dropna(subset="value").groupby(["group", "case", "seed"])["value"].mean().reset_index()
    num_seeds = cells.groupby(["group", "case"])["seed"].transform("size")
    complete = cells[num_seeds == cells.groupby("group")["seed"].transform("nunique")]
    for name, unit in zip(SPREADS, _UNITS, strict=True):
        means = complete.groupby(["group", unit])["value"].mean()
        rows[name] = means.groupby("group").std(ddof=1).reindex(range(len(rows))).to_numpy()
    return rows


def statistic_intervals(sums: Array, counts: Array, statistic: Statistic, clusters: Array) -> Array:
    r"""Estimates statistics of several means over the same patients, which are drawn together, with their intervals.

    BCa where `sums` has BCA_CLUSTERS clusters or more, otherwise Student's t on the jackknife's standard error, for a
    statistic s of which k clusters have values, and s_i without the i-th of them:

    .. math:: s \pm t_{k-1} \sqrt{\frac{k-1}{k} \sum_i (s_i - s)^2}

    Args:
        sums: of the values, and `counts`, [means, clusters].
        statistic: from means [means, draws] to statistics [statistics, draws].
        clusters: that each statistic has values of, [statistics].

    Returns:
        [statistics, 3]: estimate, low and high; NaN with fewer than FEWEST clusters, or where t meets a statistic that
        is undefined without one of them.
    """
    if sums.shape[1] >= BCA_CLUSTERS:
        return _bootstrap(sums, counts, statistic)
    estimate, left_one_out = _jackknife(sums, counts, statistic)
    with np.errstate(divide="ignore", invalid="ignore"):
        squares = ((left_one_out - estimate) ** 2).sum(axis=1)
        k = np.where(clusters >= FEWEST, clusters, np.nan)
        reach = (special.stdtrit(k - 1, (1 + LEVEL) / 2) * np.sqrt((k - 1) / k * squares))[:, None]
    return np.hstack([estimate, estimate - reach, estimate + reach])


def _jackknife(sums: Array, counts: Array, statistic: Statistic) -> tuple[Array, Array]:
    """Computes the statistics, [statistics, 1], and those without each cluster in turn, [statistics, clusters]."""
    with np.errstate(divide="ignore", invalid="ignore"):
        total = sums.sum(axis=1, keepdims=True)
        size = counts.sum(axis=1, keepdims=True)
        return statistic(total / size), statistic((total - sums) / (size - counts))


def _bootstrap(sums: Array, counts: Array, statistic: Statistic) -> Array:
    """Computes estimates and BCa intervals, as in `statistic_intervals`; ignores draws of an undefined statistic."""
    estimate, left_one_out = _jackknife(sums, counts, statistic)
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = _weights(sums.shape[1], RESAMPLES)
        drawn = statistic((sums @ weights) / (counts @ weights))
        levels = np.tile([(1 - LEVEL) / 2, (1 + LEVEL) / 2], (len(estimate), 1))
        levels = _bca_levels(estimate, drawn, left_one_out, levels)
    return np.hstack([estimate, _quantiles(drawn, levels)])


@lru_cache(maxsize=4)
def _weights(clusters: int, resamples: int) -> Array:
    """Counts how often each cluster is drawn, [clusters, resamples]."""
    drawn = np.random.default_rng([0, clusters]).integers(clusters, size=(resamples, clusters))
    places = drawn + clusters * np.arange(resamples)[:, None]
    weights = np.bincount(places.ravel(), minlength=resamples * clusters).reshape(resamples, clusters).T.astype(float)
    weights.flags.writeable = False
    return weights


def _bca_levels(estimate: Array, drawn: Array, left_one_out: Array, levels: Array) -> Array:
    """Computes levels Phi(z0 + (z0 + z_a) / (1 - c (z0 + z_a))) (Efron and Tibshirani, 14.10), or the percentile's."""
    below = (drawn < estimate).sum(axis=1)
    defined = (~np.isnan(drawn)).sum(axis=1)
    bias = special.ndtri((below + 0.5 * (drawn == estimate).sum(axis=1)) / defined)[:, None]
    count = (~np.isnan(left_one_out)).sum(axis=1, keepdims=True)
    away = np.nansum(left_one_out, axis=1, keepdims=True) / count - left_one_out
    spread = np.nansum(away**2, axis=1, keepdims=True) ** 1.5
    acceleration = np.where(spread > 0, np.nansum(away**3, axis=1, keepdims=True) / (6 * spread), 0.0)
    shifted = bias + special.ndtri(levels)
    corrected = special.ndtr(bias + shifted / (1 - acceleration * shifted))
    return np.where(np.isfinite(corrected) & np.isfinite(bias), corrected, levels)


def _quantiles(drawn: Array, levels: Array) -> Array:
    """Computes each row's quantiles at its own levels, linear between draws; NaN draws are left out."""
    ordered = np.sort(drawn, axis=1)  # NaN last
    last = (~np.isnan(drawn)).sum(axis=1, keepdims=True) - 1
    place = levels * np.maximum(last, 0)
    floor = np.floor(place).astype(int)
    low = np.take_along_axis(ordered, floor, axis=1)
    high = np.take_along_axis(ordered, np.minimum(floor + 1, np.maximum(last, 0)), axis=1)
    return np.asarray(low + (high - low) * (place - floor))


class Nested(NamedTuple):
    """Mean over patients and networks, or the difference of two, its interval, Satterthwaite's degrees of freedom and
    the uncorrected two-sided p of a mean of 0; NaN with one patient. `patients` are those scored on all."""

    mean: float
    low: float
    high: float
    df: float
    p: float
    networks: int
    patients: int


def nested_interval(values: Array, minus: Array | None = None) -> Nested:
    r"""Computes a method's mean over patients and networks with an interval for new patients and new trainings.

    A network is one draw of its training, and every one is scored on every patient, so the two are crossed:
    :math:`y_{pn} = \mu + a_p + b_n + e_{pn}`, all three random. The mean of P patients and N networks has the variance

    .. math:: \frac{\sigma_a^2}{P} + \frac{\sigma_b^2}{N} + \frac{\sigma_e^2}{PN}
              \approx \frac{s^2}{P} + \frac{\max(0, MS_b - MS_e)}{PN}

    by the mean squares of the two-way table without replication (a negative variance between networks counting as
    none), where s^2 is the variance of the patients' means over networks. The interval is Student's t with
    Satterthwaite's degrees of freedom for that sum, at least the lower of P - 1 and N - 1. With `minus`, s^2 is the
    variance of the patients' differences, and either method adds the spread between its networks, which are not paired.

    One network shows no spread between trainings: its interval is for that network alone. Nominal 95 % intervals cover
    93 to 97 % from three networks on; with two networks that differ as much as patients, 90 %.

    Sources: Searle, Casella and McCulloch, Variance Components (1992), chapter 4; Satterthwaite, Biometrics Bulletin 2
    (1946).

    Args:
        values: `[P, N]`, of each patient under each network; finite.
        minus: None, or `[P, M]`, of the same patients in the same order under the networks of another method.
    """
    tables = [(1.0, values)] + ([] if minus is None else [(-1.0, minus)])
    patients, networks = values.shape
    of_patients = np.sum([sign * table.mean(axis=1) for sign, table in tables], axis=0)
    mean = float(of_patients.mean())
    if patients < 2:
        return Nested(mean, np.nan, np.nan, np.nan, np.nan, networks, patients)
    variance = float(of_patients.var(ddof=1)) / patients
    free = patients - 1
    squares = variance**2 / free
    fewest = free
    for _, table in tables:
        if (count := table.shape[1]) < 2:
            continue
        between, residual = _mean_squares(table)
        of_networks = count - 1
        fewest = min(fewest, of_networks)
        if between > residual:
            scale = 1 / (patients * count)
            variance += scale * (between - residual)
            squares += (scale * between) ** 2 / of_networks
            squares += (scale * residual) ** 2 / (free * of_networks)
    df = max(float(fewest), variance**2 / squares) if squares else float(fewest)
    error = variance**0.5
    reach = float(special.stdtrit(df, (1 + LEVEL) / 2)) * error
    p = 2 * float(special.stdtr(df, -abs(mean) / error)) if error else np.nan
    return Nested(mean, mean - reach, mean + reach, df, p, networks, patients)


def _mean_squares(table: Array) -> tuple[float, float]:
    """Computes the mean squares between networks, and of the residuals, of values `[P, N]`."""
    patients, networks = table.shape
    of_networks = table.mean(axis=0)
    residuals = table - table.mean(axis=1, keepdims=True) - of_networks + table.mean()
    between = patients * float(of_networks.var(ddof=1))
    return between, float((residuals**2).sum()) / ((patients - 1) * (networks - 1))


def nested_intervals(frame: pd.DataFrame, value: str, behind: str | None = None) -> pd.DataFrame:
    """Computes `nested_interval` by `method`, sorted, with the fields of Nested. Patients that some network lacks are
    left out for all. Fewer than FEWEST have no interval. Bounds are on the logit scale of a Dice x100.

    Args:
        frame: one row per value, with the columns `method`, `target_model` (a network of one method) and `patient_id`.
        value: name of the column with a Dice x100, whose mean is a patient's.
        behind: a method; the others' means are then their distance below its mean, cut at POINTS, its own NaN. None:
            means.
    """
    texts = frame.astype({"target_model": str, "method": str})
    wide = texts.groupby(["patient_id", "target_model"], observed=True)[value].mean().unstack().dropna()
    pairs = texts[["method", "target_model"]].drop_duplicates().sort_values(["method", "target_model"])
    tables = {str(name): wide[list(group["target_model"])].to_numpy(float) for name, group in pairs.groupby("method")}
    rows = []
    for name, table in tables.items():
        result = Nested(np.nan, np.nan, np.nan, np.nan, np.nan, table.shape[1], len(table))
        if len(table) and name != behind:
            result = nested_interval(table) if behind is None else nested_interval(tables[behind], table)
        rows.append({"method": name, **result._asdict(), "networks": table.shape[1]})
    methods = pd.DataFrame(rows, columns=["method", *Nested._fields])
    methods.loc[methods["patients"] < FEWEST, ["low", "high"]] = np.nan
    if behind is None:
        mean = methods["mean"].to_numpy(float)
        methods["low"], methods["high"] = inside(DICE, mean, mean - methods["low"].to_numpy(float))
    else:
        methods[["low", "high"]] = methods[["low", "high"]].clip(*POINTS)
    return methods
