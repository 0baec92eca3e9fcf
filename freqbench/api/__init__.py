"""Attacks and scores models from Python, for `import freqbench as fb`.

Attacks run and are scored by the functions that `freqbench run` uses, so the numbers are the same, to the bit at equal
threads and `window_batch`. A wrong argument raises a `freqbench.core.errors.UserError`, a ValueError of one line,
before anything is computed.
"""

# ruff: noqa: E402 (libraries read the numbers of threads when they are imported)

from freqbench.core.machine import settle_threads

settle_threads()

from freqbench.api.case import Cases, load_dataset
from freqbench.api.case import PatientCase as Case
from freqbench.api.evaluation import Certificate, attack, certify, evaluate, load_results
from freqbench.api.evaluation import ScoredRecord as Record
from freqbench.api.model import Model, load_model
from freqbench.api.result import Result

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
