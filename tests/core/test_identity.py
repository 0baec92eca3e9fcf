"""Digests are canonical, and draws hang on seed, case and window alone."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from freqbench.core.identity import digest, window_generator


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
        (0.1, math.nextafter(0.1, 1)), ([1, 2], [2, 1]), (1, "1"), (True, 1), (None, "null"),
        ({"a": 1}, {"a": 1, "b": None}), ([["a"], "b"], [["a", "b"]]), ("é", "e"),
    ],
)  # fmt: skip
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
