"""Each planted violation is found by its check, on its model alone; a healthy evaluation has none."""

import json
import math
from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
import pytest
from audit.planted import CASES, EPS, HEALTHY, but_for, classes_of, evidence, finding, gradients, healthy, rows
from reporting import handmade
from scipy import stats

from freqbench.audit.checks import CHECKS, Finding, ModelVerdict, audited, may_be_made, verdicts
from freqbench.audit.probe_files import SavedScore, SavedScores

Rows = list[dict[str, Any]]

PLANTED: Mapping[str, dict[str, Any]] = {
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


def both(but: Mapping[str, Any] | None = None) -> Rows:
    """The model m with changes, a healthy one beside it, and the PGD of each scored on the other."""
    return [*healthy("m", but), *healthy("n"), *rows("pgd", "m", "n", left=70.0), *rows("pgd", "n", "m", left=70.0)]


def test_a_healthy_model_has_no_violation_and_no_doubt() -> None:
    everything = both()
    findings = audited(evidence(everything, gradients=(gradients(),), added=but_for(everything, "pgd")))
    assert {each.check for each in findings if each.verdict in ("violated", "in doubt")} == set()
    (verdict, _) = verdicts(findings)
    assert (verdict.verdict, verdict.sentence) == ("no sign", "No sign of masked gradients in 11 of 11 checks.")


@pytest.mark.parametrize("check", PLANTED)
def test_planted_violation_is_found_on_its_model_alone(check: str) -> None:
    everything = both(PLANTED[check])
    findings = CHECKS[check].run(evidence(everything))
    assert {each.model: each.verdict for each in findings} == {"m": "violated", "n": "holds"}
    assert finding(check, [row for row in everything if row["case_id"] == "case0"]).verdict == "in doubt"


@pytest.mark.parametrize("check", [*PLANTED, "zero_gradients", "same_gradients", "converged", "credit", "saved"])
def test_a_lacking_cell_is_not_checked_and_named(check: str) -> None:
    one = finding(check, rows("pgd"))
    assert (one.verdict, one.sentence.startswith("Needs ")) == ("not checked", True)


IDLE = {name: {"left": 89.9} for name in HEALTHY}
CRUSHED = {"twice": {"left": 3}, "unbounded": {"left": 8}}
SHORT = {"params": {"queries": 999}}
ALMOST = [row | {"budget": EPS * (1 + 1e-9)} for row in rows("noise", left=30)]
LARGER_NULL = [row | {"budget": 30.0} for row in rows("vafa uniform", left=89)]
BF16 = [row | {"precision": "bf16", "cell_id": f"{row['cell_id']}/bf16"} for row in rows("pgd")]


@pytest.mark.parametrize(
    ("check", "records", "verdict", "told"),
    [
        ("budget", healthy(but={"twice": {"left": 40.4, "noise": 0.1}}), "holds", ""),  # half a point is the limit
        ("budget", healthy(but={"twice": {"left": 40.6, "noise": 0.1}}), "violated", "6 cases of 6 patients"),
        ("budget", healthy(but={"twice": {"left": 41, "noise": 4.0}}), "in doubt", ""),  # noise between patients
        ("budget", healthy(but={"twice": {"left": 45}}), "violated", "leaves 5.0 points more DSC than pgd eps=8/255"),
        ("budget", healthy(but=CRUSHED), "holds", ""),  # two ways to leave nothing differ by points of nothing
        ("budget", healthy(but={**CRUSHED, "unbounded": {"left": 20}}), "violated", ""),
        ("budget", [*healthy(but={"twice": None}), *rows("twice", cases=2, left=37.0)], "holds", ""),  # of common cases
        ("budget", healthy(but=IDLE), "not checked", "takes more than 0.5 points"),
        ("budget", [*rows("pgd"), *rows("twice", params={"loss": "ce"}, left=60)], "not checked", ""),  # another attack
        ("budget", [*rows("vafa uniform"), *LARGER_NULL], "not checked", ""),  # null rows
        ("budget", [*rows("pgd"), *BF16], "not checked", ""),  # the same in another arithmetic
        ("budget", [*rows("pgd"), *(row | {"status": "failed"} for row in rows("twice"))], "not checked", ""),
        ("budget", [row | {"dsc_foreground_clean": 0.03} for row in healthy()], "not checked", "foreground DSC is 3.0"),
        (
            "iterative",
            healthy(but={"fgsm": {"left": 35}, "pgd": {"params": {"step_size": 0.02}}}),
            "violated",
            "First suspect: the step size, 0.02, which is 64 % of eps",
        ),
        # one step of a quarter of eps is no match for FGSM, and no sign of anything
        ("iterative", [*rows("pgd"), *rows("pgd", left=75, params={"steps": 1}), *rows("fgsm")], "holds", ""),
        ("iterative", [*rows("dice"), *rows("fgsm", left=20, params={"scope": "joint"})], "not checked", "losses"),
        (
            "square",
            [*rows("dice"), *rows("square", left=20)],
            "not checked",
            "raise different losses, which says nothing",
        ),
        (
            "square",
            [*rows("pgd", left=50), *rows("dice", left=30), *rows("square", left=40)],
            "violated",
            "pgd eps=8/255",
        ),
        (
            "square",
            [*rows("pgd"), *rows("square", left=80, **SHORT)],
            "noted",
            "less than 1,000 queries proves nothing",
        ),
        ("square", [*rows("pgd"), *rows("square", left=30, **SHORT)], "violated", "knows no gradient does better"),
        ("square", [*rows("pgd"), *rows("square"), *rows("square", **SHORT)], "holds", ""),
        ("restarts", healthy(), "noted", "no order to change; the largest effect of restarts is 0.2"),
        ("restarts", [*healthy(), *rows("restarted", params={"restarts": 9}, left=38.8)], "noted", "restarts is 1.0"),
        (
            "restarts",
            [*healthy("m", {"pgd": {"left": 42}, "restarted": {"left": 36}}), *healthy("n")],
            "violated",
            "m and n change places between pgd",
        ),
        ("noise_linf", healthy(but={"noise": {"left": 65.2}}), "in doubt", ""),  # cannot be told from FGSM
        ("noise_linf", healthy(but={"noise": {"left": 7}}), "not checked", "noise alone leaves nothing"),
        ("noise_linf", [*rows("pgd"), *ALMOST], "violated", ""),  # equal to rounding
        # attacks that do not want every voxel wrong
        ("noise_linf", [*rows("pgd", params={"target": "least-likely"}, left=89), *rows("noise")], "not checked", ""),
        ("noise_linf", [*rows("pgd", params={"organs": [1]}, left=89), *rows("noise")], "not checked", ""),
        ("noise_l2", healthy(but={"noise": {"left": 35, "l2_body": 9.5}}), "not checked", "within 10 %"),
        ("noise_l2", healthy(but={"noise": {"left": 35, "l2_body": 8.85}}), "violated", ""),  # 9.6 % of the larger norm
        ("noise_l2", [*rows("pgd", threat_model="bias-field", left=89), *rows("noise")], "not checked", "within 10 %"),
        ("bounds", rows("pgd"), "holds", "6 volumes of 1 attack"),
        ("bounds", [*rows("pgd", cases=5), *rows("pgd", linf=9 / 255)[5:]], "violated", "1 volume of 6"),
        ("bounds", rows("pgd", linf=EPS + 5e-7), "holds", ""),  # rounding
    ],
)
def test_a_check_of_one_model_has_this_verdict_and_sentence(check: str, records: Rows, verdict: str, told: str) -> None:
    one = finding(check, records)
    assert (one.verdict, told in one.sentence) == (verdict, True), one.sentence


def test_pairs_have_both_scores_and_averaged_seeds() -> None:
    records = healthy(but={"twice": {"left": 45}})
    records[0]["dsc"] = next(row for row in records if row["budget"] == 2 * EPS)["dsc"] = math.nan
    seeds = [row | {"seed": seed, "cell_id": f"{row['cell_id']}/{seed}"} for seed, row in product((0, 1), records)]
    assert finding("budget", seeds).cases == CASES - 1


def test_rival_of_search_is_strongest_on_same_cases() -> None:
    """An attack of two hard cases alone has the lowest mean, and is no rival of one that all cases had."""
    weak = [row | {"dsc": 0.2} for row in rows("fgsm", cases=2)]
    hard = ("case0", "case1")
    search = [row | {"dsc": row["dsc"] - (0.3 if row["case_id"] in hard else 0)} for row in rows("square")]
    strong = [row | {"dsc": other["dsc"] - 0.05} for row, other in zip(rows("pgd"), search, strict=True)]
    one = finding("square", [*strong, *search, *weak])
    assert (one.verdict, one.cases, one.sentence.count("fgsm")) == ("holds", 6, 0)


def test_a_flag_names_the_checks_and_no_more() -> None:
    (flagged, _) = verdicts(audited(evidence(both({**PLANTED["budget"], **PLANTED["square"]}))))
    assert flagged.verdict == "flagged"
    fallen = "a larger budget hurts more; black-box does not beat gradients"
    told = f"flagged: it does not hold that {fallen} (2 signs of masked gradients in 9 checks)."
    assert flagged.sentence.startswith(told)
    not_made = "gradients are not zero; gradients are the same twice; no attack with the same bounds is stronger"
    assert f"Not checked: {not_made}." in flagged.sentence


@pytest.mark.parametrize(
    ("cell", "lacks"),
    [
        ("square", "a black-box search"),
        ("noise", "noise of equal size"),
        ("longer", "more steps"),
        ("restarted", "a random start"),
    ],
)
def test_a_model_without_a_check_that_decides_is_not_checked(cell: str, lacks: str) -> None:
    """The signs are as few as in a whole evaluation, and one network alone has no order that restarts could change."""
    whole, less = (verdicts(audited(evidence(healthy("m", but))))[0] for but in (None, {cell: None}))
    assert (whole.verdict, whole.lacking, less.verdict, less.lacking) == ("no sign", (), "not checked", (lacks,))
    assert f", which decides nothing without {lacks}. " in less.sentence


def test_few_checks_are_counted() -> None:
    (verdict,) = verdicts(audited(evidence([*rows("pgd"), *rows("fgsm")])))
    assert verdict.label == "not checked (1 of 12)"


def test_rows_without_scores_give_no_verdict() -> None:
    nothing = dict.fromkeys(("dsc", "dsc_clean", "dsc_foreground", "dsc_foreground_clean"))
    (verdict,) = verdicts(audited(evidence([row | nothing for row in healthy()])))
    assert (verdict.verdict, verdict.sentence) == ("not checked", "Nothing could be checked.")


@pytest.mark.parametrize(
    ("check", "facts", "verdict"),
    [
        ("zero_gradients", {"zero_share": 0.05}, "holds"),
        ("zero_gradients", {"zero_share": 0.3}, "in doubt"),
        ("zero_gradients", {"zero_share": 0.97}, "violated"),
        ("zero_gradients", {"zero_share": None, "sign_agreement": None, "losses": (), "error": "no graph"}, "violated"),
        ("zero_gradients", {"model_id": "id_of_a_former_checkpoint"}, "not checked"),
        ("same_gradients", {"sign_agreement": 0.9995}, "holds"),
        ("same_gradients", {"sign_agreement": 0.995}, "in doubt"),
        ("same_gradients", {"sign_agreement": 0.6}, "violated"),
        ("same_gradients", {"sign_agreement": 0.6, "draws": 1}, "violated"),  # a defence that hides its draws
        ("same_gradients", {"sign_agreement": 0.6, "draws": 4}, "noted"),  # and one whose draws are averaged
        ("same_gradients", {"sign_agreement": None}, "not checked"),
        ("converged", {"losses": tuple(float(step) for step in range(20))}, "violated"),
        ("converged", {"losses": tuple(1 - 0.86**step for step in range(20))}, "holds"),
        ("converged", {"losses": (1.0,) * 20}, "not checked"),
    ],
)
def test_gradients_are_judged_by_their_limits(check: str, facts: dict[str, Any], verdict: str) -> None:
    assert finding(check, rows("pgd"), gradients=(gradients(**facts),)).verdict == verdict


def test_the_settling_of_the_loss_is_that_of_most_windows() -> None:
    """One that dips and comes back does not outweigh the others; radii of several audits are told."""
    settled = gradients(eps=EPS)
    dipped = gradients(eps=2 * EPS, losses=(1.0, *[0.5] * 18, 1.01))
    one = finding("converged", rows("pgd"), gradients=(settled, settled, dipped))
    assert (one.verdict, "eps=8/255, 16/255" in one.sentence) == ("holds", True)


def test_noise_of_most_cases_is_taken() -> None:
    """An audit of more cases draws noise for these: that of an audit before it, of two cases, would decide nothing."""
    few = rows("noise", cases=2, params={"earlier": 1}, left=39.9)
    judged = finding("noise_l2", [*rows("pgd"), *few, *rows("noise", l2_body=8.1)])
    assert (judged.verdict, judged.cases) == ("holds", CASES)


def test_check_that_has_its_rows_is_not_one_that_audit_may_make() -> None:
    silent, lacking = (audited(evidence(each)) for each in (healthy(but=IDLE), rows("pgd")))
    names = ("iterative", "transfer")
    assert not any(may_be_made(each) for each in silent if each.check in names)
    assert [may_be_made(each) for each in lacking if each.check in names] == [True, False]


@pytest.mark.parametrize(
    ("uniform", "verdict", "told"),
    [
        (85, "holds", "The optimisation adds 15.0 points"),
        (70.1, "in doubt", "It did nothing that its null row does not do: 0.1 points"),
        (70.45, "in doubt", "is not clearly more than 0.5"),
        (60, "violated", "takes 10.0 points of damage away"),
    ],
)
def test_optimisation_gets_what_the_null_row_leaves(uniform: float, verdict: str, told: str) -> None:
    """Drops of 20, 5 and 3 points: 15 of 20, 75 %, are the optimisation's."""
    nulls = [*rows("vafa uniform", left=uniform), *rows("vafa random", left=87)]
    one = finding("credit", [*rows("vafa", left=70), *nulls])
    assert (one.verdict, one.subject) == (verdict, "vafa q_max=20")
    assert f"drops 20.0 points; random 3.0, uniform {90 - uniform:.1f} without optimisation" in one.sentence
    assert told in one.sentence
    assert ("75 % of the drop" in one.sentence) == (verdict == "holds")


def test_null_rows_belong_to_the_same_stretching() -> None:
    plain = {"renormalize": False}
    own = [*rows("vafa", params=plain), *rows("vafa uniform"), *rows("vafa random")]
    assert finding("credit", own).verdict == "not checked"
    credited = finding("credit", [*own, *rows("vafa uniform", params=plain, left=88.0)])
    assert (credited.verdict, "slices not stretched" in credited.sentence) == ("holds", True)
    assert "Not run: control: random" in credited.sentence


def test_missing_organs_and_clean_failures_are_reported() -> None:
    """Background 0.9 of a sum of 1.0 is more than half, 0.9 of 2.4 is not; of HD95 one of 18 values."""
    own = healthy()
    (one,) = CHECKS["organs"].run(evidence(own, classes=classes_of(own, (0.9, 0.5, math.nan), (100, 50, 0))))
    assert (one.verdict, "the label lacks: organ 2 in 6" in one.sentence) == ("noted", True)
    own = rows("pgd")
    mostly = finding("background", own, classes=classes_of(own, (0.9, 0.05, 0.05), (9, 9, 9)))
    assert (mostly.verdict, mostly.sentence.startswith("In 6 of 6 attacked volumes")) == ("noted", True)
    assert "a total failure would still score about 33" in mostly.sentence
    assert finding("background", own, classes=classes_of(own, (0.9, 0.75, 0.75), (9, 9, 9))).verdict == "holds"
    own[0]["hd95_undefined_classes"] = 1
    own[2]["dsc_foreground_clean"] = 0.2
    one = finding("hd95", own)
    assert (one.verdict, one.sentence.startswith("5.6 % of the classes of 6 attacked volumes")) == ("noted", True)
    one = finding("clean", own)
    assert (one.verdict, "1 of 6 cases" in one.sentence, "case2 20.0" in one.sentence) == ("violated", True, True)


@pytest.mark.parametrize(
    ("stored", "rounded", "verdict"), [(0.401, 0.402, "holds"), (0.401, 0.43, "noted"), (0.42, 0.402, "violated")]
)
def test_a_saved_volume_that_scores_otherwise_is_told(stored: float, rounded: float, verdict: str) -> None:
    """A volume in 8 bits is another one: a fact for those who save like the papers' code."""
    where = {"dataset": "phantom", "model": "m", "model_id": "id_m", "case_id": "case0", "case_key": "case0"}
    score = SavedScore(**where, attack="pgd", cell_id="c", dsc=0.4, dsc_stored=stored, dsc_8bit=rounded)
    one = finding("saved", rows("pgd"), saved=(SavedScores(versions={}, volumes=(score,)),))
    assert one.verdict == verdict
    assert f"{100 * rounded - 40:.2f} rounded to 8 bits" in one.sentence


@pytest.mark.parametrize(("l2", "verdict"), [(59.9, "holds"), (61.0, "violated")])
def test_an_l2_budget_is_a_window_s(l2: float, verdict: str) -> None:
    """Nine windows of norm 20 have 60 together at most."""
    noise = rows("noise", threat_model="l2", budget_name="l2", l2=l2, num_windows=9)
    assert finding("bounds", [row | {"budget": 20.0} for row in noise]).verdict == verdict


@pytest.mark.parametrize(("rms", "scope", "verdict"), [(0.0299, "volume", "holds"), (0.031, "joint", "violated")])
def test_l2_budget_that_is_root_mean_square_is_that_of_psnr(rms: float, scope: str, verdict: str) -> None:
    """Windows that overlap may have more together than each; a single one may not."""
    psnr = -20 * math.log10(rms)
    own = {"threat_model": "l2", "budget_name": "eps", "budget": 0.03, "psnr": psnr, "l2": 60.0, "num_windows": 9}
    settings = {"norm": "l2", "scope": scope}
    many = [row | own | {"params": json.dumps(settings)} for row in rows("pgd")]
    assert finding("bounds", many).verdict == verdict
    windows = [row | {"params": json.dumps(settings | {"scope": "window"})} for row in many]
    assert finding("bounds", windows).verdict == "not checked"
    assert finding("bounds", [row | {"num_windows": 1} for row in windows]).verdict == verdict


def test_threat_models_side_by_side_and_distances_are_told() -> None:
    (mixed,) = CHECKS["ranking"].run(evidence(healthy()))
    assert (mixed.verdict, "2 threat models (dct-quantization-stretched, linf)" in mixed.sentence) == ("noted", True)
    own = rows("pgd")
    own[0] |= {"l2_body": 7.0, "lpips_body": 0.02}
    (single,) = CHECKS["ranking"].run(evidence(own))
    assert single.verdict == "holds"
    (far,) = CHECKS["distances"].run(evidence(own))
    distances = "L-inf 8.0/255, L2 in the body 7.0 to 8.0, SSIM in the body 90.0, 1-LPIPS x100 in the body 98.0"
    assert (far.subject, far.sentence) == ("pgd eps=8/255", f"linf bounded by eps: {distances}.")


def planted(name: str, fg: float, **changes: Any) -> Rows:
    """Rows of an attack that leave this mean foreground DSC x100, spread alike over cases."""
    return rows(name, left=fg + 4, noise=0.0, **changes)


def claims(own: Rows, added: Rows) -> list[Finding]:
    made = evidence([*own, *added], added=frozenset(row["cell_id"] for row in added))
    return [each for each in CHECKS["strongest"].run(made) if each.model == "m"]


def verdict_of(own: Rows, added: Rows) -> ModelVerdict:
    (one,) = verdicts(audited(evidence([*own, *added], added=frozenset(row["cell_id"] for row in added))))
    return one


PGD = planted("pgd", 62.4)
PGD40 = planted("pgd", 62.4, params={"steps": 40})
DICE = planted("dice", 70.0)
SUITE = [*planted("horizon", 62.3), *DICE]
SUITE40 = [*planted("horizon", 65, params={"steps": 40}), *planted("dice", 65, params={"steps": 40})]
BOTH_NUMBERS = "pgd eps=8/255 leaves 62.4, apgd eps=8/255 loss=horizon scope=joint leaves 55.1"
WALK = [row | {"attack": "walk", "cell_id": f"walk{number}"} for number, row in enumerate(PGD)]
VAFA = planted("vafa", 89.3)
OPTIMUM = planted("vafa_opt", 51.7)
TWO_HARD = [row | {"dsc_foreground": 0.1} for row in planted("fgsm", 60, cases=2)]


@pytest.mark.parametrize(
    ("own", "added", "verdict", "told"),
    [
        pytest.param(PGD, [*planted("horizon", 55.1), *DICE], "violated", BOTH_NUMBERS, id="another loss"),
        pytest.param(
            PGD, [*planted("horizon", 61.95), *DICE], "holds", "None of 2 further attacks", id="less than half a point"
        ),
        pytest.param(
            PGD, [*planted("horizon", 61.85), *DICE], "violated", "linf eps=8/255: ", id="more than half a point"
        ),
        pytest.param(planted("pgd", 62.4, cases=1), planted("horizon", 30, cases=1), "in doubt", "", id="one patient"),
        pytest.param(PGD, [], "not checked", "Not run: apgd (horizon), apgd (dice): audit --run does.", id="no form"),
        pytest.param(PGD, planted("horizon", 62.3), "not checked", "Not run: apgd (dice):", id="one form"),
        pytest.param(
            PGD,
            [*planted("horizon", 62, params={"scope": "window"}), *DICE],
            "not checked",
            "(horizon)",
            id="window by window",
        ),
        pytest.param(
            PGD,
            [*planted("horizon", 62, params={"steps": 10}), *DICE],
            "not checked",
            "Not run: apgd (h",
            id="fewer steps",
        ),
        pytest.param(PGD40, SUITE, "not checked", "", id="fewer steps than the longest"),
        pytest.param(PGD40, SUITE40, "holds", "", id="as many"),
        pytest.param(
            [*PGD, *planted("horizon", 55.1), *DICE],
            [],
            "holds",
            "scope=joint leaves 55.1",
            id="a store with the forms",
        ),
        pytest.param(
            [*planted("pgd", 60), *TWO_HARD],
            SUITE,
            "holds",
            "pgd eps=8/255 leaves 60.0",
            id="the strongest of the same cases",
        ),
        pytest.param(
            PGD, planted("horizon", 40, cases=3), "violated", "3 cases of 3 patients", id="cases that one lacks"
        ),
        pytest.param(planted("pgd", 6), planted("horizon", 1), "holds", "", id="nothing left"),
        pytest.param(PGD, [*SUITE, *planted("half", 20)], "holds", "", id="another eps"),
        pytest.param(PGD, [*SUITE, *planted("noise", 20)], "holds", "", id="noise"),
        pytest.param(
            PGD, [*SUITE, *planted("horizon", 20, params={"organs": [1]})], "holds", "", id="a part of the organs"
        ),
        pytest.param(
            PGD, [*SUITE, *planted("horizon", 20, params={"target": "least-likely"})], "holds", "", id="a target"
        ),
        pytest.param(PGD, [*SUITE, *planted("vafa", 20)], "holds", "", id="another threat model"),
        pytest.param(PGD, [*SUITE, *rows("horizon", "n", "m", left=30.0)], "holds", "", id="another model's attack"),
        pytest.param(planted("noise", 85), [], "not checked", "Needs an untargeted attack", id="noise claims nothing"),
        pytest.param(
            planted("vafa uniform", 85), [], "not checked", "Needs an untargeted attack", id="a null row claims nothing"
        ),
        pytest.param(
            [handmade.row("pgd", num_backwards=20, dsc=math.nan, source="m", target="m")],
            [],
            "not checked",
            "",
            id="no score",
        ),
        pytest.param(WALK, planted("horizon", 55.1), "violated", "walk eps=8/255", id="another package"),
        pytest.param(VAFA, OPTIMUM, "violated", "q_max=20 q_min=5 block=32: vafa q_max=20 leaves 89.3", id="vafa"),
        pytest.param(
            [row | {"threat_model": "dct-quantization"} for row in VAFA], OPTIMUM, "violated", "", id="older name"
        ),
        pytest.param(VAFA, planted("vafa_opt", 51.7, params={"q_min": 1.0}), "not checked", "", id="smaller steps"),
        pytest.param(VAFA, planted("vafa_opt", 51.7, params={"block": 8}), "not checked", "", id="other blocks"),
        pytest.param(
            VAFA, planted("vafa_opt", 51.7, params={"renormalize": False}), "not checked", "", id="no stretching"
        ),
    ],
)
def test_a_claim_stands_against_attacks_with_the_same_bounds(own: Any, added: Any, verdict: Any, told: Any) -> None:
    (claim,) = claims(own, added)
    assert (claim.verdict, told in claim.sentence) == (verdict, True), claim.sentence


def test_a_gain_whose_interval_reaches_half_a_point_is_in_doubt() -> None:
    """1.2 points on average, of which the interval over patients leaves less than half a point."""
    added = [*planted("horizon", 61.2), *DICE]
    for row in added:
        row["dsc_foreground"] += 0.006 * (-1) ** int(row["case_id"].removeprefix("case"))
    (claim,) = claims(PGD, added)
    assert (claim.verdict, 0 < claim.low < 0.5, verdict_of(PGD, added).verdict) == ("in doubt", True, "in doubt")


def test_interval_is_corrected_over_attacks_that_were_added() -> None:
    """Each of two comparisons is one of 97.5 %."""
    differences = [3.0, 4.5, 1.0, 2.5, 7.0, 4.0]
    added = planted("pgd", 62.4, params={"loss": "dice"})
    for row, difference in zip(added, differences, strict=True):
        row["dsc_foreground"] -= difference / 100
    (claim,) = claims(PGD, [*added, *planted("dice", 70.0)])
    expected = stats.ttest_1samp(differences, 0).confidence_interval(0.975)
    assert (claim.low, claim.high) == pytest.approx((expected.low, expected.high))
    assert "together over 2 comparisons" in claim.sentence


def test_each_budget_is_a_claim_of_its_own() -> None:
    by_subject = {each.subject: each.verdict for each in claims([*PGD, *planted("half", 70)], SUITE)}
    assert by_subject == {"linf eps=8/255": "holds", "linf eps=4/255": "not checked"}


def test_fallen_claim_flags_its_model_beside_flags_of_gradients() -> None:
    model = verdict_of(PGD, planted("horizon", 55.1))
    added = "a stronger attack with the same bounds is known"
    fallen = "flagged: it does not hold that no attack with the same bounds is stronger"
    assert (model.verdict, model.flags) == ("flagged", ())
    assert model.sentence.startswith(
        f"{fallen} ({added}; no check of gradients was made). linf eps=8/255: pgd eps=8/255 leaves 62.4"
    )
    model = verdict_of([*PGD, *planted("twice", 70)], planted("horizon", 55.1))
    assert model.flags == ("budget",)
    assert f"{fallen}; a larger budget hurts more ({added}; 1 sign of" in model.sentence


def test_attack_beaten_at_equal_passes_is_named() -> None:
    """Both take 20 steps, the second looks at its last volume besides."""
    own = [*PGD, *planted("horizon", 55.1, params={"loss": "margin"}), *planted("pgd", 70, params={"steps": 5})]
    (claim,) = claims(own, [*planted("horizon", 60.0), *planted("dice", 64.0)])
    assert claim.verdict == "holds"
    named = claim.sentence.partition("At equal or fewer passes: ")[2]
    assert named.startswith("pgd eps=8/255 steps=20 leaves 62.4, apgd eps=8/255 loss=margin scope=joint 55.1")
    assert "steps=5" not in named


SMOOTHED = json.dumps({"name": "smoothing", "kind": "bias_field", "sigma": 0.5})
BALL: dict[str, Any] = {"threat_model": "bias-field-l2", "budget_name": "radius", "budget": 0.5}


def smoothed(*left: float, draws: int = 100, model: str = "m") -> Rows:
    """Cases of 1,000 clean draws between 0.8 and 0.9, and of draws under attack around these medians."""
    clean = json.dumps({"dsc_foreground": [0.8 + 0.0001 * i for i in range(1000)]})
    around = 0.1 * np.arange(draws) / draws - 0.05
    drawn = [
        BALL
        | {"case": case, "target_defence": SMOOTHED, "dsc": 0.8, "dsc_clean": 0.8}
        | {"draws": json.dumps({"dsc_foreground": (median + around).tolist()})}
        for case, median in enumerate(left)
    ]
    drawn += [values | {"budget": 0.0, "draws": clean} for values in drawn]
    params = {"kind": "bias_field", "control": "none"}
    return [handmade.row("pgd", params, source=model, target=model, **values) | {"attack": "ball"} for values in drawn]


def certified(*left: float, draws: int = 100) -> Finding:
    return finding("certified", smoothed(*left, draws=draws))


def test_certificate_above_attack_is_defect_of_one_of_them() -> None:
    """Certified: about 0.81, at radius = sigma."""
    assert certified(0.85, 0.82).verdict == "holds"
    crossed = certified(0.85, 0.75)
    assert crossed.verdict == "violated"
    assert "1 of 2 bounds" in crossed.sentence
    assert "of case1" in crossed.sentence
    assert finding("certified", healthy()).verdict == "not checked"


def test_draws_under_attack_say_how_bold_a_certificate_they_show() -> None:
    """At 0.0005 for each of two bounds, 66 of 100 draws lie below the limit, and 552 of 1,000."""
    text = "Of 100 draws under attack only a bound above their 67 % quantile is caught, up to 1.7 points of foreground"
    assert text in certified(0.85, 0.82).sentence
    assert "draws under attack only a bound above their 55 % quantile" in certified(0.85, 0.82, draws=1000).sentence
    doubtful = certified(0.85, 0.8)
    assert (doubtful.verdict, "1 of 2 bounds are above the median" in doubtful.sentence) == ("in doubt", True)
    assert "1,000 draws decide" in doubtful.sentence
    assert (certified(0.85, 0.8, draws=1000).verdict, certified(0.85, draws=8).verdict) == ("violated", "not checked")


def test_certificates_of_one_model_are_those_of_the_whole_report() -> None:
    """Other models' bounds make each one's alpha smaller, in the audit as in the table."""
    assert "above their 66 % quantile" in certified(0.85).sentence
    both = [*smoothed(0.85), *smoothed(*[0.85] * 200, model="n")]
    assert all("above their 73 % quantile" in each.sentence for each in CHECKS["certified"].run(evidence(both)))
