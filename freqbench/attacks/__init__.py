"""Lists all attacks, one paper per file, and makes them by name."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from freqbench.attacks.core.attack import Attack as Attack
    from freqbench.attacks.core.attack import AttackResult as AttackResult
    from freqbench.attacks.core.attack import LearnedAttack as LearnedAttack
    from freqbench.attacks.core.attack import LinfAttack as LinfAttack
    from freqbench.attacks.core.attack import SurrogateAttack as SurrogateAttack
    from freqbench.attacks.core.gradient import GradientAttack as GradientAttack
    from freqbench.attacks.core.targets import with_indices as with_indices
    from freqbench.attacks.core.task import Task as Task
    from freqbench.attacks.pgd import PGD as PGD
    from freqbench.attacks.table import ATTACKS as ATTACKS
    from freqbench.attacks.table import attack_class as attack_class
    from freqbench.attacks.table import make as make
else:
    _MODULES = {
        "AttackResult": "core.attack",
        "LearnedAttack": "core.attack",
        "GradientAttack": "core.gradient",
        "LinfAttack": "core.attack",
        "SurrogateAttack": "core.attack",
        "Task": "core.task",
        "with_indices": "core.targets",
    }

    def __getattr__(name: str) -> Any:
        """Imports attacks, and torch with them, on first use: their parameters can be read without torch."""
        if not name.startswith("_"):
            module = importlib.import_module(f"freqbench.attacks.{_MODULES.get(name, 'table')}")
            if hasattr(module, name):
                return getattr(module, name)
        raise AttributeError(f"module 'freqbench.attacks' has no attribute {name!r}")
