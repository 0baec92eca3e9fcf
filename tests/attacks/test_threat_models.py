"""Every threat model that an attack has is in the README, and parameters that change the set change its name."""

import re
from typing import Any

import pytest
from attacks.examples import EXAMPLES
from readme_tables import README

from freqbench.attacks import ATTACKS, make
from freqbench.exchange.adversarial_volumes import Imported

SECTION = README.read_text("utf-8").partition("\n## Threat models")[2].partition("\n## ")[0]
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
def test_the_readme_lists_the_threat_models_that_attacks_have() -> None:
    """By default and in every variant; those with a bound on the SSIM are named by its text."""
    made = [make(name, **EXAMPLES[name], variant=variant) for name, cls in ATTACKS.items() for variant in cls.variants]
    had = {attack.threat_model for attack in made} | {Imported.threat_model, *(name for *_, name in NAMES)}
    assert set(re.findall(r"^\| `([\w-]+)`", SECTION, re.MULTILINE)) == {n for n in had if not n.endswith("-ssim")}


@pytest.mark.parametrize(("attack", "given", "name"), NAMES)
def test_parameters_that_change_the_set_change_its_name(attack: str, given: dict[str, Any], name: str) -> None:
    assert make(attack, **given).threat_model == name
