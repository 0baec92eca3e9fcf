"""A job whose dataset, model and attack are the toy package's."""

import importlib
import sys
from pathlib import Path
from typing import Any

from engine.cases import grid_of
from tiny_job import small

from freqbench.core.plugins import trusting
from freqbench.job.cells import Unit
from freqbench.models import ModelEntry, ModelSpec, resolve

ROI = [16, 16, 16]
OWN: dict[str, Any] = {
    "datasets": [{"name": "balls", "loader": "toy.data:Balls", "cases": 2}],
    "models": [{"name": "tiny", "arch": "toy.net:Tiny", "checkpoint": "random", "args": {"classes": 2}, "roi": ROI}],
    "attacks": [{"name": "toy.attack:Walk", "eps": "8/255", "steps": 2}],
}
TRUST = {"trust_code": True}


def units(**changes: Any) -> list[Unit]:
    return list(grid_of(small(**{**OWN, **TRUST, **changes})).units())


def spec(**changes: Any) -> ModelSpec:
    with trusting():
        return resolve(ModelEntry(**{**OWN["models"][0], **changes}), num_classes=2)


def module(folder: Path, text: str) -> None:
    (folder / "written.py").write_text(text)
    sys.modules.pop("written", None)
    importlib.invalidate_caches()
