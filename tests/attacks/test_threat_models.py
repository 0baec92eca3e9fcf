"""Every threat model that an attack has is written down, and parameters that change the set change the name."""

from typing import Any

import pytest
from attacks.examples import EXAMPLES

from freqbench.attacks import ATTACKS, THREAT_MODELS, make
from freqbench.exchange.adversarial_volumes import Imported

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
]


@pytest.mark.filterwarnings("ignore:.*has no effect in variant paper")
@pytest.mark.parametrize("attack", ATTACKS)
def test_every_threat_model_of_an_attack_has_an_entry(attack: str) -> None:
    """By the class, by default, and in every variant."""
    cls = ATTACKS[attack]
    made = [make(attack, **(EXAMPLES[attack] | {"variant": variant})) for variant in cls.variants]
    found = {cls.threat_model, make(attack, **EXAMPLES[attack]).threat_model, *(each.threat_model for each in made)}
    assert found <= set(THREAT_MODELS)


@pytest.mark.parametrize(("attack", "given", "name"), NAMES)
def test_parameters_that_change_the_set_change_its_name(attack: str, given: dict[str, Any], name: str) -> None:
    assert make(attack, **given).threat_model == name


def test_every_entry_is_an_attack_s() -> None:
    by_default = {make(attack, **EXAMPLES[attack]).threat_model for attack in ATTACKS}
    assert by_default | {name for *_, name in NAMES} == set(THREAT_MODELS)
    assert Imported.threat_model in THREAT_MODELS


def test_a_bound_on_the_ssim_leaves_no_penalty_in_the_words() -> None:
    for name in ("dct-quantization", "dct-scaling"):
        assert ("SSIM" in THREAT_MODELS[name].penalised, "SSIM" in THREAT_MODELS[name].bounded) == (True, False)
        bounded = THREAT_MODELS[f"{name}-ssim"]
        assert ("SSIM" in bounded.penalised, "SSIM" in bounded.bounded) == (False, True)
