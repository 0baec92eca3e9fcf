"""Operations that a step of an attack adds on a GPU to the bare passes of a network, counted without one."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.benchmark

# Operations and volumes of logits that a step adds, and a call once. Triton kernels by hand took up to 12 volumes less.
BOUNDS = {
    "pgd": (28, 15.0, 60, 6.0), "apgd": (54, 15.0, 40, 8.0), "vafa": (104, 26.0, 150, 6.0),
    "sa2": (88, 23.5, 120, 6.0), "vafa_opt": (100, 18.5, 110, 30.0), "sa2_opt": (100, 18.5, 100, 30.0),
}  # fmt: skip


def test_a_step_adds_few_operations_and_volumes(measured: list[dict[str, Any]]) -> None:
    pytest.importorskip("triton", reason="pip install -e '.[dev]'")
    script = Path(__file__).with_name("card_steps.py")
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    added = json.loads(run.stdout)
    measured += [{"what": "beyond the bare passes", "attack": name, **counts} for name, counts in added.items()]
    assert added.keys() == BOUNDS.keys()
    for name, bounds in BOUNDS.items():
        assert all(got <= most for got, most in zip(added[name].values(), bounds, strict=True)), (name, added[name])
