"""Clinical: the clean volumes and each attack in the metrics that a job asked for."""

import numpy as np
import pytest
from reporting.handmade import row, shown

from freqbench.reporting.render.columns import columns_of
from freqbench.reporting.views.clinical import clinical


def test_the_clean_row_counts_each_case_once_and_metrics_that_nobody_asked_for_have_no_column() -> None:
    cases = [{"case": number, "nsd_clean": 0.9, "assd_mm_clean": 1.0 + number} for number in (0, 1)]
    rows = [row("pgd", nsd=0.2, assd_mm=6.0, **cases[0]), row("pgd", nsd=0.4, assd_mm=np.nan, **cases[1])]
    rows += [row("gn", nsd=0.8, assd_mm=2.0, **cases[0]), row("gn", target="other", nsd=0.0, **cases[0])]
    (section,) = clinical(shown(*rows))
    headings = [column.heading for column in columns_of(section)]
    assert headings == ["attack", "threat\nmodel", "n", "NSD", "ASSD\nmm"]
    found = {name: values for name, _, *values in section.table.itertuples(index=False)}
    assert found["clean"] == [2, pytest.approx(90), "1.50"]
    assert found["pgd eps=8/255"] == [2, pytest.approx(30), "6.00"]
    assert found["gn std=8/255"] == [1, pytest.approx(80), "2.00"]
