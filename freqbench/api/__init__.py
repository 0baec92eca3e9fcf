"""Attacks and scores models from Python: what `import freqbench as fb` offers.

Attacks run and are scored by the functions that `freqbench run` uses, so the numbers are the same, to the bit at equal
threads and `window_batch`. A mistake in what is given is a `freqbench.core.errors.UserError`, a ValueError of one line,
and is raised before anything is computed.
"""

from freqbench.api.case import Case, Cases, load_dataset
from freqbench.api.evaluation import Record, evaluate, load_results
from freqbench.api.model import Model, load_model
from freqbench.api.result import Result, attack

__all__ = [
    "Case",
    "Cases",
    "Model",
    "Record",
    "Result",
    "attack",
    "evaluate",
    "load_dataset",
    "load_model",
    "load_results",
]
