"""A small store for the tests of `verify`, and what it says of a store."""

from pathlib import Path

from tiny import job

from freqbench.audit.verify import verify
from freqbench.results import Store
from freqbench.results.findings import Check

ATTACKS = [{"name": "pgd", "eps": "8/255", "steps": 2}, {"name": "gn", "std": "8/255"}]
CONTENT = job(attacks=ATTACKS, save_adversarial="nifti", datasets=[{"name": "phantom", "shape": [16] * 3, "cases": 2}])


def checks(store: Path, with_volumes: bool = False) -> dict[str, Check]:
    return {check.name: check for check in verify(Store(str(store)), with_volumes)}


def wrong(store: Path, with_volumes: bool = False) -> dict[str, str]:
    """What is wrong, by check."""
    return {name: check.text for name, check in checks(store, with_volumes).items() if check.verdict == "wrong"}


def pair_of(store: Path, kind: str = "records") -> Path:
    (path,) = (store / kind).glob("*.parquet")
    return path
