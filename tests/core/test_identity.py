"""Digests are canonical, draws hang on seed, case and window alone, metrics agree with columns, refusals are short."""

import io
import math
import re
import sys
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from rich.progress import Progress

from freqbench.core.errors import DataError, ParameterError, UserError, one_line, unknown
from freqbench.core.identity import digest, window_generator
from freqbench.core.measures import MEANS, METRIC_OF, METRICS, NUMBERS, UNDEFINED, Number, Tolerance
from freqbench.core.terminal import PlainConsole
from freqbench.results import CLASS_RECORDS, RECORDS
from freqbench.results.tolerances import TOLERANCES


def test_a_digest_of_today_stays() -> None:
    """blake2b over the JSON text `{"a":["0x1.0000000000000p-1",null],"b":1}`: keys of all stored results hang on it."""
    assert digest({"b": 1, "a": (0.5, None)}) == "8f5dd9c8efb0d2e2"


@pytest.mark.parametrize(
    ("one", "other"),
    [((1, 2), [1, 2]), ({"x": {"b": (1,), "a": None}}, {"x": {"a": None, "b": [1]}}), (0.1 + 0.2, 0.30000000000000004)],
)
def test_the_same_content_has_the_same_digest(one: Any, other: Any) -> None:
    assert digest(one) == digest(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (0.1, math.nextafter(0.1, 1)),
        ([1, 2], [2, 1]),
        (1, "1"),
        (True, 1),
        (None, "null"),
        ({"a": 1}, {"a": 1, "b": None}),
        ([["a"], "b"], [["a", "b"]]),
        ("é", "e"),
    ],
)
def test_another_content_has_another_digest(one: Any, other: Any) -> None:
    assert digest(one) != digest(other)


@pytest.mark.parametrize("value", [object(), {1, 2}, np.float32(1), torch.zeros(1)])
def test_a_value_without_a_canonical_form_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="an identity cannot hold"):
        digest({"a": [value]})


def draws(seed: int, fingerprint: str, window: int) -> list[float]:
    return torch.rand(4, generator=window_generator(seed, fingerprint, window)).tolist()


@pytest.mark.parametrize("other", [(1, "case", 0), (0, "other", 0), (0, "case", 1), (-1, "case", 0)])
def test_draws_differ_with_seed_case_and_window_alone(other: tuple[int, str, int]) -> None:
    assert draws(*other) == draws(*other) != draws(0, "case", 0)
    assert window_generator(0, "case", 0).initial_seed() == int(digest(["draw", 0, "case", 0]), 16) // 2


@pytest.mark.parametrize("metric", METRICS)
def test_first_column_of_metric_is_one_that_its_direction_is_of(metric: str) -> None:
    (main,) = (number for number in NUMBERS if number.name == METRICS[metric].columns[0])
    assert main.better == METRICS[metric].direction


def test_each_column_is_of_one_metric_and_in_records() -> None:
    columns = [*chain.from_iterable(metric.columns for metric in METRICS.values())]
    assert len(columns) == len(METRIC_OF)
    assert {*columns} <= {column.name for column in RECORDS}


@pytest.mark.parametrize("column", [*MEANS, *UNDEFINED])
def test_means_and_counts_of_records_are_of_a_column_of_classes(column: str) -> None:
    assert {**MEANS, **UNDEFINED}[column][0] in {column.name for column in CLASS_RECORDS}


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


@pytest.mark.parametrize(
    "error",
    [
        UserError(f"job.yaml: name: got {'9' * 5000}: give a shorter one"),
        DataError(f"job.yaml: {'/a' * 9000}: give a shorter one"),
        ParameterError("job.yaml", "eps", f"got {'9' * 5000}: give a shorter one"),
    ],
)
def test_a_refusal_keeps_its_begin_and_its_advice(error: UserError) -> None:
    assert len(str(error)) <= 1000
    assert str(error).startswith("job.yaml: ")
    assert str(error).endswith(": give a shorter one")


def test_a_long_text_is_cut_between_words() -> None:
    words = " ".join(f"word{number:03}" for number in range(500))
    assert (one_line(words, 20), one_line(words, 23)) == ("word000 word001 ...", "word000 word001 word002 ...")
    assert one_line("9" * 50, 20) == "9" * 20 + " ..."
    assert all(re.fullmatch(r"word\d{3}|\.\.\.", word) for word in str(UserError(words)).split())


@pytest.mark.parametrize("end", ["\n", "\r", "\x85", "\u2028"])
def test_a_refusal_is_one_line_whatever_it_repeats(end: str) -> None:
    assert str(UserError(f"pgd.a{end}: unknown parameter")) == "pgd.a : unknown parameter"


def test_unknown_name_is_told_some_of_many_names_and_nearest() -> None:
    said = unknown("case", "case_77x" + "y" * 9, [f"case_{i:04}" for i in range(1000)])
    assert said.endswith("case_0020, case_0021 and 975 more")
    assert "Did you mean 'case_" in said


def test_a_reset_of_colours_into_a_bar_s_stdout_is_no_text() -> None:
    """Ray's colorama writes it at exit if it was imported while a bar was shown; another escape stays visible."""
    console = PlainConsole(file=io.StringIO(), force_terminal=True, width=40)
    with Progress(console=console):
        stdout = sys.stdout
    console.file = io.StringIO()
    stdout.write("\x1b[0m")
    stdout.flush()
    assert console.file.getvalue() == ""
    stdout.write("\x1b[31mred")
    stdout.flush()
    assert "?[31mred" in console.file.getvalue()
