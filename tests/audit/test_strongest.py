"""Whether a claim survives the strongest attack with the same bounds: planted scores, and an interval of scipy."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
from audit.planted import CASES, EPS, evidence, rows
from reporting.conftest import make_row
from scipy import stats

from freqbench.audit.checks import Finding, audited
from freqbench.audit.checks.table import CHECKS, ModelVerdict, verdicts

Rows = list[dict[str, Any]]


def planted(name: str, fg: float, **changes: Any) -> Rows:
    """Rows of an attack that leave this mean foreground DSC x100, spread alike over cases."""
    return rows(name, left=fg + 4, noise=0.0, **changes)


def claims(own: Rows, added: Sequence[dict[str, Any]] = ()) -> list[Finding]:
    made = evidence([*own, *added], added=frozenset(row["cell_id"] for row in added))
    return CHECKS["strongest"].run(made)


def claim(own: Rows, added: Sequence[dict[str, Any]] = ()) -> Finding:
    (one,) = claims(own, added)
    return one


def verdict(own: Rows, added: Rows) -> ModelVerdict:
    made = evidence([*own, *added], added=frozenset(row["cell_id"] for row in added))
    (one,) = verdicts(audited(made))
    return one


SUITE = [*planted("dice", 62.3), *planted("ce", 70.0)]


def test_a_claim_that_another_loss_beats_falls_with_both_numbers() -> None:
    found = claim(planted("pgd", 62.4), [*planted("dice", 55.1), *planted("ce", 64.0)])
    assert (found.verdict, found.subject) == ("violated", "linf eps=8/255")
    expected = "pgd eps=8/255 leaves 62.4, apgd eps=8/255 restarts=3 leaves 55.1"
    assert expected in found.sentence
    assert found.difference == pytest.approx(7.3)


def test_a_model_whose_claim_falls_is_flagged_without_a_word_of_its_gradients() -> None:
    found = verdict(planted("pgd", 62.4), planted("dice", 55.1))
    assert (found.verdict, found.flags) == ("flagged", ())
    assert found.sentence.startswith(
        "flagged: strongest (a stronger attack with the same bounds is known; no check of gradients was made). "
        "linf eps=8/255: pgd eps=8/255 leaves 62.4"
    )


def test_a_flag_of_gradients_and_a_fallen_claim_stand_side_by_side() -> None:
    found = verdict([*planted("pgd", 62.4), *planted("twice", 70)], planted("dice", 55.1))
    assert found.flags == ("budget",)
    assert "flagged: strongest, budget (a stronger attack with the same bounds is known; 1 sign of" in found.sentence


@pytest.mark.parametrize(("left", "expected"), [(61.95, "holds"), (61.85, "violated"), (70.0, "holds")])
def test_half_a_point_is_the_limit_and_weaker_attacks_do_no_harm(left: float, expected: str) -> None:
    """The same difference in every case leaves no doubt."""
    assert claim(planted("pgd", 62.4), [*planted("dice", left), *planted("ce", 70.0)]).verdict == expected


def test_a_gain_whose_interval_reaches_half_a_point_is_in_doubt() -> None:
    """1.2 points on average, of which the interval over patients leaves less than half a point."""
    added = [*planted("dice", 61.2), *planted("ce", 70.0)]
    for row in added:
        row["dsc_foreground"] += 0.006 * (-1) ** int(row["case_id"].removeprefix("case"))
    found = claim(planted("pgd", 62.4), added)
    assert found.verdict == "in doubt"
    assert 0 < found.low < 0.5
    assert verdict(planted("pgd", 62.4), added).verdict == "in doubt"


def test_one_patient_is_never_enough() -> None:
    own, added = planted("pgd", 62.4, cases=1), planted("dice", 30, cases=1)
    assert claim(own, added).verdict == "in doubt"


def test_the_interval_is_corrected_over_the_attacks_that_were_added() -> None:
    """Of two comparisons each is one of 97.5 %."""
    differences = [3.0, 4.5, 1.0, 2.5, 7.0, 4.0]
    own, added = planted("pgd", 62.4), planted("pgd", 62.4, params={"loss": "dice"})
    for row, difference in zip(added, differences, strict=True):
        row["dsc_foreground"] -= difference / 100
    found = claim(own, [*added, *planted("ce", 70.0)])
    expected = stats.ttest_1samp(differences, 0).confidence_interval(0.975)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert "together over 2 comparisons" in found.sentence


def test_without_the_strongest_forms_nothing_is_checked_and_they_are_named() -> None:
    found = claim(planted("pgd", 62.4))
    assert found.verdict == "not checked"
    assert "Not run: apgd (dice), apgd (ce): audit --run does." in found.sentence
    half = claim(planted("pgd", 62.4), planted("dice", 62.3))
    assert (half.verdict, "Not run: apgd (ce):" in half.sentence) == ("not checked", True)


@pytest.mark.parametrize("changes", [{"restarts": 1}, {"steps": 10}])
def test_a_form_of_fewer_steps_or_restarts_is_not_the_strongest(changes: dict[str, Any]) -> None:
    found = claim(planted("pgd", 62.4), [*planted("dice", 62.3, params=changes), *planted("ce", 70.0)])
    assert (found.verdict, "apgd (dice)" in found.sentence.partition("Not run")[2]) == ("not checked", True)


def test_forms_have_the_steps_of_the_store_s_longest_attack() -> None:
    assert claim(planted("pgd", 62.4, params={"steps": 40}), SUITE).verdict == "not checked"
    longer = [*planted("dice", 62.3, params={"steps": 40}), *planted("ce", 70.0, params={"steps": 40})]
    assert claim(planted("pgd", 62.4, params={"steps": 40}), longer).verdict == "holds"


def test_a_store_that_has_the_strongest_forms_itself_claims_no_more_than_they_leave() -> None:
    own = [*planted("pgd", 62.4), *planted("dice", 55.1), *planted("ce", 64.0)]
    found = claim(own)
    assert (found.verdict, "apgd eps=8/255 restarts=3 leaves 55.1" in found.sentence) == ("holds", True)


def test_an_attack_of_the_store_that_another_beats_at_equal_passes_is_named_and_no_more() -> None:
    """Both take 20 steps, the second looks at its last volume besides."""
    own = [
        *planted("pgd", 62.4),
        *planted("dice", 55.1, params={"restarts": 1}),
        *planted("pgd", 70, params={"steps": 5}),
    ]
    found = claim(own, [*planted("dice", 55.0), *planted("ce", 64.0)])
    assert found.verdict == "holds"
    named = found.sentence.partition("At equal or fewer passes: ")[2]
    assert named.startswith("pgd eps=8/255 steps=20 leaves 62.4, apgd eps=8/255 55.1")
    assert "steps=5" not in named


def test_the_store_s_strongest_is_that_of_the_same_cases() -> None:
    """Two easy cases alone make an attack look weak; the one that all cases had is the claim."""
    hard = planted("pgd", 60)
    two = [row | {"dsc_foreground": 0.1} for row in planted("fgsm", 60, cases=2)]
    found = claim([*hard, *two], [*planted("dice", 59.8), *planted("ce", 70.0)])
    assert (found.verdict, found.cases) == ("holds", CASES)
    assert "pgd eps=8/255 leaves 60.0" in found.sentence


def test_cases_that_one_of_them_lacks_do_not_count() -> None:
    own, added = planted("pgd", 62.4), planted("dice", 40, cases=3)
    assert claim(own, added).cases == 3


def test_what_leaves_nothing_cannot_be_beaten() -> None:
    assert claim(planted("pgd", 6), planted("dice", 1)).verdict == "holds"


@pytest.mark.parametrize(
    "other",
    [
        planted("half", 20),
        planted("noise", 20),
        planted("dice", 20, params={"organs": [1]}),
        planted("dice", 20, params={"target": "least-likely"}),
        planted("dice", 20, params={"filter": ["low", 8]}),
        planted("vafa", 20),
    ],
    ids=["eps", "noise", "organs", "target", "filter", "threat model"],
)
def test_attacks_with_other_bounds_or_aims_refute_nothing(other: Rows) -> None:
    found = claim(planted("pgd", 62.4), [*SUITE, *other])
    assert found.verdict == "holds"


@pytest.mark.parametrize("name", ["noise", "vafa uniform"])
def test_noise_and_null_rows_claim_nothing(name: str) -> None:
    found = claim(planted(name, 85))
    assert (found.verdict, found.sentence.startswith("Needs an untargeted attack")) == ("not checked", True)


def test_each_budget_is_a_claim_of_its_own() -> None:
    found = claims([*planted("pgd", 62.4), *planted("half", 70)], [*SUITE])
    assert {each.subject: each.verdict for each in found} == {
        "linf eps=8/255": "holds",
        "linf eps=4/255": "not checked",
    }


def test_another_model_s_attacks_refute_nothing() -> None:
    """A weak white-box attack is what `transfer` looks at."""
    transferred = rows("dice", "n", "m", left=30.0)
    found = [each for each in claims(planted("pgd", 62.4), [*SUITE, *transferred]) if each.model == "m"]
    assert [each.verdict for each in found] == ["holds"]


def test_a_claim_that_rests_on_another_package_s_attack_is_held_against_the_same_suite() -> None:
    own = [row | {"attack": "walk", "cell_id": f"walk{number}"} for number, row in enumerate(planted("pgd", 62.4))]
    found = claim(own, planted("dice", 55.1))
    assert (found.verdict, "walk eps=8/255" in found.sentence) == ("violated", True)


def test_a_network_that_vafa_cannot_move_is_flagged_by_the_optimum_of_its_threat_model() -> None:
    """VAFA's default q_min is 5 and its block 32: the bounds of both are the same."""
    found = verdict(planted("vafa", 89.3), planted("vafa_opt", 51.7))
    assert found.verdict == "flagged"
    assert "vafa q_max=20 leaves 89.3, vafa_opt q_max=20 restarts=3 leaves 51.7" in found.sentence
    assert "dct-quantization-stretched q_max=20 q_min=5 block=32" in found.sentence


@pytest.mark.parametrize("changes", [{"q_min": 1.0}, {"block": 8}, {"renormalize": False}])
def test_tables_of_other_bounds_refute_nothing(changes: dict[str, Any]) -> None:
    """Smaller steps, other blocks, or slices that are not stretched."""
    found = claim(planted("vafa", 89.3), planted("vafa_opt", 51.7, params=changes))
    assert (found.verdict, found.comparisons) == ("not checked", 0)


def test_rows_of_vafa_that_call_both_threat_models_by_one_name_are_told_apart() -> None:
    """As rows of older releases do."""
    old = [row | {"threat_model": "dct-quantization"} for row in planted("vafa", 89.3)]
    assert claim(old, planted("vafa_opt", 51.7)).verdict == "violated"


def test_without_scores_there_is_no_claim() -> None:
    row = make_row("pgd", {"steps": 20}, num_backwards=20, dsc=math.nan, budget=EPS)
    assert claim([row]).verdict == "not checked"
