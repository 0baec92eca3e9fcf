"""Lists the networks that the package carries, `zoo://DATASET/NAME`, by facts in their files; torch is not imported."""

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
    """Facts of a packaged network."""

    address: str  # `zoo://DATASET/NAME`, as a job's `checkpoint`
    arch: str
    dataset: str  # that taught it
    licence: str  # terms of use of the weights
    trained_by: str  # objective and attacks
    seed: int
    steps: int
    seconds: float  # of its training, on one CPU thread
    job: str  # name of its training job
    attacks: tuple[Mapping[str, Any], ...]  # that it was trained on, with the parameters that are not their defaults
    dice: float  # mean foreground Dice (0..1) on the clean volumes of the job's test list
    worst_case: float | None  # that of the leaderboard: under the strongest attack on each case; None: no entry
    threat_models: tuple[str, ...]  # with their bounds, within any of which that attack lies


def zoo_names() -> list[str]:
    """Lists the checkpoints that the package carries, as `DATASET/NAME`."""
    return sorted(path.relative_to(_FOLDER).with_suffix("").as_posix() for path in _FOLDER.glob("*/*.safetensors"))


def zoo_path(address: str) -> Path:
    """Returns the file of an `address`, `zoo://DATASET/NAME`; raises CheckpointError for a name that the package does
    not carry."""
    name = address.removeprefix(ZOO)
    if name not in zoo_names():
        raise CheckpointError(f"{address}: {unknown('zoo checkpoint', name, zoo_names())}")
    return _FOLDER / f"{name}.safetensors"


def card(address: str) -> Packaged:
    """Reads the card of an `address`, `zoo://DATASET/NAME`; raises CheckpointError as `zoo_path`."""
    from safetensors import safe_open

    with safe_open(zoo_path(address), framework="np") as stream:
        facts = json.loads(stream.metadata()[METADATA_KEY])
    training = facts["training"]
    written = training.get("attack", [])
    attacks = tuple(written) if isinstance(written, list) else (written,)
    trained_by = "clean"
    if attacks:
        several = "a union of " if training.get("union") else ""
        named = ", ".join(dict.fromkeys(attack["name"] for attack in attacks))
        consistent = " with frequency consistency" if training.get("frequency_consistency") else ""
        trained_by = f"{training['objective']} on {several}{named}{consistent}"
    worst_case = None
    threat_models: tuple[str, ...] = ()
    if ranked := _worst_cases().get(address):
        worst_case = float(ranked["worst_case"])
        threat_models = tuple(ranked["threat_models"].split("; "))
    of_training = {name: training[name] for name in ("dataset", "seed", "steps", "seconds", "job")}
    return Packaged(
        address=address,
        arch=facts["arch"],
        licence=facts["licence"],
        trained_by=trained_by,
        attacks=attacks,
        dice=training["dice_test"],
        worst_case=worst_case,
        threat_models=threat_models,
        **of_training,
    )


@cache
def _worst_cases() -> Mapping[str, Mapping[str, str]]:
    with WORST_CASES.open(encoding="utf-8", newline="") as stream:
        return {row["checkpoint"]: row for row in csv.DictReader(stream)}
