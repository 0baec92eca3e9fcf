"""Values are written as people write them, and attacks are named by what tells them apart."""

import json
from typing import Any

import pandas as pd
import pytest

from freqbench.analysis.labels import attack_labels, value_text


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        *(("eps", 4 / 255, "4/255"), ("std", 8 / 255, "8/255"), ("step_size", 0.01, "0.01"), ("eps", 0.0, "0")),
        *(("block", [8, 16, 32], "8x16x32"), ("organs", [1, 4], "1+4"), ("target", ["swap", 1, 2], "swap:1:2")),
        *(("eps", 1.0, "1"), ("random_start", True, "true"), ("band", None, "none"), ("step_size", "eps/4", "eps/4")),
    ],
)
def test_values(name: str, value: Any, text: str) -> None:
    assert value_text(name, value) == text


KINDS: dict[str, dict[str, Any]] = {
    "segpgd": {"budget_name": "eps", "budget": 8 / 255},
    "vafa": {"budget_name": "q_max", "budget": 20.0},
    "corruption": {"budget_name": "severity", "budget": 3.0},
    "random_noise": {"budget_name": "l2", "budget": 20.0},
    "faa": {"budget_name": "portion", "budget": 0.1},
    "fgsm": {"budget_name": None, "budget": None},
}


def labels_of(attack: str, *settings: dict[str, Any]) -> list[str]:
    """Labels of rows of one attack; each setting may have columns beside its parameters."""
    kind = {"attack": attack, "variant": "released", "precision": "fp32", "compile": False, **KINDS[attack]}
    rows = []
    for setting in settings:
        columns = {name: setting[name] for name in kind if name in setting}
        params = {name: value for name, value in setting.items() if name not in kind}
        own = kind | columns
        budget = {own["budget_name"]: own["budget"]} if own["budget_name"] else {}
        rows.append(own | {"params": json.dumps(budget | params)})
    return attack_labels(pd.DataFrame(rows)).astype(object).tolist()


LINF = {"budget_name": "linf", "budget": 8 / 255}
STEPS = {"variant": "paper", "steps": 10}


@pytest.mark.parametrize(
    ("attack", "settings", "labels"),
    [
        ("segpgd", [{"variant": "paper"}, STEPS], ["segpgd eps=8/255", "segpgd eps=8/255 steps=10"]),
        ("segpgd", [STEPS], ["segpgd eps=8/255"]),
        ("segpgd", [{"variant": "paper", "filter": ["low", 8]}], ["segpgd eps=8/255 filter=low:8"]),
        ("segpgd", [{"variant": "paper", "filter": None}], ["segpgd eps=8/255"]),
        ("vafa", [{"control": "uniform"}], ["vafa q_max=20 control=uniform"]),
        ("vafa", [{"control": "none"}, {"control": "random"}], ["vafa q_max=20", "vafa q_max=20 control=random"]),
        ("vafa", [{"variant": "paper"}], ["vafa q_max=20 variant=paper"]),
        ("corruption", [{"kind": "blur", "scope": "volume", "targeted": False}], ["corruption severity=3 kind=blur"]),
        ("faa", [{"variant": "reconstruction"}], ["faa portion=0.1 variant=reconstruction"]),
        ("fgsm", [{"variant": "paper", "precision": "bf16"}], ["fgsm variant=paper precision=bf16"]),
        ("fgsm", [{"variant": "paper", "compile": True}], ["fgsm variant=paper compile=true"]),
        # windows at once are parameters of coupled attacks alone, and are said where they tell rows apart
        ("vafa", [{"window_batch": n} for n in (2, 4)], [f"vafa q_max=20 window_batch={n}" for n in (2, 4)]),
        ("vafa", [{"window_batch": 2}], ["vafa q_max=20"]),
        # sources that cut a block differently stand side by side in a transfer matrix
        ("vafa", [{}, {"block_cut": "16x32x32"}], ["vafa q_max=20"] * 2),
        ("random_noise", [{"linf": None}, {"l2": None, **LINF}], ["random_noise l2=20", "random_noise linf=8/255"]),
    ],
)
def test_what_differs_is_said_and_what_is_the_same_is_not(
    attack: str, settings: list[dict[str, Any]], labels: list[str]
) -> None:
    """What makes another attack of it (a null row, a variant, a filter, a precision) always, other parameters where
    rows differ in them, in whatever order they come."""
    assert labels_of(attack, *settings) == labels
    assert labels_of(attack, *settings[::-1]) == labels[::-1]
