"""Attacks and scores models from Python, for `import freqbench as fb`.

Attacks run and are scored by the functions that `freqbench run` uses, so the numbers are the same, to the bit at equal
threads and `window_batch`. A wrong argument raises a `freqbench.core.errors.UserError`, a ValueError of one line,
before anything is computed.
"""

from freqbench.api.case import Case as Case
from freqbench.api.case import Cases as Cases
from freqbench.api.case import load_dataset as load_dataset
from freqbench.api.certificate import Certificate as Certificate
from freqbench.api.certificate import certify as certify
from freqbench.api.evaluation import Record as Record
from freqbench.api.evaluation import attack as attack
from freqbench.api.evaluation import evaluate as evaluate
from freqbench.api.evaluation import load_results as load_results
from freqbench.api.model import Model as Model
from freqbench.api.model import load_model as load_model
from freqbench.api.result import Result as Result
