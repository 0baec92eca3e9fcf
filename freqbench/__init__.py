"""freqbench attacks volumetric segmentation models (CT, MR) and measures what is left of them."""

import importlib
from types import ModuleType

__version__ = "0.2.0"

_ROOMS = ("attacks", "data", "job", "metrics", "models", "ops", "reporting", "results")


def __getattr__(name: str) -> ModuleType:
    """Import a room on its first use, so that `import freqbench` stays light."""
    if name in _ROOMS:
        return importlib.import_module(f"freqbench.{name}")
    raise AttributeError(f"module 'freqbench' has no attribute {name!r}")
