"""Computes means over patients and trained networks, with intervals for new patients and new trainings."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import special

from freqbench.analysis.statistics import DICE, FEWEST, LEVEL, POINTS, Array, inside


class Nested(NamedTuple):
    """Mean over patients and networks, or the difference of two, with its interval, Satterthwaite's degrees of freedom
    and the uncorrected two-sided p of a mean of 0. All but the mean are NaN with one patient, p also where nothing
    varies. `networks` are those of the method, `patients` those scored on all networks."""

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
    squares, fewest = variance**2 / (patients - 1), patients - 1
    for _, table in tables:
        count = table.shape[1]
        if count < 2:
            continue
        between, residual = _mean_squares(table)
        fewest = min(fewest, count - 1)
        if between > residual:
            scale = 1 / (patients * count)
            variance += scale * (between - residual)
            squares += (scale * between) ** 2 / (count - 1)
            squares += (scale * residual) ** 2 / ((patients - 1) * (count - 1))
    df = max(float(fewest), variance**2 / squares) if squares else float(fewest)
    error = variance**0.5
    reach = float(special.stdtrit(df, (1 + LEVEL) / 2)) * error
    p = 2 * float(special.stdtr(df, -abs(mean) / error)) if error else np.nan
    return Nested(mean, mean - reach, mean + reach, df, p, networks, patients)


def nested_intervals(frame: pd.DataFrame, value: str, behind: str | None = None) -> pd.DataFrame:
    """Computes `nested_interval` for each training method: one row per `method`, sorted, with the fields of Nested.

    A patient's value is the mean over its rows; patients that some network lacks are left out for all. Fewer than
    FEWEST have no interval. Bounds of means are on the logit scale within DICE, those of distances are cut at POINTS.

    Args:
        frame: one row per value, with the columns `method`, `target_model` (a network of one method) and `patient_id`.
        value: a Dice x100 where the interval counts.
        behind: a method; the others' means are then their distance below its mean, and its own row is NaN.
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


def _mean_squares(table: Array) -> tuple[float, float]:
    """Mean squares between networks, and of the residuals, of a table `[P, N]`."""
    patients, networks = table.shape
    of_networks = table.mean(axis=0)
    residuals = table - table.mean(axis=1, keepdims=True) - of_networks + table.mean()
    between = patients * float(of_networks.var(ddof=1))
    return between, float((residuals**2).sum()) / ((patients - 1) * (networks - 1))
