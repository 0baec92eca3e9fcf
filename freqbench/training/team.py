"""Joins the processes that train one network, each on its share of a step's crops; most often there is one."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from freqbench.training.objective import Objective
from freqbench.training.validation import Scores


@dataclass(frozen=True, kw_only=True)
class Team:
    """A process's place (from 0) among those of `torch.distributed`, and its device; alone it exchanges nothing."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    @property
    def is_first(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def parallel(self, objective: Objective) -> nn.Module:
        """The objective with gradients that are means over the team."""
        if self.size == 1:
            return objective
        return nn.parallel.DistributedDataParallel(objective, find_unused_parameters=True)

    @contextmanager
    def unsynced(self, objective: nn.Module, wanted: bool) -> Iterator[None]:
        """Within, where wanted, gradients are added up here alone."""
        if wanted and isinstance(objective, nn.parallel.DistributedDataParallel):
            with objective.no_sync():
                yield
        else:
            yield

    def mean(self, values: Sequence[float]) -> list[float]:
        """Each value's mean over the team."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(total)
        means: list[float] = (total / self.size).tolist()
        return means

    def gathered(self, scores: Mapping[int, Scores]) -> Scores:
        """The rows that the team has found, in the order of their numbers."""
        found = [dict(scores)]
        if self.size > 1:
            found = [{} for _ in range(self.size)]
            torch.distributed.all_gather_object(found, dict(scores))
        rows = {number: row for each in found for number, row in each.items()}
        return np.stack([rows[number] for number in sorted(rows)])


ALONE = Team()
