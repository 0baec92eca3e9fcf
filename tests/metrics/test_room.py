"""The room's table, and what importing it takes along."""

import subprocess
import sys

from freqbench.metrics import METRICS

HEAVY = {"monai", "pandas", "lpips", "skimage", "torchvision", "medpy", "nibabel"}


def test_importing_the_room_is_light() -> None:
    code = f"import sys, freqbench.metrics; print(*{HEAVY!r} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


def test_no_two_metrics_fill_one_column() -> None:
    columns = [column for metric in METRICS.values() for column in metric.columns]
    assert len(columns) == len(set(columns))
