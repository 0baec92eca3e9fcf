"""Entries of two networks for faint balls: a plain one, which stands, and one that hides its gradient."""

import io
import shutil
from pathlib import Path
from typing import Any

import faint_balls
import pytest
import torch
import yaml
from engine.conftest import one_thread
from rich.console import Console
from tiny_job import execute, expanded

from freqbench.audit import computing, probes
from freqbench.audit.checks import gradients
from freqbench.audit.computing import MissingOptions, compute_missing
from freqbench.core.plugins import trusting
from freqbench.reporting.leaderboard.entry_folder import BoardEntry, read_entry
from freqbench.reporting.leaderboard.make import make_entry

__all__ = ["one_thread"]

CARD: dict[str, Any] = {
    "title": "Bright",
    "authors": "The freqbench developers",
    "summary": "Class 1 where the mean of 27 voxels is bright.",
    "data": "None.",
    "training": "None: its weights are 1/27.",
    "license": "Apache-2.0",
    "contact": "someone@example.org",
    "checkpoint": "https://example.org/weights.pt",
    "paper": None,
    "bibtex": None,
}


def shorten(patch: pytest.MonkeyPatch) -> None:
    """Fewer steps and queries in what an audit adds."""
    for name, number in {"STEPS": 8, "QUERIES": 100}.items():
        patch.setattr(computing, name, number)
    patch.setattr(probes, "STEPS", 8)
    patch.setattr(gradients, "FEWEST_QUERIES", 100)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch)


def job(folder: Path, *attacks: dict[str, Any], **changes: Any) -> dict[str, Any]:
    content = faint_balls.job(attacks=list(attacks) or [{**faint_balls.job()["attacks"][0], "steps": 8}])
    for model in content["models"]:
        place = folder / f"{model['name']}.pt"
        if not place.exists():
            torch.save(faint_balls.Bright(**model["args"]).state_dict(), place)
        model["checkpoint"] = str(place)
    content["datasets"] = [{**content["datasets"][0], "cases": 2}]
    return {**content, "save_adversarial": "none", **changes}


def attacked(folder: Path, content: dict[str, Any]) -> str:
    out = str(folder / "out")
    with trusting():
        execute(content, out)
        options = MissingOptions(engine="serial")
        console = Console(file=io.StringIO())
        assert compute_missing(expanded(content)[0], out, console, options) == 0
    return out


def write_card(folder: Path, **changes: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "card.yaml").write_text(yaml.safe_dump({**CARD, **changes}, sort_keys=False))


@pytest.fixture(scope="session")
def entered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with checkpoints, a store `out`, and `entries` of both networks; only to be read."""
    folder = tmp_path_factory.mktemp("leaderboard")
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch)
        out = attacked(folder, job(folder))
        for name in ("plain", "rounded"):
            write_card(folder / "entries" / name)
            assert make_entry(out, name, folder / "entries" / name)
    return folder


@pytest.fixture
def plain(entered: Path) -> Path:
    """The folder of the entry that stands; only to be read."""
    return entered / "entries" / "plain"


@pytest.fixture
def entry(plain: Path) -> BoardEntry:
    return read_entry(plain)


@pytest.fixture
def copy(entered: Path, tmp_path: Path) -> Path:
    """A copy of the store, to change."""
    return Path(shutil.copytree(entered / "out", tmp_path / "out"))
