"""Credit, gradients, labels, metrics and bounds: each planted fact is told, and nothing where all is well."""

import math
from typing import Any

import pytest
from audit.planted import CASES, EPS, HEALTHY, classes_of, evidence, finding, gradients, healthy, rows

from freqbench.audit.checks import audited
from freqbench.audit.checks.table import CHECKS
from freqbench.audit.measurements import Saved, SavedScore

VAFA = ("vafa", "vafa uniform", "vafa random")


def vafa(**left: float) -> list[dict[str, Any]]:
    return [row for name in VAFA for row in rows(name, left=left[name.partition(" ")[2] or "attack"])]


def test_the_optimisation_is_credited_with_what_the_stronger_null_row_does_not_do() -> None:
    """Drops of 20, 5 and 3 points: 15 of 20 are the optimisation's."""
    found = finding("credit", vafa(attack=70, uniform=85, random=87))
    assert (found.verdict, found.subject) == ("holds", "vafa q_max=20")
    assert "drops 20.0 points; random 3.0, uniform 5.0 without optimisation" in found.sentence
    assert "The optimisation adds 15.0 points" in found.sentence
    assert "75 % of the drop" in found.sentence


def test_an_attack_that_is_no_more_than_its_null_row_is_in_doubt() -> None:
    found = finding("credit", vafa(attack=70, uniform=70.1, random=87))
    assert found.verdict == "in doubt"
    assert "is not clearly more than 0.5" in found.sentence


def test_an_attack_weaker_than_its_null_row_is_violated() -> None:
    found = finding("credit", vafa(attack=70, uniform=60, random=87))
    assert found.verdict == "violated"
    assert "takes 10.0 points of damage away" in found.sentence


def test_null_rows_belong_to_the_same_stretching() -> None:
    """A row that stretches slices says nothing of an attack that does not."""
    plain = {"renormalize": False}
    found = [*rows("vafa", params=plain), *rows("vafa uniform"), *rows("vafa random")]
    assert finding("credit", found).verdict == "not checked"
    own = [*found, *rows("vafa uniform", params=plain, left=88.0)]
    credited = finding("credit", own)
    assert (credited.verdict, "slices not stretched" in credited.sentence) == ("holds", True)
    assert "Not run: control: random" in credited.sentence


def test_without_frequency_attacks_there_is_nothing_to_credit() -> None:
    assert finding("credit", rows("pgd")).verdict == "not checked"


GRADIENTS = [
    ("zero_gradients", {"zero_share": 0.05}, "holds"),
    ("zero_gradients", {"zero_share": 0.3}, "in doubt"),
    ("zero_gradients", {"zero_share": 0.97}, "violated"),
    ("zero_gradients", {"zero_share": None, "sign_agreement": None, "losses": (), "error": "no graph"}, "violated"),
    ("same_gradients", {"sign_agreement": 0.9995}, "holds"),
    ("same_gradients", {"sign_agreement": 0.995}, "in doubt"),
    ("same_gradients", {"sign_agreement": 0.6}, "violated"),
    ("same_gradients", {"sign_agreement": None}, "not checked"),
    ("converged", {"losses": tuple(float(step) for step in range(20))}, "violated"),
    ("converged", {"losses": tuple(1 - 0.86**step for step in range(20))}, "holds"),
    ("converged", {"losses": (1.0,) * 20}, "not checked"),
]


@pytest.mark.parametrize(("check", "facts", "verdict"), GRADIENTS)
def test_gradients_are_judged_by_their_limits(check: str, facts: dict[str, Any], verdict: str) -> None:
    found = finding(check, healthy(), gradients=(gradients(**facts),))
    assert found.verdict == verdict


def test_gradients_of_another_model_of_the_same_name_are_not_taken() -> None:
    other = gradients(model_id="id_of_a_former_checkpoint")
    assert finding("zero_gradients", healthy(), gradients=(other,)).verdict == "not checked"


def test_a_missing_organ_is_told_with_its_cases() -> None:
    found = healthy()
    classes = classes_of(found, (0.9, 0.5, math.nan), (100, 50, 0))
    (one,) = CHECKS["organs"].run(evidence(found, classes=classes))
    assert (one.verdict, "the label lacks: organ 2 in 6" in one.sentence) == ("noted", True)


def test_dsc_that_is_mostly_background_is_counted() -> None:
    """Background 0.9 of a sum of 1.0 is more than half; 0.9 of 2.4 is not."""
    found = rows("pgd")
    mostly = finding("background", found, classes=classes_of(found, (0.9, 0.05, 0.05), (9, 9, 9)))
    assert (mostly.verdict, mostly.sentence.startswith("In 6 of 6 attacked volumes")) == ("noted", True)
    assert "a total failure would still score about 33" in mostly.sentence
    hardly = finding("background", found, classes=classes_of(found, (0.9, 0.75, 0.75), (9, 9, 9)))
    assert hardly.verdict == "holds"


def test_undefined_hd95_has_its_share() -> None:
    """One of three classes in one of six volumes."""
    found = rows("pgd")
    found[0]["hd95_undefined_classes"] = 1
    one = finding("hd95", found)
    assert (one.verdict, one.sentence.startswith("5.6 % of the classes of 6 attacked volumes")) == ("noted", True)


