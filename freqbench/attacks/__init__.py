"""Lists all attacks, one paper a file, and makes them by name."""

import importlib
from typing import TYPE_CHECKING, Any

from freqbench.attacks.core.parameters import PARAMETERS

__all__ = [
    "ATTACKS",
    "PARAMETERS",
    "PGD",
    "Attack",
    "AttackResult",
    "LinfGradientAttack",
    "Task",
    "attack_class",
    "make",
    "with_indices",
]

if TYPE_CHECKING:
    from freqbench.attacks.core.base import Attack, AttackResult
    from freqbench.attacks.core.gradient import LinfGradientAttack
    from freqbench.attacks.core.targets import with_indices
    from freqbench.attacks.core.task import Task
    from freqbench.attacks.pgd import PGD
    from freqbench.attacks.table import ATTACKS, attack_class, make
else:
    _MODULES = {
        **dict.fromkeys(("ATTACKS", "attack_class", "make"), "table"),
        **dict.fromkeys(("Attack", "AttackResult"), "core.base"),
        **{"LinfGradientAttack": "core.gradient", "Task": "core.task", "with_indices": "core.targets", "PGD": "pgd"},
    }

    def __getattr__(name: str) -> Any:
        """Import attacks, and torch with them, on first use: what their parameters may be is read without."""
        if name in _MODULES:
            return getattr(importlib.import_module(f"freqbench.attacks.{_MODULES[name]}"), name)
        raise AttributeError(f"module 'freqbench.attacks' has no attribute {name!r}")
