"""Student's t as scipy has it, and what a view's section says."""

from typing import Any

from scipy import stats

from freqbench.reporting.render import Section


def interval(*values: float) -> tuple[float, float]:
    """95 % of the mean of patients."""
    found = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    return float(found.low), float(found.high)


def p_value(*values: float) -> float:
    """Two-sided, of a mean of 0."""
    return float(stats.ttest_1samp(values, 0).pvalue)


def lines(section: Section) -> list[dict[str, Any]]:
    """The rows of a section's exact data."""
    return [{str(key): value for key, value in line.items()} for line in section.data.to_dict("records")]
