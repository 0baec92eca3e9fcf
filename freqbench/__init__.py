"""freqbench attacks volumetric segmentation models (CT, MR) and measures how much of their accuracy survives.

>>> import freqbench as fb
>>> model, case = fb.load_model("zoo://phantom/unet"), fb.load_dataset("phantom", split="test")[0]
>>> scores = fb.evaluate(model, case, fb.attack(model, case, "fgsm", eps=8 / 255), metrics=("dsc",))
>>> scores["dsc"] < scores["dsc_clean"]
True
"""

# ruff: noqa: F405 (a type checker knows the names of __all__)

import importlib
from typing import TYPE_CHECKING, Any

from freqbench.core import __version__ as __version__
from freqbench.core import reading

reading.watch()

__all__ = [
    "Case",
    "Cases",
    "Certificate",
    "Model",
    "Record",
    "Result",
    "attack",
    "certify",
    "evaluate",
    "load_dataset",
    "load_model",
    "load_results",
]

_ROOMS = ("attacks", "data", "job", "metrics", "models", "ops", "reporting", "results")

if TYPE_CHECKING:
    from freqbench import attacks as attacks
    from freqbench import data as data
    from freqbench import job as job
    from freqbench import metrics as metrics
    from freqbench import models as models
    from freqbench import ops as ops
    from freqbench import reporting as reporting
    from freqbench import results as results
    from freqbench.api import *  # noqa: F403
else:

    def __getattr__(name: str) -> Any:
        """Imports a subpackage, or a name of `freqbench.api`, on first use, so that `import freqbench` stays light."""
        if name in _ROOMS:
            return importlib.import_module(f"freqbench.{name}")
        if name in __all__:
            return getattr(importlib.import_module("freqbench.api"), name)
        raise AttributeError(f"module 'freqbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, *_ROOMS, "__version__"]
