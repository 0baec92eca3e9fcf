"""The table of metrics agrees with itself and with the columns of a store."""

import math

import pytest

from freqbench.core.measures import MEANS, METRIC_OF, METRICS, NUMBERS, UNDEFINED, Number, Tolerance
from freqbench.results import CLASS_RECORDS, RECORDS
from freqbench.results.tolerances import TOLERANCES

OF_CLASSES = {column.name for column in CLASS_RECORDS}


@pytest.mark.parametrize("metric", METRICS)
def test_first_column_of_metric_is_one_that_its_direction_is_of(metric: str) -> None:
    (main,) = (number for number in NUMBERS if number.name == METRICS[metric].columns[0])
    assert main.better == METRICS[metric].direction


def test_each_column_is_of_one_metric_and_in_records() -> None:
    columns = [column for metric in METRICS.values() for column in metric.columns]
    assert len(columns) == len(METRIC_OF)
    assert {*columns} <= {column.name for column in RECORDS}


@pytest.mark.parametrize("column", [*MEANS, *UNDEFINED])
def test_means_and_counts_of_records_are_of_a_column_of_classes(column: str) -> None:
    assert {**MEANS, **UNDEFINED}[column][0] in OF_CLASSES


def test_number_of_both_volumes_has_two_columns() -> None:
    number = Number("m", "n", "mm", "lower", "a row", (Tolerance(1, 0.5), Tolerance(0.25)), of_class="a class")
    clean = "the same on the clean volume"
    assert [*number.columns()] == [("n", "a row", Tolerance(1, 0.5)), ("n_clean", clean, Tolerance(0.25))]
    assert [*number.columns(True)] == [("n", "a class", Tolerance(3, 1.5)), ("n_clean", clean, Tolerance(0.75))]


def test_number_without_tolerance_must_be_equal() -> None:
    assert [*Number("m", "n", "count", "lower", "a row").columns()] == [("n", "a row", Tolerance())]
    assert {name for name in UNDEFINED if name in TOLERANCES["records"]} == set()


@pytest.mark.parametrize(("stored", "again"), [(math.inf, 1.0), (1.0, math.inf), (math.inf, -math.inf)])
def test_an_infinite_number_agrees_with_itself_alone(stored: float, again: float) -> None:
    assert Tolerance(1, 0.5).allows(math.inf, math.inf)
    assert not Tolerance(1, 0.5).allows(stored, again)
