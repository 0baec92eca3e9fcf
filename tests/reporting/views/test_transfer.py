"""Transfer: rates and ranks of records whose drops are known."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from reporting.handmade import row, shown

from freqbench.reporting.views.transfer import transfer


def volumes(attack: str, case: int, drops: dict[str, float], **values: Any) -> list[dict[str, Any]]:
    """Records of one case: `drops` in points by source and target, such as `ab`."""
    return [
        row(attack, source=pair[0], target=pair[1], case=case, dsc_clean=0.9, dsc=0.9 - drop / 100, **values)
        for pair, drop in drops.items()
    ]


@pytest.fixture
def two_patients() -> list[dict[str, Any]]:
    """a to b arrive 10 of 40 and 10 of 20 points, b to a 15 of 20 and 15 of 20: of each alone, rates of 50 and 62.5."""
    first = volumes("pgd", 0, {"aa": 40, "ab": 10, "bb": 20, "ba": 15})
    return first + volumes("pgd", 1, {"aa": 20, "ab": 10, "bb": 20, "ba": 15})


def test_rate_is_share_of_white_box_drop_that_arrives(two_patients: Any) -> None:
    alone = row("pgd", source="a", target="b", case=2, dsc_clean=0.9, dsc=0.0)  # which only one model scored
    rates, *_ = transfer(shown(*two_patients, alone))
    line = rates.data.iloc[0]
    assert line["rate"] == pytest.approx((100 * 10 / 30 + 75) / 2)
    assert math.isnan(line["rate_low"])  # of two patients
    assert (line["pairs"], line["undefined"], line["white_box"]) == (2, 0, pytest.approx(25))


def test_matrix_says_points_and_per_cent_and_marks_white_box(two_patients: Any) -> None:
    assert transfer(shown(*two_patients))[1].table[["made on", "a", "b"]].to_numpy().tolist() == [
        ["a", "30.0*", "10.0 (33 %)"],
        ["b", "15.0 (75 %)", "20.0*"],
    ]


def test_a_white_box_drop_of_nearly_nothing_has_no_rate() -> None:
    ranking, matrix = transfer(shown(*volumes("pgd", 0, {"aa": 0.9, "ab": 10, "bb": 20, "ba": 15})))
    assert ranking.data.loc[0, ["rate", "pairs", "undefined"]].tolist() == pytest.approx([75, 2, 1])
    assert matrix.table.loc[0, "b"] == "10.0"
    none = volumes("pgd", 0, {"aa": 0.9, "ab": 10})
    assert np.isnan(transfer(shown(*none))[0].data["rate"].iloc[0])  # type: ignore[index]


def test_a_patient_that_one_pair_lacks_counts_in_the_others() -> None:
    """a to b: 20 of 60 points over two patients; b to a: 15 of 20 of one."""
    first = volumes("pgd", 0, {"aa": 40, "ab": 10, "bb": 20, "ba": 15})
    ranking, *_ = transfer(shown(*first, *volumes("pgd", 1, {"aa": 20, "ab": 10})))
    assert ranking.data["rate"].tolist() == pytest.approx([(100 / 3 + 75) / 2])


def test_ranks_hold_within_a_threat_model_and_budget_only() -> None:
    rows = [
        *volumes("pgd", 0, {"aa": 40, "ab": 10}, params={"steps": 10}),
        *volumes("pgd", 0, {"aa": 40, "ab": 20}, params={"steps": 20}),
    ]
    rows += [
        *volumes("pgd", 0, {"aa": 40, "ab": 4}, budget=4 / 255, params={"steps": 20}),
        *volumes("vafa", 0, {"aa": 40, "ab": 30}),
    ]
    rows += [
        *volumes("vafa", 0, {"aa": 40, "ab": 40}, params={"control": "random"}),
        *volumes("dfb", 0, {"aa": 40, "ab": 30}),
    ]
    table = transfer(shown(*rows))[0].table
    assert {name: None if pd.isna(rank) else rank for name, rank in table[["attack", "rank"]].to_numpy()} == {
        "vafa q_max=20": 1,
        "vafa q_max=20 control=random": None,
        "pgd eps=4/255 steps=20": 1,
        "pgd eps=8/255 steps=20": 1,
        "pgd eps=8/255 steps=10": 2,
        "dfb": None,
    }


def test_rates_are_of_the_foreground() -> None:
    """The foreground loses 40 points at home and 10 abroad, all classes 20 and 2. Distances stand beside, x100."""
    same = {"source": "a", "dsc_foreground_clean": 0.9, "dsc_clean": 0.9, "ssim_body": 0.8, "lpips_body": 0.3}
    rows = [
        row("pgd", target=target, dsc_foreground=score, dsc=dsc, **same)
        for target, (score, dsc) in {"a": (0.5, 0.7), "b": (0.8, 0.88)}.items()
    ]
    (line,) = transfer(shown(*rows))[0].table.to_dict("records")
    assert (line["rate %"], line["transferred drop"], line["dsc_drop"]) == pytest.approx((25, 10, 2))
    assert (line["ssim_body"], line["lpips_body"]) == pytest.approx((80, 70))


def test_rows_that_cannot_be_compared_have_a_sentence_instead() -> None:
    for pair, advice in (("aa", "targets: all"), ("ab", "run the sources as targets too")):
        (section,) = transfer(shown(*volumes("pgd", 0, {pair: 10})))
        assert section.table is None
        assert advice in section.text
    ranking, _ = transfer(shown(*volumes("pgd", 0, {"aa": 40, "ab": 10})))
    assert (ranking.table["interval"].tolist(), "too few for an interval" in ranking.text) == ([""], True)


def test_a_model_called_as_a_column_stays_a_model() -> None:
    scores = {"attack": 0.5, "made on": 0.8}
    rows = [row("pgd", source="attack", target=target, dsc_clean=0.9, dsc=dsc) for target, dsc in scores.items()]
    table = transfer(shown(*rows))[1].table
    assert list(table) == ["attack", "threat_model", "made on", "attack (model)", "made on (model)"]
    assert table.to_numpy().tolist() == [["pgd eps=8/255", "linf", "attack", "40.0*", "10.0 (25 %)"]]
