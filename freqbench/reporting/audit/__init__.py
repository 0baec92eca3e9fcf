"""Can the numbers of a store be believed? Checks that the robustness field asks of every evaluation, from its rows.

Pure: frames in, findings out. `CHECKS` are the checks, `audited` makes them, `sections` shows them.
"""

from freqbench.reporting.audit.checks import CHECKS, Check, audited
from freqbench.reporting.audit.evidence import COLUMNS, Evidence, evidence_of
from freqbench.reporting.audit.findings import Finding
from freqbench.reporting.audit.gather import gathered
from freqbench.reporting.audit.shown import page_part, sections, short_sections

__all__ = [
    "CHECKS",
    "COLUMNS",
    "Check",
    "Evidence",
    "Finding",
    "audited",
    "evidence_of",
    "gathered",
    "page_part",
    "sections",
    "short_sections",
]
