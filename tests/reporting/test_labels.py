"""Values are written as people write them."""

from typing import Any

import pytest

from freqbench.reporting.labels import value_text


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("eps", 4 / 255, "4/255"),
        ("std", 8 / 255, "8/255"),
        ("step_size", 0.01, "0.01"),
        ("eps", 0.0, "0"),
        ("eps", 1.0, "1"),
        ("q_max", 20.0, "20"),
        ("rho", 0.4, "0.4"),
        ("block", [8, 16, 32], "8x16x32"),
        ("random_start", True, "true"),
        ("band", None, "none"),
        ("control", "uniform", "uniform"),
        ("step_size", "eps/4", "eps/4"),
        ("organs", [1, 4], "1+4"),
        ("members", ["apgd-ce", "square"], "apgd-ce+square"),
        ("target", ["swap", 1, 2], "swap:1:2"),
        ("target", "next-class", "next-class"),
    ],
)
def test_values(name: str, value: Any, text: str) -> None:
    assert value_text(name, value) == text
