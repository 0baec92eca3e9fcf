"""Attacks: one paper a file, one table of them all."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from freqbench.attacks.almaprox import ALMAProx
from freqbench.attacks.apgd import APGD
from freqbench.attacks.base import Attack, AttackResult
from freqbench.attacks.bim import BIM
from freqbench.attacks.faa import FAA
from freqbench.attacks.fgsm import FGSM
from freqbench.attacks.gn import GaussianNoise
from freqbench.attacks.padam import PAdam
from freqbench.attacks.parameters import PARAMETERS
from freqbench.attacks.pgd import PGD
from freqbench.attacks.sa2 import SA2
from freqbench.attacks.targets import with_indices
from freqbench.attacks.vafa import VAFA
from freqbench.errors import ParameterError, UserError, unknown

__all__ = [
    "APGD",
    "ATTACKS",
    "BIM",
    "FAA",
    "FGSM",
    "PARAMETERS",
    "PGD",
    "SA2",
    "VAFA",
    "ALMAProx",
    "Attack",
    "AttackResult",
    "GaussianNoise",
    "PAdam",
    "make",
    "with_indices",
]

ATTACKS: Mapping[str, type[Attack]] = {
    "gn": GaussianNoise,
    "fgsm": FGSM,
    "bim": BIM,
    "pgd": PGD,
    "apgd": APGD,
    "vafa": VAFA,
    "sa2": SA2,
    "padam": PAdam,
    "almaprox": ALMAProx,
    "faa": FAA,
}


def make(name: str, **parameters: Any) -> Attack:
    """An attack by its name in `ATTACKS`, with its parameters.

    Raises:
        UserError: unknown attack.
        ParameterError: unknown, missing or wrong parameter.

    Example:
        >>> make("pgd", eps=8 / 255).steps
        20
    """
    attack = ATTACKS.get(name)
    if attack is None:
        raise UserError(unknown("attack", name, ATTACKS))
    known = {field.name: field for field in fields(attack)}
    for parameter in parameters:
        if parameter not in known:
            raise ParameterError(name, parameter, unknown("parameter", parameter, known))
    for parameter, field in known.items():
        if parameter not in parameters and field.default is MISSING:
            known_parameter = attack.parameters.get(parameter)
            meaning = known_parameter.meaning if known_parameter else "see the attack's docstring"
            raise ParameterError(name, parameter, f"required, but not given ({meaning})")
    return attack(**parameters)