def test_a_case_that_the_model_fails_on_clean_is_named() -> None:
    found = rows("pgd")
    found[2]["dsc_foreground_clean"] = 0.2
    one = finding("clean", found)
    assert (one.verdict, "1 of 6 cases" in one.sentence, "case2 20.0" in one.sentence) == ("violated", True, True)


@pytest.mark.parametrize(
    ("stored", "rounded", "verdict"), [(0.401, 0.402, "holds"), (0.401, 0.43, "noted"), (0.42, 0.402, "violated")]
)
def test_a_saved_volume_that_scores_otherwise_is_told(stored: float, rounded: float, verdict: str) -> None:
    """In 8 bits it is another volume: a fact for those who save like the papers' code."""
    score = SavedScore(
        dataset="phantom", model="m", model_id="id_m", case_id="case0", case_key="case0", attack="pgd", cell_id="c",
        dsc=0.4, dsc_stored=stored, dsc_8bit=rounded,
    )  # fmt: skip
    one = finding("saved", rows("pgd"), saved=(Saved(versions={}, volumes=(score,)),))
    assert one.verdict == verdict
    assert f"{100 * rounded - 40:.2f} rounded to 8 bits" in one.sentence


def test_a_defence_at_random_whose_draws_are_averaged_is_noted_and_one_that_hides_them_violated() -> None:
    averaged = finding("same_gradients", rows("pgd"), gradients=(gradients(sign_agreement=0.6, draws=4),))
    assert (averaged.verdict, "attacks average 4 draws" in averaged.sentence) == ("noted", True)
    hidden = finding("same_gradients", rows("pgd"), gradients=(gradients(sign_agreement=0.6, draws=1),))
    assert (hidden.verdict, "draws at random" in hidden.sentence) == ("violated", True)


def test_the_settling_of_the_loss_is_that_of_most_windows() -> None:
    """One that dips and comes back does not outweigh the others; radii of several audits are told."""
    settled, dipped = gradients(eps=EPS), gradients(eps=2 * EPS, losses=(1.0, *[0.5] * 18, 1.01))
    one = finding("converged", rows("pgd"), gradients=(settled, settled, dipped))
    assert (one.verdict, "eps=8/255, 16/255" in one.sentence) == ("holds", True)


def test_a_change_beyond_its_budget_is_violated() -> None:
    found = rows("pgd")
    assert finding("bounds", found).verdict == "holds"
    found[0]["linf"] = 9 / 255
    one = finding("bounds", found)
    assert (one.verdict, "1 volume of 6" in one.sentence) == ("violated", True)


def test_rounding_is_not_beyond_a_budget() -> None:
    assert finding("bounds", [row | {"linf": row["budget"] + 5e-7} for row in rows("pgd")]).verdict == "holds"


def test_a_filtered_change_has_no_bound_any_more() -> None:
    assert finding("bounds", rows("pgd", params={"filter": ["low", 8]}, linf=0.5)).verdict == "not checked"


@pytest.mark.parametrize(("l2", "verdict"), [(59.9, "holds"), (61.0, "violated")])
def test_an_l2_budget_is_a_window_s(l2: float, verdict: str) -> None:
    """Nine windows of norm 20 have 60 together at most."""
    noise = rows("noise", threat_model="l2", budget_name="l2", l2=l2, num_windows=9)
    found = [row | {"budget": 20.0} for row in noise]
    assert finding("bounds", found).verdict == verdict


def test_threat_models_that_stand_side_by_side_are_told() -> None:
    (mixed,) = CHECKS["ranking"].run(evidence(healthy()))
    assert (mixed.verdict, "2 threat models (dct-quantization-stretched, linf)" in mixed.sentence) == ("noted", True)
    (single,) = CHECKS["ranking"].run(evidence(rows("pgd")))
    assert single.verdict == "holds"


def test_each_attack_says_how_far_it_goes() -> None:
    found = rows("pgd")
    found[0] |= {"l2_body": 7.0, "lpips_body": 0.02}
    (one,) = CHECKS["distances"].run(evidence(found))
    assert one.subject == "pgd eps=8/255"
    expected = "linf bounded by eps: L-inf 8.0/255, L2 in the body 7.0 to 8.0, SSIM in the body 90.0, "
    assert one.sentence == f"{expected}LPIPS in the body 98.0."


def test_failed_and_left_out_rows_count_nowhere() -> None:
    found = [*rows("pgd"), *(row | {"status": "failed", "dsc": 0.0} for row in rows("twice"))]
    assert finding("budget", found).verdict == "not checked"


def test_every_check_takes_rows_without_any_score() -> None:
    """As of a job that did not ask for DSC."""
    nothing = dict.fromkeys(("dsc", "dsc_clean", "dsc_foreground", "dsc_foreground_clean"))
    found = [row | nothing for row in healthy()]
    verdicts = {each.verdict for each in audited(evidence(found)) if CHECKS[each.check].is_masking}
    assert verdicts == {"not checked"}
    assert len(found) == CASES * len(HEALTHY)
