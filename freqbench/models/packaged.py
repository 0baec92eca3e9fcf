"""Lists the trained networks that the package carries, `zoo://DATASET/NAME`, with the facts that their files state.

No weights are read, and torch is not imported.
"""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from freqbench.core.errors import CheckpointError, unknown

ZOO = "zoo://"
METADATA_KEY = "freqbench"
_FOLDER = Path(__file__).parent / "zoo"
WORST_CASES = _FOLDER / "worst_cases.csv"
"""Table of the leaderboard's worst cases of these networks; `python docs/generated.py` writes it from the entries."""


@dataclass(frozen=True, kw_only=True)
class Packaged:
    """Facts of a packaged network.

    Attributes:
        address: `zoo://DATASET/NAME`, as a job's `checkpoint`.
        arch: architecture.
        dataset: dataset that taught it.
        licence: terms of use of the weights.
        trained_by: objective and attacks.
        seed, steps, seconds: of its training; the seconds are those of one CPU thread.
        job: name of its training job.
        attacks: those that it was trained on, with the parameters that differ from their defaults.
        dice: mean foreground Dice (0..1) on the clean volumes of the job's test list.
        worst_case: mean foreground Dice (0..1) that the strongest attack on each case within any of `threat_models`
            leaves, on the leaderboard's cases; None for a network that has no entry there.
        threat_models: threat models with their bounds.
    """

    address: str
    arch: str
    dataset: str
    licence: str
    trained_by: str
    seed: int
    steps: int
    seconds: float
    job: str
    attacks: tuple[Mapping[str, Any], ...]
    dice: float
    worst_case: float | None
    threat_models: tuple[str, ...]


def zoo_names() -> list[str]:
    """Lists the checkpoints that the package carries, as `DATASET/NAME`."""
    return sorted(path.relative_to(_FOLDER).with_suffix("").as_posix() for path in _FOLDER.glob("*/*.safetensors"))


def zoo_path(address: str) -> Path:
    """Returns the file of `zoo://DATASET/NAME`; raises CheckpointError for a name that the package does not carry."""
    name = address.removeprefix(ZOO)
    if name not in zoo_names():
        raise CheckpointError(f"{address}: {unknown('zoo checkpoint', name, zoo_names())}")
    return _FOLDER / f"{name}.safetensors"


def card(address: str) -> Packaged:
    """Reads the card of `zoo://DATASET/NAME`; raises CheckpointError as `zoo_path`."""
    from safetensors import safe_open

    with safe_open(zoo_path(address), framework="np") as stream:
        facts = json.loads(stream.metadata()[METADATA_KEY])
    training = facts["training"]
    written = training.get("attack", [])
    attacks = tuple(written) if isinstance(written, list) else (written,)
    named = ", ".join(dict.fromkeys(attack["name"] for attack in attacks))
    several = "a union of " if training.get("union") else ""
    ranked = _worst_cases().get(address)
    consistent = " with frequency consistency" if training.get("frequency_consistency") else ""
    return Packaged(
        address=address,
        arch=facts["arch"],
        dataset=training["dataset"],
        licence=facts["licence"],
        trained_by=f"{training['objective']} on {several}{named}{consistent}" if attacks else "clean",
        seed=training["seed"],
        steps=training["steps"],
        seconds=training["seconds"],
        job=training["job"],
        attacks=attacks,
        dice=training["dice_test"],
        worst_case=float(ranked["worst_case"]) if ranked else None,
        threat_models=tuple(ranked["threat_models"].split("; ")) if ranked else (),
    )


@cache
def _worst_cases() -> Mapping[str, Mapping[str, str]]:
    with WORST_CASES.open(encoding="utf-8", newline="") as stream:
        return {row["checkpoint"]: row for row in csv.DictReader(stream)}
