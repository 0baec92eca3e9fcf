"""Means of training methods, with intervals that hold the spread of patients and the spread of trainings.

A network is one draw of its training: another seed gives another one, whose scores differ on all patients at once. An
interval over patients alone speaks of that one network, however many patients there are.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

NESTED = ["mean", "low", "high", "df", "p", "networks", "patients"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Nested:
    """A mean over patients and networks with its interval.

    Attributes:
        mean: over the whole table, or the difference of two.
        low: lower bound; NaN with one patient, where no spread between patients can be seen.
        high: upper bound, likewise.
        df: Satterthwaite's degrees of freedom; NaN likewise.
        p: of the two-sided test of a mean of 0, uncorrected; NaN likewise, and where nothing varies.
        networks: of the method, not of the one that it is compared with.
        patients: that were scored on all networks.
    """

    mean: float
    low: float
    high: float
    df: float
    p: float
    networks: int
    patients: int


def nested_interval(values: ArrayLike, minus: ArrayLike | None = None, level: float = 0.95) -> Nested:
    r"""The mean of a method over patients and networks with an interval for new patients and new trainings.

    Every network is scored on every patient, so the two are crossed: :math:`y_{pn} = \mu + a_p + b_n + e_{pn}`, all
    three random. The mean of P patients and N networks has the variance

    .. math:: \frac{\sigma_a^2}{P} + \frac{\sigma_b^2}{N} + \frac{\sigma_e^2}{PN}
              \approx \frac{s^2}{P} + \frac{\max(0, MS_b - MS_e)}{PN}

    by the mean squares of the two-way table without replication (the moments of the ANOVA, a negative variance
    between networks counting as none), where s^2 is the variance of the patients' means over networks,
    :math:`N s^2 = MS_a`. The interval is Student's t with Satterthwaite's degrees of freedom for that sum of mean
    squares, at least the lower of P - 1 and N - 1.

    With `minus`, of another method's networks on the same patients: s^2 is the variance of the patients' differences,
    so that what is hard for both cancels, and either method adds the spread between its networks, which are not paired.

    One network shows no spread between trainings: its interval, Student's t over patients, is for that network alone.
    Nominal 95 % intervals cover 93 to 97 % from three networks on, whatever the shares of the three variances; with two
    networks that differ as much as patients, 90 %.

    Sources: Searle, Casella and McCulloch, Variance Components (1992), chapter 4; Satterthwaite, Biometrics Bulletin 2
    (1946). Cameron, Gelbach and Miller, Journal of Business and Economic Statistics 29 (2011), have the same sum
    without normality.

    Args:
        values: `[P, N]`, of each patient under each network; finite.
        minus: None, or `[P, M]`, of the same patients in the same order under the networks of another method.
        level: of the interval, in (0, 1).

    Raises:
        ValueError: no patient or network, values that are not finite, or tables of different patients.

    >>> nested_interval([[1.0, 2.0], [3.0, 5.0], [2.0, 2.0]]).mean
    2.5
    """
    tables = [(1.0, _table(values))] + ([] if minus is None else [(-1.0, _table(minus))])
    patients, networks = tables[0][1].shape
    if any(len(table) != patients for _, table in tables):
        raise ValueError(f"expected tables of the same patients, got {' and '.join(str(len(t)) for _, t in tables)}")
    of_patients = np.sum([sign * table.mean(axis=1) for sign, table in tables], axis=0)
    mean = float(of_patients.mean())
    if patients < 2:
        return Nested(mean, np.nan, np.nan, np.nan, np.nan, networks, patients)
    variance = float(of_patients.var(ddof=1)) / patients
    squares, fewest = variance**2 / (patients - 1), patients - 1
    for _, table in tables:
        own = table.shape[1]
        if own < 2:
            continue
        between, residual = _mean_squares(table)
        fewest = min(fewest, own - 1)
        if between > residual:
            scale = 1 / (patients * own)
            variance += scale * (between - residual)
            squares += (scale * between) ** 2 / (own - 1)
            squares += (scale * residual) ** 2 / ((patients - 1) * (own - 1))
    df = max(float(fewest), variance**2 / squares) if squares else float(fewest)
    error = variance**0.5
    reach = float(stats.t.ppf((1 + level) / 2, df)) * error
    p = 2 * float(stats.t.sf(abs(mean) / error, df)) if error else np.nan
    return Nested(mean, mean - reach, mean + reach, df, p, networks, patients)


def nested_intervals(
    frame: pd.DataFrame,
    value: str,
    method: str = "method",
    network: str = "target_model",
    patient: str = "patient_id",
    behind: str | None = None,
    level: float = 0.95,
) -> pd.DataFrame:
    """`nested_interval` of every method.

    A patient's value is the mean over its rows; patients that some network lacks are left out for all.

    Args:
        frame: one row a value, with the columns named in the other arguments.
        value: the column of numbers.
        method: the column that says what training a network is of.
        network: the column of networks, each of one method.
        patient: the column of patients.
        behind: a method: of every other, how far its mean lies below this one's; its own row is NaN.
        level: as in `nested_interval`.

    Returns:
        A row a method, in sorted order: the column `method`, then NESTED.
    """
    texts = frame.astype({network: str, method: str})
    wide = texts.groupby([patient, network], observed=True)[value].mean().unstack().dropna()
    pairs = texts[[method, network]].drop_duplicates().sort_values([method, network])
    tables = {str(name): wide[list(own[network])].to_numpy(float) for name, own in pairs.groupby(method)}
    rows = []
    for name, table in tables.items():
        if not len(table) or name == behind:
            found = Nested(np.nan, np.nan, np.nan, np.nan, np.nan, table.shape[1], len(table))
        elif behind is None:
            found = nested_interval(table, level=level)
        else:
            found = nested_interval(tables[behind], table, level)
        rows.append({method: name, **{each: getattr(found, each) for each in NESTED}, "networks": table.shape[1]})
    return pd.DataFrame(rows, columns=[method, *NESTED])


def _mean_squares(table: Array) -> tuple[float, float]:
    """Between networks, and of the residuals, of a table `[P, N]` of two patients and networks or more."""
    patients, networks = table.shape
    of_networks = table.mean(axis=0)
    residuals = table - table.mean(axis=1, keepdims=True) - of_networks + table.mean()
    between = patients * float(of_networks.var(ddof=1))
    return between, float((residuals**2).sum()) / ((patients - 1) * (networks - 1))


def _table(values: ArrayLike) -> Array:
    table = np.asarray(values, float)
    if table.ndim != 2 or not table.size or not np.isfinite(table).all():
        raise ValueError(f"expected finite values [patients, networks], got {table.shape}: leave out what is undefined")
    return table
