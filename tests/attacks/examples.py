"""An example of every attack, and networks and volumes for the tests that all attacks go through."""

import copy
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy.attack import Walk

from freqbench.attacks import ATTACKS, Attack, AttackResult, make
from freqbench.attacks.core.gradient import GradientAttack
from freqbench.core.types import triple
from freqbench.testing import SmallNet as SmallNet
from freqbench.testing import volumes as volumes

EPS = 8 / 255
EXAMPLES: dict[str, dict[str, Any]] = {
    "gn": {"std": EPS},
    "fgsm": {"eps": EPS},
    "bim": {"eps": EPS, "steps": 5},
    "pgd": {"eps": EPS, "steps": 8},
    "apgd": {"eps": EPS, "steps": 8},
    "segpgd": {"eps": EPS, "steps": 8},
    "cospgd": {"eps": EPS, "steps": 8},
    "ssa": {"eps": EPS, "steps": 3, "num_spectra": 2, "block": 4},
    "ssa_2d": {"eps": EPS, "steps": 3, "num_spectra": 2, "block": 4},
    "vafa": {"q_max": 20, "steps": 5, "block": 4},
    "vafa_2d": {"q_max": 20, "steps": 5, "block": 4},
    "vafa_opt": {"q_max": 20, "steps": 5, "block": 4},
    "vafa_opt_2d": {"q_max": 20, "steps": 5, "block": 4},
    "sa2": {"rho": 0.4, "steps": 5, "block": 4},
    "sa2_2d": {"rho": 0.4, "steps": 5, "block": 4, "ssim_weight": 0.0},
    "sa2_opt": {"rho": 0.4, "steps": 5, "block": 4},
    "sa2_opt_2d": {"rho": 0.4, "steps": 5, "block": 4},
    "dfb": {"band": "middle", "block": 4},
    "dfb_2d": {"band": "middle", "block": 4},
    "mifgsm": {"eps": EPS, "steps": 5},
    "difgsm": {"eps": EPS, "steps": 5, "min_scale": 0.6},
    "tifgsm": {"eps": EPS, "steps": 5, "kernel_size": 3},
    "dynamic_scaling": {"eps": EPS, "steps": 5},
    "padam": {"eps": EPS, "steps": 12},
    "almaprox": {"share": 0.9, "steps": 20, "step_size": 0.02},
    "fmn": {"steps": 20, "step_size": 0.05},
    "ddn": {"steps": 20, "step_size": 0.05},
    "square": {"eps": EPS, "queries": 40, "p_init": 0.3},
    "rays": {"eps": EPS, "queries": 40, "dice": 0.2},
    "bases": {"eps": EPS, "queries": 7, "steps": 4, "weight_step": 0.2},
    "sea": {"eps": EPS, "steps": 10},
    "autoattack": {"eps": EPS, "steps": 8, "queries": 20, "members": ("apgd-ce", "apgd-dlr", "square")},
    "faa": {"portion": 0.34, "bands": 12, "steps": 2, "reconstruction_weight": 0.0},
    "kspace": {"eps_k": 0.1, "steps": 5},
    "bias_field": {"log_amplitude": 1.0, "steps": 3},
    "sinogram": {"eps_p": 0.1, "steps": 5, "angles": 12},
    "intensity_curve": {"deviation": 0.3, "steps": 3, "pieces": 16},
    "deformation": {"max_mm": 1.5, "steps": 10, "knot_mm": 2},
    "ball": {"kind": "bias_field", "radius": 4.0, "steps": 5},
    "universal": {"eps": EPS, "steps": 5},
    "random_noise": {"linf": EPS},
    "corruption": {"kind": "motion", "severity": 3},
}
# Those, and one of another package: what every attack is held to, it is held to.
CLASSES: dict[str, type[Attack]] = {**ATTACKS, "walk": Walk}
SETTINGS: dict[str, dict[str, Any]] = {**EXAMPLES, "walk": {"eps": EPS, "steps": 5}}
GRADIENT = [name for name, attack in ATTACKS.items() if issubclass(attack, GradientAttack)]
FREQUENCY = ["vafa", "vafa_2d", "sa2", "sa2_2d"]
every_attack = pytest.mark.parametrize("name", CLASSES)
every_gradient_attack = pytest.mark.parametrize("name", GRADIENT)


class Threshold(nn.Module):
    """Class 1 where a voxel is above 0.5, surer with a larger slope: it is known which voxels can be flipped."""

    def __init__(self, slope: float = 1.0) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        return self.slope * torch.cat([0.5 - x, x - 0.5], dim=1)


def of_class(images: Tensor, number: int = 0) -> Tensor:
    """Labels of volumes, one class everywhere."""
    return torch.full_like(images, number, dtype=torch.long)


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


class Supplied:
    """An attack called with what it needs: samples' own volumes, squared, what it learns from them, or surrogates."""

    def __init__(self, attack: Attack) -> None:
        self._attack = attack

    def __getattr__(self, name: str) -> Any:
        return getattr(self._attack, name)

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, **options: Any) -> AttackResult:
        given = self._attack.supplied(
            reference=images.square,
            learned=lambda: self._attack.learn(model, list(zip(images, labels, strict=True)), triple(images.shape[2:])),
            surrogates=lambda: [twin(model), twin(model)],
        )
        return self._attack(model, images, labels, **options | given)


def twin(model: Any) -> Any:
    """A network like another, whose passes nobody counts."""
    made = copy.deepcopy(model)
    for module in made.modules():
        module._forward_hooks.clear()
    return made


def entry(name: str, **changes: Any) -> dict[str, Any]:
    """The example of a job with the models a and b, on a alone; b is the surrogate of attacks that take any."""
    others = {"surrogates": [["b"]]} if ATTACKS[name].needs_surrogates else {}
    return {"name": name, "sources": "a", **EXAMPLES[name], **others, **changes}


def example(name: str, **changes: Any) -> Any:
    attack = make(CLASSES[name], **(SETTINGS[name] | changes))
    return Supplied(attack) if attack.needs else attack


def takes(name: str, parameter: str) -> bool:
    return parameter in {field.name for field in fields(ATTACKS[name])}


STOCHASTIC = [name for name in GRADIENT if example(name).is_stochastic]


def plain(name: str, **changes: Any) -> Attack:
    """The attack without a distance in its objective: what it raises is the loss alone, or its own where it has one."""
    quiet = {"ssim_weight": 0.0} if takes(name, "ssim_weight") else {}
    return example(name, **quiet, **{key: value for key, value in changes.items() if key != "loss" or takes(name, key)})
