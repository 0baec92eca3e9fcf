"""Intervals over patients for verdicts: Student's t, as a bootstrap of three or five patients is far too narrow."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

LEVEL = 0.95


def t_intervals(
    frame: pd.DataFrame, by: Sequence[str], value: str, cluster: str = "patient_id", comparisons: int = 1
) -> pd.DataFrame:
    r"""Means over values with their 95 % intervals, patients being the independent units.

    Of k patients with sums S, counts N, and the mean over all values m (a ratio of totals: Cochran, Sampling
    Techniques, 3rd edition, 1977, chapter 6):

    .. math:: m = \frac{\sum_i S_i}{\sum_i N_i}, \qquad
              m \pm t_{k-1} \sqrt{\frac{k}{k-1} \sum_i (S_i - m N_i)^2} \Big/ \sum_i N_i

    With one value a patient that is the interval of a t-test. It leans on means that are about normal, and covers what
    it says from two patients on, at the price of its width: t is 12.7 of two, 4.3 of three, 2.8 of five.

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
    held = frame.dropna(subset=value)
    own = held.groupby([*by, cluster], observed=True)[value].agg(["sum", "count"])
    groups = own.groupby(list(by))
    totals = groups.agg(total=("sum", "sum"), n=("count", "sum"), clusters=("count", "size"))
    mean = totals["total"] / totals["n"]
    means = groups["sum"].transform("sum") / groups["count"].transform("sum")
    squares = ((own["sum"] - own["count"] * means) ** 2).groupby(list(by)).sum()
    k = totals["clusters"].where(totals["clusters"] > 1)
    reach = stats.t.ppf(1 - (1 - LEVEL) / comparisons / 2, k - 1) * np.sqrt(k / (k - 1) * squares) / totals["n"]
    rows = totals[["n", "clusters"]].assign(mean=mean, low=mean - reach, high=mean + reach)
    return rows.reset_index()[[*by, "mean", "low", "high", "n", "clusters"]]
