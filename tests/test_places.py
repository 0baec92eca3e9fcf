"""Facts of a metric stand in its function, in its line of METRICS and in a line a number; other rooms only use them."""

import ast
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from freqbench.core.measures import METRICS

PACKAGE = Path(__file__).parents[1] / "freqbench"
TABLE = "core/measures.py"
ROOMS = ("audit/*.py", "core/*.py", "engine/*.py", "exchange/*.py", "metrics/__init__.py", "results/*.py")
"""Files that would hold a fact; views, checks and papers choose the scores that they are about."""
THREAT_MODEL = {"core/threat_models.py": 1}  # of the same name
USES: dict[str, dict[str, int]] = {
    "dsc": {
        **{"audit/computing.py": 3, "audit/first_case.py": 2, "audit/probe_files.py": 1, "audit/probes.py": 7},
        **{"audit/reference.py": 4, "audit/store_checks.py": 1, "engine/critic.py": 5, "engine/glimpser.py": 7},
        **{"engine/rows.py": 1, "engine/scoring.py": 9},
    },
    "hd95": {"audit/reference.py": 6, "engine/scoring.py": 3},
    "nsd": {"engine/scoring.py": 3, "engine/worker.py": 1},  # of certificates
    "assd": {"audit/reference.py": 3},  # another library's
    "volume": {"engine/scoring.py": 1},
    "calibration": {"engine/scoring.py": 4, "engine/worker.py": 1},
    "ssim": {"audit/computing.py": 1, "audit/reference.py": 4, "engine/matching.py": 2},
    "psnr": {"audit/reference.py": 3},
    "lpips": {
        **{"audit/comparison.py": 1, "audit/reference.py": 5, "audit/reproduce.py": 2, "core/machine.py": 1},
        **{"engine/matching.py": 1, "engine/scoring.py": 7},
    },
    "linf": {"audit/computing.py": 3, "engine/attacking.py": 1, "engine/matching.py": 1, "engine/scoring.py": 1}
    | THREAT_MODEL,
    "l2": {"audit/computing.py": 2, "engine/attacking.py": 1, "engine/scoring.py": 1} | THREAT_MODEL,
    "energy": {"engine/scoring.py": 1},
    "seam": {"engine/scoring.py": 1},
    "voxel_success": {"engine/scoring.py": 2, "exchange/predictions.py": 2, "results/schema.py": 1},
}
"""Lines that name a metric or a number of it, by file."""

pytestmark = pytest.mark.repository


@cache
def words(path: Path) -> set[tuple[str, int]]:
    """Texts and names in a file's code, but for what it imports, each with its line."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if hasattr(node, "lineno")]
    named = {(getattr(node, key, None), node.lineno) for node in nodes for key in ("value", "id", "attr", "arg")}
    return {(word, line) for word, line in named if isinstance(word, str)}


def places(metric: str) -> Counter[str]:
    """Lines by file that name a metric or a number of it; the word volume has other meanings."""
    names = {*METRICS[metric].columns, *(number.name for number in METRICS[metric].numbers), metric} - {"volume"}
    paths = [path for room in ROOMS for path in PACKAGE.glob(room)]
    lines = {(path, line) for path in paths for word, line in words(path) if word in names}
    return Counter(path.relative_to(PACKAGE).as_posix() for path, _ in lines)


@pytest.mark.parametrize("metric", METRICS)
def test_facts_of_a_metric_stand_in_the_table_alone(metric: str) -> None:
    counts, lines = places(metric), len(METRICS[metric].numbers) + (metric != "volume")
    assert counts.pop(TABLE) == lines
    assert {file: count for file, count in counts.items() if count > USES.get(metric, {}).get(file, 0)} == {}
