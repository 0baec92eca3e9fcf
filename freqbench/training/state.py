"""What a run of training has reached, and how it goes to a file and back."""

import io
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from freqbench.models.archive import read_torch
from freqbench.storage import exists, join, read_bytes, write_atomic

LAST = "last.pt"
BEST = "best.safetensors"
LOG = "log.csv"
LOG_HEADER = "step,lr,loss,dice_select"


@dataclass(kw_only=True)
class State:
    """A network in training: with its last step done, nothing else is needed to go on.

    Draws are functions of seed and step, so no state of a random generator belongs here.

    Attributes:
        net: the bare network.
        optimizer: over its parameters.
        step: optimizer steps done.
        seconds: of training so far, over all resumptions.
        losses: of the steps since the last validation.
        dice_select: the best mean foreground Dice on the select list so far.
        best: the weights that reached it, on the CPU.
        log: a row a validation: step, learning rate, mean loss since the row before, Dice.
    """

    net: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    dice_select: float = -math.inf
    best: dict[str, Tensor] = field(default_factory=dict)
    log: list[tuple[int, float, float, float]] = field(default_factory=list)

    def save(self, folder: str, identity: str) -> None:
        """Write `last.pt` and `log.csv`.

        Args:
            folder: of the model, below OUT.
            identity: of everything that shapes the weights; only a run of the same identity goes on from here.
        """
        content = {
            "identity": identity,
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "losses": self.losses,
            "dice_select": self.dice_select,
            "best": self.best,
            "log": self.log,
        }
        stream = io.BytesIO()
        torch.save(content, stream)
        write_atomic(join(folder, LAST), stream.getvalue())
        rows = [f"{step},{lr:.6g},{loss:.6g},{dice:.6g}" for step, lr, loss, dice in self.log]
        write_atomic(join(folder, LOG), ("\n".join([LOG_HEADER, *rows]) + "\n").encode())

    def restore(self, folder: str, identity: str) -> None:
        """Take over what `save` wrote under the same identity; without such a file nothing changes.

        Raises:
            CheckpointError: a file that `save` did not write.
        """
        path = join(folder, LAST)
        if not exists(path):
            return
        content: Any = read_torch(path, io.BytesIO(read_bytes(path)))
        if not isinstance(content, dict) or content.get("identity") != identity:
            return
        self.net.load_state_dict(content["net"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.step = content["step"]
        self.seconds = content["seconds"]
        self.losses = content["losses"]
        self.dice_select = content["dice_select"]
        self.best = content["best"]
        self.log = content["log"]
