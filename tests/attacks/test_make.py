"""What `make` refuses, in one line that helps."""

from typing import Any

import pytest

from freqbench.attacks import make
from freqbench.errors import ParameterError, UserError


def test_unknown_names_come_with_a_suggestion() -> None:
    with pytest.raises(UserError, match="Did you mean 'pgd'"):
        make("pdg", eps=0.1)
    with pytest.raises(ParameterError, match="Did you mean 'steps'"):
        make("pgd", eps=0.1, step=3)
    with pytest.raises(ParameterError, match="pgd: eps: required"):
        make("pgd")


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"eps": True}, "eps: expected a number"),
        ({"eps": "8/255"}, "eps: expected a number"),
        ({"eps": float("nan")}, "eps: expected a number"),
        ({"eps": -0.1}, "eps: expected a number"),
        ({"eps": 0.1, "steps": 0}, "steps: expected a whole number of at least 1"),
        ({"eps": 0.1, "steps": 2.5}, "steps: expected a whole number"),
        ({"eps": 0.1, "random_start": 1}, "random_start: expected true or false"),
        ({"eps": 0.1, "variant": "mine"}, "variant: expected released or paper, got 'mine'"),
    ],
)
def test_wrong_parameters_are_refused(parameters: dict[str, Any], expected: str) -> None:
    with pytest.raises(ParameterError) as caught:
        make("pgd", **parameters)
    assert expected in str(caught.value)
