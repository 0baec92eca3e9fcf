"""Can the numbers of a store be believed? Checks that the robustness field asks of every evaluation, from its rows.

Pure: frames in, findings out. `CHECKS` are the checks and `audited` makes them.
"""

from freqbench.audit.checks.evidence import COLUMNS, Evidence, evidence_of
from freqbench.audit.checks.findings import Finding
from freqbench.audit.checks.gather import gathered
from freqbench.audit.checks.table import CHECKS, Check, audited

__all__ = [
    "CHECKS",
    "COLUMNS",
    "Check",
    "Evidence",
    "Finding",
    "audited",
    "evidence_of",
    "gathered",
]
