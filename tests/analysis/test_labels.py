"""Values are written as people write them, and attacks are named by what tells them apart."""

from typing import Any

import pytest
from reporting.handmade import records, row

from freqbench.analysis.labels import attack_labels, value_text


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        *(("eps", 4 / 255, "4/255"), ("std", 8 / 255, "8/255"), ("step_size", 0.01, "0.01"), ("eps", 0.0, "0")),
        *(("block", [8, 16, 32], "8x16x32"), ("organs", [1, 4], "1+4"), ("target", ["swap", 1, 2], "swap:1:2")),
        *(("eps", 1.0, "1"), ("random_start", True, "true"), ("band", None, "none"), ("step_size", "eps/4", "eps/4")),
    ],
)
def test_a_value_is_written_as_people_write_it(name: str, value: Any, text: str) -> None:
    assert value_text(name, value) == text


COLUMNS = ("variant", "precision", "compile", "budget_name", "budget")


def labels_of(attack: str, *settings: dict[str, Any]) -> list[str]:
    rows = []
    for setting in settings:
        own = {name: setting[name] for name in COLUMNS if name in setting}
        rows.append(row(attack, {name: setting[name] for name in setting if name not in COLUMNS}, **own))
    return attack_labels(records(*rows)).astype(object).tolist()


LINF = {"budget_name": "linf", "budget": 8 / 255}
STEPS = {"variant": "paper", "steps": 10}


@pytest.mark.parametrize(
    ("attack", "settings", "labels"),
    [
        ("segpgd", [{"variant": "paper"}, STEPS], ["segpgd eps=8/255", "segpgd eps=8/255 steps=10"]),
        ("segpgd", [STEPS], ["segpgd eps=8/255"]),
        ("pgd", [{"target": ["erase", 1]}], ["pgd eps=8/255 target=erase:1"]),
        ("pgd", [{"target": None}], ["pgd eps=8/255"]),
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
def test_label_says_what_differs_alone(attack: str, settings: list[dict[str, Any]], labels: list[str]) -> None:
    """A null row, a variant or a precision is always said, others where rows differ, in any order."""
    assert (labels_of(attack, *settings), labels_of(attack, *settings[::-1])) == (labels, labels[::-1])
