"""Lists all attacks in a table and makes one by its name."""

from collections.abc import Mapping
from typing import Any

from freqbench.attacks.almaprox import ALMAProx
from freqbench.attacks.apgd import APGD
from freqbench.attacks.autoattack import AutoAttack
from freqbench.attacks.ball import Ball
from freqbench.attacks.bases import BASES
from freqbench.attacks.bias_field import BiasField
from freqbench.attacks.bim import BIM
from freqbench.attacks.core.attack import Attack
from freqbench.attacks.core.declared import require_names
from freqbench.attacks.corruption import Corruption
from freqbench.attacks.cospgd import CosPGD
from freqbench.attacks.ddn import DDN
from freqbench.attacks.deformation import Deformation
from freqbench.attacks.dfb import DFB, DFB2D
from freqbench.attacks.difgsm import DIFGSM
from freqbench.attacks.dynamic_scaling import DynamicScaling
from freqbench.attacks.faa import FAA
from freqbench.attacks.fgsm import FGSM
from freqbench.attacks.fmn import FMN
from freqbench.attacks.gn import GaussianNoise
from freqbench.attacks.intensity_curve import IntensityCurve
from freqbench.attacks.kspace import KSpace
from freqbench.attacks.mifgsm import MIFGSM
from freqbench.attacks.padam import PAdam
from freqbench.attacks.pgd import PGD
from freqbench.attacks.random_noise import RandomNoise
from freqbench.attacks.rays import RayS
from freqbench.attacks.sa2 import SA2, SA2In2D
from freqbench.attacks.sa2_opt import SA2Opt, SA2Opt2D
from freqbench.attacks.sea import SEA
from freqbench.attacks.segpgd import SegPGD
from freqbench.attacks.sinogram import Sinogram
from freqbench.attacks.square import Square
from freqbench.attacks.ssa import SSA, SSA2D
from freqbench.attacks.tifgsm import TIFGSM
from freqbench.attacks.universal import Universal
from freqbench.attacks.vafa import VAFA, VAFA2D
from freqbench.attacks.vafa_opt import VAFAOpt, VAFAOpt2D
from freqbench.core import names, plugins
from freqbench.core.errors import UserError, unknown

ATTACKS: Mapping[str, type[Attack]] = {
    "gn": GaussianNoise,
    "fgsm": FGSM,
    "bim": BIM,
    "pgd": PGD,
    "apgd": APGD,
    "segpgd": SegPGD,
    "cospgd": CosPGD,
    "ssa": SSA,
    "ssa_2d": SSA2D,
    "vafa": VAFA,
    "vafa_2d": VAFA2D,
    "vafa_opt": VAFAOpt,
    "vafa_opt_2d": VAFAOpt2D,
    "sa2": SA2,
    "sa2_2d": SA2In2D,
    "sa2_opt": SA2Opt,
    "sa2_opt_2d": SA2Opt2D,
    "dfb": DFB,
    "dfb_2d": DFB2D,
    "mifgsm": MIFGSM,
    "difgsm": DIFGSM,
    "tifgsm": TIFGSM,
    "dynamic_scaling": DynamicScaling,
    "padam": PAdam,
    "almaprox": ALMAProx,
    "fmn": FMN,
    "ddn": DDN,
    "square": Square,
    "rays": RayS,
    "bases": BASES,
    "sea": SEA,
    "autoattack": AutoAttack,
    "faa": FAA,
    "kspace": KSpace,
    "bias_field": BiasField,
    "sinogram": Sinogram,
    "intensity_curve": IntensityCurve,
    "deformation": Deformation,
    "ball": Ball,
    "universal": Universal,
    "random_noise": RandomNoise,
    "corruption": Corruption,
}


def attack_class(given: str | type[Attack]) -> type[Attack]:
    """Returns the class of an attack `given` by its name in `ATTACKS`, as `package.module:Class` or as itself; classes
    are checked likewise.

    Raises a UserError if the name is unknown, or if the class is not trusted, not found, no attack, or lacks an
    attribute or a name of its own.
    """
    if isinstance(given, str) and not plugins.names_class(given):
        if given not in ATTACKS:
            raise UserError(unknown("attack", given, ATTACKS))
        return ATTACKS[given]
    cls: type[Attack] = plugins.load_class(given, Attack) if isinstance(given, str) else given
    where = given if isinstance(given, str) else given.__name__
    for attribute in ("name", "threat_model", "budget_name"):
        if not hasattr(cls, attribute) or attribute in cls.__abstractmethods__:
            raise UserError(f"{where}: expected a class attribute {attribute}, got none: see Attack")
    if ATTACKS.get(cls.name) not in (None, cls):  # tables identify attacks by their name
        raise UserError(f"{where}: expected a name of its own, got {cls.name!r}, which is freqbench's: rename it")
    names.require_name(cls.name, where)
    return cls


def make(attack: str | type[Attack], **parameters: Any) -> Attack:
    """Makes an attack from its name in `ATTACKS` or its class, and its parameters.

    Raises a UserError for an unknown attack, a ParameterError for an unknown, missing or wrong parameter.
    """
    cls = attack_class(attack) if isinstance(attack, str) else attack
    require_names(cls, parameters)
    try:
        return cls(**parameters)
    except UserError:
        raise
    except (TypeError, ValueError) as error:  # raised by a class of another package
        raise UserError(f"{cls.name} refuses its parameters: {' '.join(str(error).split())}") from error
