"""Processes whose seconds and memory are measured."""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[3]


def peak_mib(pid: int) -> int:
    """The most memory that a process has held since it began; 0 where it has just ended."""
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(peak[1]) // 1024 if peak else 0


class Measured:
    """A command that has ended: what it said, its seconds, those of a core, and the most memory that it held."""

    def __init__(self, folder: Path, *command: str) -> None:
        own = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1", "FREQBENCH_OFFLINE": "1"}
        self.mib = 0
        with tempfile.TemporaryFile("w+", dir=folder) as said:
            started = time.perf_counter()
            core = sum(os.times()[2:4])
            process = subprocess.Popen([sys.executable, *command], cwd=folder, env=os.environ | own, stdout=said)
            while process.poll() is None:
                self.mib = max(self.mib, peak_mib(process.pid))
                time.sleep(0.05)
            self.seconds = time.perf_counter() - started
            self.core_seconds = sum(os.times()[2:4]) - core
            said.seek(0)
            self.said = said.read()
        assert process.returncode == 0, self.said

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s ({self.core_seconds:.1f} s of a core, {self.mib} MiB)"
