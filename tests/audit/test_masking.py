"""Each planted violation is found by its check, on its model alone; a healthy evaluation has none."""

import math
from typing import Any

import pytest
from audit.planted import EPS, HEALTHY, but_for, evidence, finding, gradients, healthy, rows

from freqbench.audit.checks import audited
from freqbench.audit.checks.table import CHECKS, verdicts

CROSSED = {"left": 70.0}


def both(but: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """The model m with changes, a healthy one beside it, and the PGD of each scored on the other."""
    crossed = [*rows("pgd", "m", "n", **CROSSED), *rows("pgd", "n", "m", **CROSSED)]
    return [*healthy("m", but), *healthy("n"), *crossed]


PLANTED = {
    "budget": {"twice": {"left": 45}},
    "steps": {"longer": {"left": 43}},
    "unbounded": {"unbounded": {"left": 30}},
    "iterative": {"fgsm": {"left": 35}},
    "transfer": {"pgd": {"left": 75}},
    "noise_linf": {"noise": {"left": 35}},
    "noise_l2": {"noise": {"left": 35}},
    "square": {"square": {"left": 30}},
    "restarts": {"restarted": {"left": 45}},
}


def test_a_healthy_model_has_no_violation_and_no_doubt() -> None:
    everything = both()
    found = audited(evidence(everything, gradients=(gradients(),), added=but_for(everything, "pgd")))
    assert {each.check for each in found if each.verdict in ("violated", "in doubt")} == set()
    (verdict, _) = verdicts(found)
    assert (verdict.verdict, len(verdict.held), verdict.noted, verdict.unchecked) == ("no sign", 11, (), ())
    assert verdict.sentence == "No sign of masked gradients in 11 of 11 checks."


@pytest.mark.parametrize("check", PLANTED)
def test_a_planted_violation_is_found_on_its_model_alone(check: str) -> None:
    found = CHECKS[check].run(evidence(both(PLANTED[check])))
    assert {each.model: each.verdict for each in found} == {"m": "violated", "n": "holds"}


@pytest.mark.parametrize("check", PLANTED)
def test_one_patient_is_never_enough_for_a_violation(check: str) -> None:
    """There is no interval then."""
    one = [row for row in both(PLANTED[check]) if row["case_id"] == "case0"]
    assert finding(check, one).verdict == "in doubt"
    (verdict, _) = verdicts(audited(evidence(one)))
    assert (verdict.verdict, verdict.flags) == ("in doubt", ())


def test_a_violation_within_the_noise_between_patients_is_in_doubt() -> None:
    found = finding("budget", healthy(but={"twice": {"left": 41, "noise": 4.0}}))
    assert found.verdict == "in doubt"
    assert found.difference > 0.5
    assert found.low < 0


@pytest.mark.parametrize(("left", "verdict"), [(40.4, "holds"), (40.6, "violated")])
def test_half_a_point_is_the_limit(left: float, verdict: str) -> None:
    """Both have the same spread, so the difference is the same in every case."""
    assert finding("budget", healthy(but={"twice": {"left": left, "noise": 0.1}})).verdict == verdict


def test_a_total_failure_cannot_be_beaten() -> None:
    """Two ways to leave nothing differ by a few points of nothing."""
    crushed = {"twice": {"left": 3}, "unbounded": {"left": 8}}
    assert finding("budget", healthy(but=crushed)).verdict == "holds"
    assert finding("budget", healthy(but={**crushed, "unbounded": {"left": 20}})).verdict == "violated"


def test_pairs_are_of_the_cases_that_both_have() -> None:
    """The cases that only the weaker budget has would turn the means around."""
    found = [*healthy(but={"twice": None}), *rows("twice", cases=2, left=37.0)]
    alone = finding("budget", found)
    assert (alone.cases, alone.verdict) == (2, "holds")


def test_the_sentence_says_which_how_much_how_sure_and_over_what() -> None:
    sentence = finding("budget", healthy(but={"twice": {"left": 45}})).sentence
    assert "pgd eps=16/255" in sentence
    assert "leaves 5.0 points more DSC than pgd eps=8/255" in sentence
    assert "95 % interval [" in sentence
    assert "6 cases of 6 patients" in sentence


def test_a_weak_iteration_names_the_step_size_first() -> None:
    slow = {"fgsm": {"left": 35}, "pgd": {"params": {"step_size": 0.02}}}
    assert (
        "First suspect: the step size, 0.02, which is 64 % of eps" in finding("iterative", healthy(but=slow)).sentence
    )


def test_noise_that_cannot_be_told_from_a_gradient_attack_is_in_doubt() -> None:
    assert finding("noise_linf", healthy(but={"noise": {"left": 65.2}})).verdict == "in doubt"


def test_noise_that_is_a_total_failure_leaves_nothing_to_beat() -> None:
    found = finding("noise_linf", healthy(but={"noise": {"left": 7}}))
    assert (found.verdict, "noise alone leaves nothing" in found.sentence) == ("not checked", True)


def test_attacks_that_take_nothing_say_nothing() -> None:
    idle = {name: {"left": 89.9} for name in HEALTHY}
    found = finding("budget", healthy(but=idle))
    assert (found.verdict, "takes more than 0.5 points" in found.sentence) == ("not checked", True)


def test_noise_of_another_l2_is_not_compared() -> None:
    assert finding("noise_l2", healthy(but={"noise": {"left": 35, "l2_body": 9.5}})).verdict == "not checked"


def test_a_model_that_segments_nothing_is_not_judged() -> None:
    found = [row | {"dsc_foreground_clean": 0.03} for row in both(PLANTED["budget"]) if row["target_model"] == "m"]
    one = finding("budget", found)
    assert (one.verdict, "mean clean foreground DSC is 3.0" in one.sentence) == ("not checked", True)


@pytest.mark.parametrize("check", [name for name, check in CHECKS.items() if check.is_masking])
def test_a_lacking_cell_is_not_checked_and_named(check: str) -> None:
    found = finding(check, rows("pgd"))
    assert found.verdict == "not checked"
    assert found.sentence.startswith("Needs ")


def test_targeted_and_filtered_attacks_are_not_held_against_noise() -> None:
    """They do not want every voxel wrong, or lost a part of what they wanted."""
    for narrowed in ({"target": "least-likely"}, {"organs": [1]}, {"filter": ["low", 8]}):
        found = [*rows("pgd", params=narrowed, left=89), *rows("noise")]
        assert finding("noise_linf", found).verdict == "not checked"


def test_an_attack_is_compared_with_the_same_attack_but_for_the_budget() -> None:
    """With another loss it is another attack, whatever its budget."""
    found = [*rows("pgd"), *rows("twice", params={"loss": "ce"}, left=60)]
    assert finding("budget", found).verdict == "not checked"


def test_null_rows_are_no_attacks_that_must_grow() -> None:
    found = [*rows("vafa uniform"), *rows("vafa uniform", left=89)]
    assert finding("budget", [*rows("pgd"), *found]).verdict == "not checked"


def test_models_that_change_places_with_restarts_are_told() -> None:
    found = [*healthy("m", {"pgd": {"left": 42}, "restarted": {"left": 36}}), *healthy("n")]
    one = finding("restarts", found)
    assert one.verdict == "violated"
    assert one.sentence.startswith("m and n change places between pgd")


def test_of_one_model_restarts_are_noted_alone() -> None:
    one = finding("restarts", healthy())
    assert (one.verdict, one.sentence) == (
        "noted",
        "One model, so there is no order to change; the largest effect of restarts is 0.2 points.",
    )


def test_a_flag_names_the_checks_and_no_more() -> None:
    (flagged, _) = verdicts(audited(evidence(both({**PLANTED["budget"], **PLANTED["square"]}))))
    assert flagged.verdict == "flagged"
    assert flagged.sentence.startswith("flagged: budget, square (2 signs of masked gradients in 9 checks).")
    assert "Not checked: zero_gradients, same_gradients, strongest." in flagged.sentence


def test_of_one_model_restarts_that_take_damage_away_are_violated_all_the_same() -> None:
    one = finding("restarts", healthy(but={"restarted": {"left": 45}}))
    assert (one.verdict, "more DSC than" in one.sentence) == ("violated", True)


def test_a_sweep_over_steps_is_held_against_one_step_by_its_longest() -> None:
    """One step of a quarter of eps is no match for FGSM, and no sign of anything."""
    short = rows("pgd", left=75, params={"steps": 1})
    assert finding("iterative", [*rows("pgd"), *short, *rows("fgsm")]).verdict == "holds"
    assert finding("iterative", [*rows("pgd", left=75), *short, *rows("fgsm")]).verdict == "violated"


def test_the_rival_of_a_search_is_the_strongest_on_the_same_cases() -> None:
    """An attack of two hard cases alone has the lowest mean, and is no rival of one that all cases had."""
    weak = [row | {"dsc": 0.2} for row in rows("fgsm", cases=2)]
    search = [
        row | {"dsc": row["dsc"] - (0.3 if row["case_id"] in ("case0", "case1") else 0)} for row in rows("square")
    ]
    strong = [row | {"dsc": other["dsc"] - 0.05} for row, other in zip(rows("pgd"), search, strict=True)]
    found = finding("square", [*strong, *search, *weak])
    assert (found.verdict, found.cases, found.sentence.count("fgsm")) == ("holds", 6, 0)


@pytest.mark.parametrize(("check", "weak"), [("iterative", "fgsm"), ("square", "square")])
def test_attacks_that_raise_different_losses_say_nothing_of_gradients(check: str, weak: str) -> None:
    """Whichever of them does more."""
    for left in (20, 80):
        found = finding(check, [*rows("ce"), *rows(weak, left=left)])
        assert found.verdict == "not checked"
        assert "raise different losses, which says nothing of gradients" in found.sentence


def test_of_several_rivals_a_search_is_held_against_the_one_of_its_own_loss() -> None:
    found = finding("square", [*rows("pgd", left=50), *rows("ce", left=30), *rows("square", left=40)])
    assert (found.verdict, "pgd eps=8/255" in found.sentence) == ("violated", True)


@pytest.mark.parametrize(("left", "verdict"), [(80, "noted"), (30, "violated")])
def test_a_short_search_proves_nothing_unless_it_wins(left: float, verdict: str) -> None:
    found = finding("square", [*rows("pgd"), *rows("square", left=left, params={"queries": 999})])
    assert found.verdict == verdict
    assert ("less than 1,000 queries proves nothing" in found.sentence) == (verdict == "noted")


def test_a_long_search_counts_beside_a_short_one() -> None:
    found = finding("square", [*rows("pgd"), *rows("square"), *rows("square", params={"queries": 100})])
    assert found.verdict == "holds"


def test_the_same_budget_in_another_arithmetic_is_no_larger_one() -> None:
    again = [row | {"precision": "bf16", "cell_id": f"{row['cell_id']}/bf16"} for row in rows("pgd")]
    assert finding("budget", [*rows("pgd"), *again]).verdict == "not checked"


def test_without_any_check_there_is_no_verdict() -> None:
    (verdict,) = verdicts(audited(evidence(rows("pgd"))))
    assert (verdict.verdict, verdict.sentence) == ("not checked", "Nothing could be checked.")


def test_seeds_are_averaged_before_cases_are_paired() -> None:
    """Two seeds of one case are not two cases."""
    found = [row | {"seed": seed} for seed in (0, 1) for row in healthy(but={"twice": {"left": 45}})]
    for row in found:
        row["cell_id"] = f"{row['cell_id']}/{row['seed']}"
    assert finding("budget", found).cases == 6


def test_equal_budgets_are_equal_to_rounding() -> None:
    found = [*rows("pgd"), *(row | {"budget": EPS * (1 + 1e-9)} for row in rows("noise", left=30.0))]
    assert finding("noise_linf", found).verdict == "violated"


def test_undefined_scores_drop_out_of_pairs() -> None:
    found = healthy(but={"twice": {"left": 45}})
    found[0]["dsc"] = math.nan
    first = next(row for row in found if row["budget"] == 2 * EPS)
    first["dsc"] = math.nan
    assert finding("budget", found).cases == 5
