"""Leaderboard: models, or the methods that trained them, by their worst case within a threat model and budget."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from reporting.handmade import data_lines, row, shown, t_interval, t_test
from scipy.special import expit, logit

from freqbench.analysis.statistics import nested_interval
from freqbench.reporting.views.leaderboard import leaderboard, methods_of

STEPS = ({"steps": 10}, {"steps": 20})


def on(model: str, attack: str, scores: Sequence[float], **values: Any) -> list[dict[str, Any]]:
    return [
        row(attack, source=model, target=model, case=case, dsc=score, dsc_clean=0.9, **values)
        for case, score in enumerate(scores)
    ]


@pytest.fixture
def two_models() -> list[dict[str, Any]]:
    """The lowest of each case: 40 and 50 on a, 60 and 20 on b."""
    made = [
        *on("a", "pgd", (0.4, 0.8), params=STEPS[0]),
        *on("a", "pgd", (0.7, 0.5), params=STEPS[1]),
    ]
    made += [
        *on("b", "pgd", (0.6, 0.2), params=STEPS[0]),
        *on("b", "pgd", (0.8, 0.4), params=STEPS[1]),
    ]
    return made


def board(frame: pd.DataFrame) -> tuple[list[dict[str, Any]], str]:
    (section,) = leaderboard(frame)
    return data_lines(section), section.text


def test_models_rank_by_the_mean_of_the_worst_case(two_models: Any) -> None:
    (first, second), _ = board(shown(*two_models))
    behind = [second[name] for name in ("behind", "behind_low", "behind_high", "p")]
    assert behind == pytest.approx([5, *t_interval(-20, 30), t_test(-20, 30)], nan_ok=True)  # 40 - 60 and 50 - 20
    assert (second["order"], first["order"], pd.isna(first["behind"])) == ("open", "", True)
    assert (first["rank"], first["target_model"], second["rank"], second["target_model"]) == (1, "a", 2, "b")
    scores = (first["dsc_foreground"], first["low"], first["high"], first["dsc_foreground_drop"])
    assert scores == pytest.approx((45, *t_interval(40, 50), 45), nan_ok=True)
    assert second["strongest"] == "pgd eps=8/255 steps=10"
    assert (second["num_attacks"], second["cases"], second["patients"]) == (2, 2, 2)


def test_order_holds_by_the_test_over_all_boards() -> None:
    """p is 0.026 of a against b and b against c, 0.001 of a against c, and 0.019 of the pair of the other board: the
    smallest counts four times, the next three times, and those above it are at least that."""
    rows = [
        *on("a", "pgd", (0.62, 0.61, 0.62)),
        *on("b", "pgd", (0.58, 0.56, 0.55)),
        *on("c", "pgd", (0.51, 0.51, 0.51)),
    ]
    rows += [
        *on("a", "vafa", (0.6, 0.6, 0.6)),
        *on("b", "vafa", (0.55, 0.54, 0.52)),
    ]
    lines, _ = board(shown(*rows))
    by_place = {(line["threat_model"], line["target_model"]): line for line in lines}
    once, sure, other = (t_test(*gains) for gains in ((4, 5, 7), (11, 10, 11), (5, 6, 8)))
    assert other < once < 0.05 < 3 * other
    b, c, vafa = (by_place[key] for key in (("linf", "b"), ("linf", "c"), ("dct-quantization", "b")))
    assert [line["p"] for line in (b, c, vafa)] == pytest.approx([once, sure, other])
    assert [line["p_holm"] for line in (b, c, vafa)] == pytest.approx([3 * other, 4 * sure, 3 * other])
    assert [line["order"] for line in (b, c, vafa)] == ["open", "holds", "open"]
    assert b["behind_low"] > 0  # of its own, uncorrected


def test_foreground_ranks_and_other_scores_are_of_same_volumes() -> None:
    """b is ahead by the papers' DSC; of a, 10 steps leave less foreground and more of all classes."""
    rows = [
        *on("a", "pgd", (0.7,), dsc_foreground=0.5, hd95_penalised=3.0, params=STEPS[0]),
        *on("a", "pgd", (0.6,), dsc_foreground=0.6, hd95_penalised=9.0, params=STEPS[1]),
    ]
    rows += [
        *on("b", "pgd", (0.9,), dsc_foreground=0.4, hd95_penalised=5.0, params=STEPS[0]),
        *on("b", "pgd", (0.9,), dsc_foreground=0.4, hd95_penalised=5.0, params=STEPS[1]),
    ]
    (first, second), _ = board(shown(*rows))
    assert (first["target_model"], second["target_model"]) == ("a", "b")
    assert (first["dsc_foreground"], first["dsc"], first["hd95_penalised"]) == pytest.approx((50, 70, 3))
    assert first["strongest"] == "pgd eps=8/255 steps=10"


