"""Faults of workers: attacks that kill their process or hang as often as files in a folder say, wherever they run."""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from torch import Tensor, nn

from freqbench.attacks import ATTACKS, Attack
from freqbench.attacks.core.task import Task
from freqbench.attacks.pgd import PGD
from freqbench.core.names import KNOWN


def happens(place: str, times: int) -> bool:
    """True if the fault in this folder has not yet happened so often; it is counted."""
    for number in range(times):
        try:
            (Path(place) / f"fault-{number}").touch(exist_ok=False)
        except FileExistsError:
            continue
        return True
    return False


def add_attack(patch: pytest.MonkeyPatch, attack: type[Attack]) -> None:
    patch.setattr("freqbench.attacks.table.ATTACKS", {**ATTACKS, attack.name: attack})
    patch.setitem(KNOWN, "attacks", (*KNOWN["attacks"], attack.name))  # type: ignore[arg-type]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True, kw_only=True)
class Faulty(PGD):
    """PGD, after something went wrong."""

    name: ClassVar[str] = "faulty"

    place: str
    fault: str
    times: int = 1
    eps: float = 8 / 255
    steps: int = 2

    def perturb(self, task: Task) -> Tensor:
        if self.fault == "die" and happens(self.place, self.times):
            die()
        if self.fault == "hang" and happens(self.place, self.times):
            time.sleep(600)
        if self.fault == "raise":
            raise RuntimeError("as asked")
        if self.fault == "exit":
            sys.exit(3)
        if self.fault == "slow":
            time.sleep(1)
        return super().perturb(task)


class Dying(nn.Module):
    """One convolution, whose process dies once in a prediction if the folder `place` is there."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self.place = place
        self.layer = nn.Conv3d(1, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        if Path(self.place).is_dir() and happens(self.place, 1):
            die()
        logits: Tensor = self.layer(x)
        return logits
