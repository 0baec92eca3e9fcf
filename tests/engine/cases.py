"""Cases made of a volume, for tests that read no file, and units that the serial engine carries out."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny_job import ROI, Collector, expanded
from torch import Tensor, nn

from freqbench import models
from freqbench.core.types import Case, CaseRef, Shape
from freqbench.engine.engines import serial
from freqbench.engine.rows import Outcome
from freqbench.engine.worker import WorkerSpec
from freqbench.job.cells import Unit
from freqbench.job.grid import Grid
from freqbench.models import ModelSpec, SegmentationModel
from freqbench.results import Key, Store

CUBE: dict[str, Any] = {"name": "phantom", "shape": ROI, "cases": 1}
"""An entry of phantoms of one window of the tiny job's networks."""


def volume(shape: Shape, channels: int = 1, seed: int = 0) -> Tensor:
    """Intensities in [0.2, 0.8], `[C, H, W, D]`."""
    return 0.2 + 0.6 * torch.rand((channels, *shape), generator=torch.Generator().manual_seed(seed))


def case_of(image: Tensor, label: Tensor, fingerprint: str = "case", **changes: Any) -> Case:
    shape = (image.shape[1], image.shape[2], image.shape[3])
    return Case(
        **{
            "ref": CaseRef(case_id="c", patient_id="p", fingerprint=fingerprint, shape=shape), "image": image,
            "label": label.to(torch.uint8), "spacing": (1.0, 1.0, 1.0), "affine": np.eye(4),
            "native_ranges": ((0.0, 1.0),) * len(image), "original_spacing": (1.0, 1.0, 1.0), **changes,
        }
    )  # fmt: skip


class Threshold(nn.Module):
    """Two classes, parted where the channels' sum is `middle`, a parameter, so that it has a device."""

    def __init__(self, middle: float = 0.5) -> None:
        super().__init__()
        self.middle = nn.Parameter(torch.tensor(middle), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        total = x.sum(dim=1, keepdim=True)
        return torch.cat([self.middle - total, total - self.middle], dim=1)


def grid_of(content: Mapping[str, Any]) -> Grid:
    return expanded(content)[1]


def row_keys(grid: Grid) -> list[Key]:
    """The keys of the rows that a grid asks for."""
    keys = list[Key]()
    for unit in grid.units():
        keys += [unit.cell.key(unit.ref, target) for target in unit.targets]
    return keys


def records_of(outcomes: Iterable[Outcome]) -> list[Mapping[str, Any]]:
    return [*chain.from_iterable(outcome.records for outcome in outcomes)]


def network_of(spec: ModelSpec) -> SegmentationModel:
    return models.load(spec, torch.device("cpu"))


def stored(out: Path | str, *columns: Sequence[str]) -> list[dict[str, Any]]:
    """The records of a store, all columns of them or some."""
    return Store(str(out)).records(*columns).to_pylist()


def units_of(content: Mapping[str, Any]) -> list[Unit]:
    return list(grid_of(content).units())


def run_serially(units: Sequence[Unit], **spec: Any) -> list[Outcome]:
    listener = Collector()
    usual = {"run_id": "r", "metrics": ("dsc",), "threads": 1, "trust_code": True}
    serial(units, WorkerSpec(**usual | spec), listener)
    return listener.outcomes


def run_all(content: Mapping[str, Any], **spec: Any) -> list[Outcome]:
    job, grid = expanded(content)
    return run_serially(list(grid.units()), metrics=job.metrics, **spec)