def test_attack_or_case_that_one_model_lacks_flatters_no_other(two_models: Any) -> None:
    extra = on("a", "pgd", (0.0, 0.0), params={"steps": 40})
    easy = [row("pgd", source="b", target="b", case=5, dsc=0.9, dsc_clean=0.9, params=each) for each in STEPS]
    (first, second), text = board(shown(*two_models, *extra, *easy))
    assert (first["target_model"], first["dsc_foreground"]) == ("a", pytest.approx(45))
    assert (second["target_model"], second["dsc_foreground"], second["cases"]) == ("b", pytest.approx(40), 2)
    assert "not run on every model, so not counted: pgd eps=8/255 steps=40" in text
    assert "1 cases left out" in text


def test_threat_models_and_budgets_have_their_own_ranks() -> None:
    rows = [
        *on("a", "pgd", (0.5,)),
        *on("b", "pgd", (0.4,)),
        *on("a", "pgd", (0.6,), budget=4 / 255),
    ]
    rows += [
        *on("b", "pgd", (0.7,), budget=4 / 255),
        *on("b", "vafa", (0.1,)),
    ]
    lines, text = board(shown(*rows))
    assert [(line["threat_model"], line["budget"], line["rank"], line["target_model"]) for line in lines] == [
        ("dct-quantization", "q_max=20", 1, "b"),
        ("linf", "eps=4/255", 1, "b"),
        ("linf", "eps=4/255", 2, "a"),
        ("linf", "eps=8/255", 1, "a"),
        ("linf", "eps=8/255", 2, "b"),
    ]
    assert "dct-quantization, q_max=20: one model only" in text


def test_the_lowest_seed_counts() -> None:
    (line,), _ = board(shown(*on("a", "pgd", (0.5, 0.7)), *on("a", "pgd", (0.6, 0.4), seed=1)))
    assert (line["dsc_foreground"], line["seeds"]) == (pytest.approx(45), 2)


def test_models_that_share_no_case_have_no_ranks() -> None:
    rows = [*on("a", "pgd", (0.5,)), row("pgd", source="b", target="b", case=7, dsc=0.4, dsc_clean=0.9)]
    (section,) = leaderboard(shown(*rows))
    assert section.table is None
    assert "no ranks" in section.text


# Methods, of which networks are replicates
PGD = np.array([[40.0, 50.0], [60.0, 80.0], [50.0, 50.0]])
VAFT = np.array([[70.0], [20.0], [30.0]])


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    """`at-pgd` and its replicate, and `vaft`."""
    made = [
        *on("at-pgd", "pgd", PGD[:, 0] / 100, target_method="a" * 16),
    ]
    made += [
        *on("at-pgd.1", "pgd", PGD[:, 1] / 100, target_method="a" * 16),
    ]
    made += [
        *on("vaft", "pgd", VAFT[:, 0] / 100, target_method="b" * 16),
    ]
    return made


