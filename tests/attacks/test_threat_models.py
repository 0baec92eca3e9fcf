"""Threat models: their names, which attacks have the same bounds, and which are the strongest of them."""

import re
from pathlib import Path
from typing import Any

import pytest
from attacks.examples import EXAMPLES, SETTINGS, example

from freqbench.attacks import ATTACKS, make
from freqbench.attacks.core.attack import Attack
from freqbench.attacks.core.strongest import STRONGEST, is_claimed, limits_of, strongest_forms
from freqbench.core.threat_models import WORDS, words_of
from freqbench.exchange.adversarial_volumes import Imported

PAGE = (Path(__file__).parents[2] / "docs" / "background" / "threat-models.md").read_text("utf-8")
NAMES = [  # attack, its parameters, what the set is
    ("vafa", {}, "dct-quantization-stretched"),
    ("vafa", {"variant": "released-saa"}, "dct-quantization-stretched"),
    ("vafa", {"variant": "paper"}, "dct-quantization"),
    ("vafa", {"variant": "paper", "renormalize": True}, "dct-quantization-stretched"),
    ("vafa_2d", {"renormalize": False}, "dct-quantization"),
    ("vafa_opt", {}, "dct-quantization-stretched"),
    ("vafa_opt", {"renormalize": False, "ssim_min": 0.9}, "dct-quantization-ssim"),
    ("vafa_opt_2d", {"ssim_min": 0.9}, "dct-quantization-stretched-ssim"),
    ("sa2", {}, "dct-scaling"),
    ("sa2", {"variant": "released-cosine"}, "dct-scaling"),
    ("sa2_2d", {"variant": "paper"}, "dct-scaling-with-dc"),
    ("sa2_opt", {"ssim_min": 1}, "dct-scaling-ssim"),
    ("sa2_opt_2d", {"variant": "paper", "ssim_min": 0.5}, "dct-scaling-with-dc-ssim"),
    ("random_noise", {"l2": 3.0}, "l2"),
    ("ball", {"kind": "voxels", "radius": 1}, "l2"),
    ("ball", {"kind": "gain_offset", "radius": 1}, "gain-offset-l2"),
    ("ball", {"kind": "dct_bands", "radius": 1}, "dct-bands-l2"),
    ("ball", {"kind": "fourier_shift", "radius": 1}, "fourier-shift-l2"),
    ("ball", {"kind": "voxel_shift", "radius": 1}, "voxel-shift-l2"),
]


@pytest.mark.filterwarnings("ignore:.*has no effect in variant paper")
def test_page_lists_the_threat_models_of_all_attacks() -> None:
    """Each attack is made in every variant; the page names those with a bound on the SSIM in its text."""
    made = []
    for name, cls in ATTACKS.items():
        made += [make(name, **EXAMPLES[name], variant=variant) for variant in cls.variants]
    had = {*(name for *_, name in NAMES), Imported.threat_model}
    had |= {attack.threat_model for attack in made}
    named = re.findall(r"^\| `([\w-]+)`", PAGE, re.MULTILINE)
    assert {*named} == {n for n in had if not n.endswith("-ssim")}
    assert all(words_of(name) for name in had)


def test_threat_models_have_a_name_in_words_each() -> None:
    assert re.findall(r"^\| `([\w-]+)`", PAGE, re.MULTILINE) == [*WORDS]
    assert words_of("linf") == "L-infinity ball: each voxel by at most eps"
    assert words_of("dct-scaling-ssim") == f"{WORDS['dct-scaling']}; SSIM at least ssim_min"
    assert words_of("of-another-package") == words_of("of-another-package-ssim") == ""


@pytest.mark.parametrize(("attack", "given", "name"), NAMES)
def test_parameters_that_change_the_set_change_its_name(attack: str, given: dict[str, Any], name: str) -> None:
    assert make(attack, **given).threat_model == name


OWNED = [name for name in ATTACKS if example(name).threat_model in STRONGEST and example(name).passes != (0, 0)]


def of(name: str, **changes: object) -> Attack:
    return make(name, **(SETTINGS[name] | changes))


@pytest.mark.parametrize("name", OWNED)
def test_strongest_forms_have_the_limits_of_the_attack(name: str) -> None:
    forms = strongest_forms(of(name))
    assert {limits_of(form) for form in forms} == {limits_of(of(name))}
    assert all(strongest_forms(form) == forms for form in forms)


def test_strongest_form_of_the_ball_is_joint_apgd() -> None:
    """The form takes the attack's own number of steps, at least twenty."""
    for steps, own in ((20, make("fgsm", eps=0.1)), (20, make("pgd", eps=0.1)), (100, make("pgd", eps=0.1, steps=100))):
        search = {"eps": 0.1, "steps": steps, "scope": "joint", "step_rule": "cosine"}
        assert strongest_forms(own) == tuple(make("apgd", **search, loss=loss) for loss in ("horizon", "dice"))


def test_strongest_forms_keep_the_scope_of_the_set() -> None:
    """Blocks that begin anew in each window make other volumes than blocks of the whole volume."""
    for scope, expected in (("window", "joint"), ("joint", "joint"), ("volume", "volume")):
        assert {form.scope for form in strongest_forms(make("vafa_opt", scope=scope))} == {expected}
    assert {form.scope for form in strongest_forms(make("deformation", max_mm=3))} == {"volume"}


def test_an_unknown_threat_model_has_no_strongest_form() -> None:
    assert strongest_forms(make("gn", std=0.1)) == ()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (make("pgd", eps=8 / 255), make("sea", eps=8 / 255, steps=40), True),
        (make("pgd", eps=8 / 255), make("pgd", eps=8 / 255 * (1 + 1e-12), loss="ce", restarts=2), True),
        (make("pgd", eps=8 / 255), make("pgd", eps=4 / 255), False),
        (make("pgd", eps=8 / 255), make("pgd", eps=8 / 255, scope="volume"), True),
        (make("sa2_opt", scope="joint"), make("sa2_opt", scope="window"), True),
        (make("sa2_opt", scope="joint"), make("sa2_opt", scope="volume"), False),
        (make("gn", std=0.1), make("gn", std=0.2), False),
    ],
    ids=str,
)
def test_attacks_of_equal_bounds_have_equal_limits(one: Attack, other: Attack, same: bool) -> None:
    assert (limits_of(one) == limits_of(other)) is same


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("random_noise", {"linf": 0.1}),
        ("pgd", {"eps": 0.1, "organs": (1,)}),
        ("pgd", {"eps": 0.1, "target": "next-class"}),
        ("pgd", {"eps": 0.1, "targeted": True}),
        ("pgd", {"eps": 0.1, "channels": (0,)}),
        ("vafa", {"control": "uniform"}),
    ],
)
def test_null_rows_noise_and_attacks_on_a_part_carry_no_claim(name: str, parameters: dict[str, Any]) -> None:
    assert not is_claimed(make(name, **parameters))


def test_attacks_on_all_carry_a_claim() -> None:
    assert all(is_claimed(of(name)) for name in ("fgsm", "pgd", "square", "sea", "vafa", "sa2"))


def test_a_bound_on_the_ssim_is_kept_by_the_strongest_forms() -> None:
    attack = make("sa2_opt", ssim_min=0.9, steps=30)
    assert {(form.name, form.ssim_min, form.threat_model) for form in strongest_forms(attack)} == {
        ("sa2_opt", 0.9, "dct-scaling-ssim")
    }
