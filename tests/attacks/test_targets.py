"""Target rules: what they read, what they make of a label map, which names they know."""

from typing import Any

import pytest
import torch

from freqbench.attacks.core.targets import canonical, highest_class, target_map, with_indices
from freqbench.core.errors import ParameterError

NAMES = ("background", "liver", "spleen", "stomach")


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("next-class", [1, 2, 3, 0]),
        (("swap", 1, 3), [0, 3, 2, 1]),
        (("swap", 0, 2, 1, 3), [2, 3, 0, 1]),
        (("erase", 2), [0, 1, 0, 3]),
        (("erase", 1, 3), [0, 0, 2, 0]),
        ("least-likely", [3, 2, 1, 0]),
    ],
    ids=str,
)
def test_rules_map_every_class_to_its_target(rule: Any, expected: list[int]) -> None:
    labels = torch.arange(4).reshape(1, 1, 4, 1, 1)
    logits = torch.zeros(1, 4, 4, 1, 1)
    for voxel, least in enumerate([3, 2, 1, 0]):
        logits[0, least, voxel] = -1
    assert target_map(rule, labels, logits).flatten().tolist() == expected


@pytest.mark.parametrize(
    ("written", "rule"),
    [
        ("next-class", "next-class"),
        ({"swap": {6: 1}}, ("swap", 1, 6)),
        (["swap", 6, 1], ("swap", 1, 6)),
        ({"swap": {6: 1, 0: 4}}, ("swap", 0, 4, 1, 6)),
        (("swap", 1, 6, 4, 0), ("swap", 0, 4, 1, 6)),
        ({"erase": 3}, ("erase", 3)),
        ({"erase": [3, 2]}, ("erase", 2, 3)),
        ("erase", None),
        ({"swap": {1: 2, 2: 3}}, None),
        ({"erase": {1: 2}}, None),
        ({"erase": True}, None),
        ({"erase": [[1]]}, None),
        (("erase",), None),
        ({}, None),
    ],
    ids=str,
)
def test_a_rule_has_one_spelling(written: Any, rule: Any) -> None:
    assert canonical(written) == rule


def test_highest_class_of_a_rule_is_the_largest_that_it_names() -> None:
    assert [highest_class(rule) for rule in (None, "next-class", ("swap", 1, 6), ("erase", 3))] == [0, 0, 6, 3]


def test_names_become_indices_and_indices_stay() -> None:
    given = {"eps": 0.1, "organs": ("spleen", 3), "target": {"swap": {"liver": 2}}}
    assert with_indices("pgd", given, NAMES) == {"eps": 0.1, "organs": (2, 3), "target": ("swap", 1, 2)}
    assert with_indices("pgd", {"target": {"erase": "stomach"}}, NAMES) == {"target": ("erase", 3)}
    assert with_indices("pgd", {"target": {"erase": ["stomach", "liver"]}}, NAMES) == {"target": ("erase", 3, 1)}


@pytest.mark.parametrize("given", [{"target": "next-class"}, {"target": {"swop": {"a": "b"}}}, {"organs": "liver"}])
def test_an_invalid_rule_is_left_to_the_attack(given: dict[str, Any]) -> None:
    assert with_indices("pgd", given, NAMES) == given


@pytest.mark.parametrize(
    "given", [{"organs": ("lver",)}, {"target": {"erase": "lver"}}, {"target": {"swap": {"spleen": "lver"}}}], ids=str
)
def test_an_unknown_name_comes_with_a_suggestion(given: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=r"unknown class 'lver'. Did you mean 'liver'\?") as caught:
        with_indices("pgd", given, NAMES)
    assert caught.value.parameter in given