def test_methods_rank_by_their_networks_mean(rows: Any) -> None:
    (first, second), text = board(shown(*rows))
    ranked = [(each["rank"], each["target_model"], each["networks"]) for each in (first, second)]
    assert ranked == [(1, "at-pgd", 2), (2, "vaft", 1)]
    expected = nested_interval(PGD)
    away = (expected.high - 55) / 100 / (0.55 * 0.45)  # of the logit of 0.55
    ends = [100 * expit(logit(0.55) + sign * away) for sign in (-1, 1)]
    assert [first["dsc_foreground"], first["low"], first["high"]] == pytest.approx([55, *ends])
    others = [first[name] for name in ("dsc_foreground_clean", "dsc_foreground_drop", "cases", "patients")]
    assert others == pytest.approx([90, 35, 3, 3])
    expected = nested_interval(PGD, minus=VAFT)
    behind = [second[name] for name in ("behind", "behind_low", "behind_high")]
    assert behind == pytest.approx([15, expected.low, min(expected.high, 100)])
    assert pd.isna(first["behind"])
    assert "linf, eps=8/255: one network, so its intervals hold no spread of trainings: vaft." in text
    assert "holds the spread of both instead of that of patients alone" in text
    assert "one network a method" not in text.lower()
    (section,) = leaderboard(shown(*rows))
    assert section.title == "phantom: training methods by the worst case"
    assert section.table[["model", "networks"]].to_numpy().tolist() == [["at-pgd", 2], ["vaft", 1]]


def test_single_networks_of_methods_rank_as_networks(rows: Any) -> None:
    lines, text = board(shown(*rows[3:]))
    assert [line["target_model"] for line in lines] == ["at-pgd.1", "vaft"]
    assert "networks" not in lines[0]
    assert "One network a method: the order of networks, not of training methods." in text
    assert "One network a method" not in board(shown(*rows[6:]))[1]  # one network alone is no order


def test_trainings_of_one_name_are_two_methods() -> None:
    """Two stores have an `at` each; a third has a replicate of the first store's under a name of its own."""
    frame = shown(
        *on("unknown", "pgd", [0.01]),
        *on("at", "pgd", [0.01], target_model_id="1" * 16, source_model_id="1" * 16, target_method="a" * 16),
        *on("at", "pgd", [0.01], target_model_id="2" * 16, source_model_id="2" * 16, target_method="b" * 16),
        *on("seed seven", "pgd", [0.01], target_method="a" * 16),
    )
    of_names = {"at#111111": "at#111111", "at#222222": "at#222222", "seed seven": "at#111111", "unknown": "unknown"}
    assert methods_of(frame) == of_names


def test_rows_stored_before_methods_were_take_that_of_later_ones() -> None:
    rows = [*on("at", "pgd", [0.01]), *on("at", "pgd", [0.01, 0.02], budget=4 / 255, target_method="a" * 16)]
    assert methods_of(shown(*rows, *on("at.1", "pgd", [0.01], target_method="a" * 16))) == {"at": "at", "at.1": "at"}


def test_the_certified_end_stands_beside_the_worst_case() -> None:
    """The median certified at radius = sigma is the 16 % quantile, a little less of 1,000 draws."""
    draws = json.dumps({"dsc_foreground": [i / 1000 for i in range(1000)]})
    smoothed = {"draws": draws, "target_defence": '{"kind": "voxels", "sigma": 0.5}'}
    ball = {"threat_model": "l2", "budget_name": "radius", "budget": 0.5, "dsc": 0.5, "dsc_clean": 0.5}
    params = {"kind": "voxels", "control": "none"}
    null = {"kind": "voxels", "control": "random"}
    rows = [row("pgd", params, source="a", target="a", case=case, **ball, **smoothed) for case in (0, 1)]
    rows += [
        row("pgd", null, source="a", target="a", case=case, **ball | {"budget": 0.0}, **smoothed) for case in (0, 1)
    ]
    (section,) = leaderboard(shown(*(each | {"attack": "ball"} for each in rows)))
    assert section.table is not None
    (certified,) = section.table["certified\nat least"]
    assert 10 < certified < 15.9
