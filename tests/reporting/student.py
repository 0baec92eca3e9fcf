"""Student's t as scipy has it."""

from scipy import stats


def interval(*values: float) -> tuple[float, float]:
    """95 % of the mean of patients."""
    found = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    return float(found.low), float(found.high)


def p_value(*values: float) -> float:
    """Two-sided, of a mean of 0."""
    return float(stats.ttest_1samp(values, 0).pvalue)
