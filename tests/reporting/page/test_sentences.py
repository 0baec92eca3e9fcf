"""The sentences of the page: numbers that follow from rows made by hand."""

from typing import Any

import pytest
from reporting.handmade import row, shown

from freqbench.reporting.page import page_data


def said(*rows: dict[str, Any]) -> list[str]:
    found = page_data(shown(*rows), None, [])
    names = [found["summary"]["texts"]["attack"], found["summary"]["texts"]["source"]]
    for each in found["findings"]:
        attack, source = (column["values"][column["codes"][each["row"]]] for column in names)
        assert attack in each["text"]
        assert source in each["text"]
    return [each["text"] for each in found["findings"]]


def scored(attack: str, drop: float, source: str = "unet", target: str = "unet", **values: Any) -> dict[str, Any]:
    return row(attack, source=source, target=target, dsc=0.9 - drop / 100, dsc_clean=0.9, **values)


def test_the_largest_drop_of_each_threat_model_with_what_of_it_transfers() -> None:
    assert said(
        *(scored("vafa", drop, case=case) for case, drop in enumerate((40.0, 53.6))),
        *(scored("vafa", drop, target="unetr", case=case) for case, drop in enumerate((16.0, 16.76))),
        *(scored("vafa", drop, target="other", case=case) for case, drop in enumerate((1.0, 2.0))),
        scored("pgd", 20.0),
        scored("pgd", 3.0, budget=1 / 255),
        scored("pgd", -2.0, target="unetr"),
        scored("gn", 0.4),
    ) == [
        "dct-quantization: vafa q_max=20 takes 46.8 points of foreground DSC from unet (90.0 to 43.2, mean of 2 cases)"
        ", 35 % of which transfers to unetr, the most of 2 models.",
        "linf: pgd eps=8/255 takes 20.0 points of foreground DSC from unet (90.0 to 70.0, one case), 0 % of which "
        "transfers to unetr.",
    ]


def test_a_null_row_is_no_attack_and_says_what_needs_no_optimisation() -> None:
    null = scored("vafa", 30.0, params={"control": "uniform"})
    assert said(scored("vafa", 25.0), null) == [
        "dct-quantization: vafa q_max=20 takes 25.0 points of foreground DSC from unet (90.0 to 65.0, one case); the "
        "same change without optimisation (uniform) takes 30.0."
    ]
    assert said(null) == []


@pytest.mark.parametrize("missing", [True, False])
def test_a_model_keeps_most_only_among_those_that_met_the_same_attacks(missing: bool) -> None:
    rows = [scored("pgd", 20.0), scored("vafa", 30.0), scored("pgd", 25.0, "b", "b"), scored("vafa", 4.0, "b", "b")]
    texts = said(*(rows[:3] if missing else rows))
    wanted = (
        "b keeps most: none of the 2 attacks takes more than 25.0 points from it (pgd eps=8/255); unet loses up to "
        "30.0 (vafa q_max=20)."
    )
    assert (wanted in texts) is not missing
