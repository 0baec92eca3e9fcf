"""Status counts the records of the store's own job, and needs little for it."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tiny import execute, expanded, small

from freqbench import evaluate
from freqbench.engine.status import of_store
from freqbench.results import Store

FGSM = {"name": "fgsm", "eps": ["4/255", "8/255", "16/255"]}


def said(out: Path) -> list[list[str]]:
    """The cells of each line of the first table."""
    console = Console(file=io.StringIO(), width=120)
    with console.capture() as capture:
        console.print(of_store(str(out))[0])
    return [[cell.strip() for cell in line.split("\u2502")[1:-1]] for line in capture.get().splitlines()]


def test_what_is_done_failed_and_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = evaluate.attack_case

    def fail_at_four(attack: Any, *args: Any) -> Any:
        if attack.eps < 0.02:
            raise OSError("disk on fire")
        return real(attack, *args)

    monkeypatch.setattr(evaluate, "attack_case", fail_at_four)
    execute(small(attacks=[FGSM], metrics=["dsc"]), tmp_path)
    _, wider = expanded(small(attacks=[FGSM, {"name": "bim", "eps": "8/255"}], metrics=["dsc"]))
    Store(str(tmp_path)).write_job({"index": wider.index()})
    assert [row for row in said(tmp_path) if row] == [["fgsm", "a", "2", "1"], ["not done yet", "", "1", ""]]


def test_neither_torch_nor_pandas_is_loaded() -> None:
    code = "import sys, freqbench.cli, freqbench.engine.status; print(*{'torch', 'pandas'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""
