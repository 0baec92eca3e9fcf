"""Keeps the progress of a training: the state to resume from, and its log."""

import csv
import io
import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from freqbench.core.errors import CheckpointError, UnsafeError
from freqbench.core.files.storage import exists, join, read_bytes, write_atomic
from freqbench.models.checkpoints.files import read_torch

LAST = "last.pt"
BEST = "best.safetensors"
LOG = "log.csv"
RESULT = "training.json"
DICE = ("dice_select", "dice_attacked", "dice_worst")
MARKS = {LAST: b"dice_select", BEST: b'"freqbench":', LOG: b"step,lr,loss", RESULT: b'"identity":'}
"""Marks of files that a training wrote, by name."""
KEPT = ("step", "seconds", "waited", "validated", "losses", "score", *DICE, "best")


@dataclass(frozen=True)
class Row:
    """Row of the log, one per validation; NaN if the objective lacks a term or nothing was attacked."""

    step: int  # optimizer steps done
    lr: float  # learning rate of the last one
    loss: float  # mean since the row before; then its terms on clean and attacked crops and the weighted consistency
    loss_clean: float
    loss_attacked: float
    loss_consistency: float
    dice_select: float  # mean foreground Dice on the select list; then under the attacks of the validation
    dice_attacked: float  # the mean over them
    dice_worst: float  # the mean of each case's lowest under any of them


def read_log(folder: str) -> list[Row]:
    """Reads the rows of the log in `folder` as `State.save` wrote it, rounded as they are; empty if there is none."""
    path = join(folder, LOG)
    if not exists(path):
        return []
    rows: list[Row] = []
    for line in csv.DictReader(io.StringIO(read_bytes(path).decode())):
        values = {name: float(text) if text else math.nan for name, text in line.items()}
        rows.append(Row(step=int(values.pop("step")), **values))
    return rows


@dataclass(kw_only=True)
class State:
    """Network in training, with all that its next step needs; draws are functions of seed and step, and no state."""

    net: nn.Module
    optimizer: torch.optim.Optimizer
    averaged: AveragedModel | None = None  # the moving average of the weights, if the recipe has one
    step: int = 0  # optimizer steps done
    seconds: float = 0.0  # of these steps, over all resumptions
    waited: float = 0.0  # of these seconds, for crops
    validated: float = 0.0  # seconds besides
    losses: list[list[float]] = field(default_factory=list)  # the loss and its terms of steps since the last validation
    score: float = -math.inf  # score of the best weights; their Dice follow as in `Row`
    dice_select: float = math.nan
    dice_attacked: float = math.nan
    dice_worst: float = math.nan
    best: dict[str, Tensor] = field(default_factory=dict)  # the best weights, on the CPU
    log: list[Row] = field(default_factory=list)
    saved: int = 0  # the step of the state in `last.pt`; 0: no state

    @property
    def judged(self) -> nn.Module:
        """The network that is validated and stored: the average, if there is one."""
        return self.net if self.averaged is None else self.averaged.module

    @property
    def figures(self) -> dict[str, float]:
        """Scores of the best weights on the select list."""
        return {name: dice for name in DICE if (dice := getattr(self, name)) == dice or name == "dice_select"}

    def save(self, folder: str, identity: str) -> None:
        """Writes `log.csv`, then `last.pt` of a training's `identity`, into `folder`: a run killed in between writes
        its last row again, and loses none."""
        log = [*map(asdict, self.log)]
        averaged = {} if self.averaged is None else {"averaged": self.averaged.state_dict()}
        kept = {name: getattr(self, name) for name in KEPT}
        content = {
            "identity": identity,
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "log": log,
            **averaged,
            **kept,
        }
        stream = io.BytesIO()
        torch.save(content, stream)
        lines = [[column.name for column in fields(Row)]]
        for row in log:
            lines.append(["" if value != value else f"{value:.6g}" for value in row.values()])
        write_atomic(join(folder, LOG), "".join(",".join(line) + "\n" for line in lines).encode())
        write_atomic(join(folder, LAST), stream.getvalue())
        self.saved = self.step

    def restore(self, folder: str, identity: str) -> None:
        """Restores what `save` wrote into `folder` under the same identity, if anything; CheckpointError if the file is
        damaged."""
        path = join(folder, LAST)
        if not exists(path):
            return
        try:
            content: Any = read_torch(path, io.BytesIO(read_bytes(path)))
        except UnsafeError:
            raise
        except CheckpointError:
            steps = max((row.step for row in read_log(folder)), default=0)
            lost = f"the {steps} steps that {LOG} lists, and any since, are lost" if steps else "its steps are lost"
            advice = f"put back a copy, or delete it: then the same command trains anew from step 0, and {lost}"
            raise CheckpointError(f"{path}: expected the state of a training, got a damaged file: {advice}") from None
        if not isinstance(content, dict) or content.get("identity") != identity:
            return
        self.net.load_state_dict(content["net"])
        self.optimizer.load_state_dict(content["optimizer"])
        if self.averaged is not None:
            self.averaged.load_state_dict(content["averaged"])
        self.log = [Row(**row) for row in content["log"]]
        for name in KEPT:
            setattr(self, name, content[name])
        self.saved = self.step
