"""Values are written as people write them."""

import json
from typing import Any

import pandas as pd
import pytest

from freqbench.analysis.labels import attack_labels, value_text


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
        ("channels", [0, 2], "0+2"),
        ("members", ["apgd-ce", "square"], "apgd-ce+square"),
        ("target", ["swap", 1, 2], "swap:1:2"),
        ("target", "next-class", "next-class"),
    ],
)
def test_values(name: str, value: Any, text: str) -> None:
    assert value_text(name, value) == text


def labels_of(*settings: dict[str, Any]) -> list[str]:
    same = {"attack": "segpgd", "budget_name": "eps", "budget": 8 / 255, "precision": "fp32", "compile": False}
    rows = [
        same | {"variant": params["variant"], "params": json.dumps({"eps": 8 / 255} | params)} for params in settings
    ]
    return attack_labels(pd.DataFrame(rows)).tolist()


def test_a_corruption_s_kind_is_always_said_and_its_scope_never() -> None:
    same = {"attack": "corruption", "variant": "released", "budget_name": "severity", "precision": "fp32"}
    params = {"kind": "blur", "severity": 3.0, "scope": "volume", "targeted": False, "filter": None}
    frame = pd.DataFrame([same | {"compile": False, "budget": 3.0, "params": json.dumps(params)}])
    assert attack_labels(frame).tolist() == ["corruption severity=3 kind=blur"]


def test_a_filter_is_always_said() -> None:
    assert labels_of({"variant": "paper", "filter": ["low", 8]}) == ["segpgd eps=8/255 filter=low:8"]
    assert labels_of({"variant": "paper", "filter": None}) == ["segpgd eps=8/255"]


@pytest.mark.parametrize(
    ("changed", "text"), [({"precision": "bf16"}, "precision=bf16"), ({"compile": True}, "compile=true")]
)
def test_a_reduced_precision_is_said_although_all_rows_have_it(changed: dict[str, Any], text: str) -> None:
    same = {"attack": "fgsm", "variant": "paper", "budget_name": None, "budget": None, "params": "{}"}
    frame = pd.DataFrame([same | {"precision": "fp32", "compile": False} | changed])
    assert [label.split()[-1] for label in attack_labels(frame)] == [text]


def test_windows_at_once_are_said_where_they_tell_rows_apart() -> None:
    """Only coupled attacks have them among their parameters."""
    two, four = ({"variant": "released", "window_batch": n} for n in (2, 4))
    assert labels_of(two, four) == [f"segpgd eps=8/255 variant=released window_batch={n}" for n in (2, 4)]
    assert labels_of(four) == ["segpgd eps=8/255 variant=released"]


def test_a_block_that_sources_cut_differently_is_one_attack() -> None:
    """Their rows stand side by side in a transfer matrix; each record says what became of its block."""
    whole, cut = ({"variant": "released"} | more for more in ({}, {"block_cut": "16x32x32"}))
    assert labels_of(whole, cut) == ["segpgd eps=8/255 variant=released"] * 2
