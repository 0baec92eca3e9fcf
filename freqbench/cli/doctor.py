"""What works on this machine."""

import os
from collections.abc import Iterator
from pathlib import Path

from freqbench.attacks import ATTACKS
from freqbench.core import storage
from freqbench.core.machine import versions
from freqbench.data import DATASETS
from freqbench.engine import provenance
from freqbench.metrics import lpips_weights
from freqbench.models import MODELS, zoo_names


def examine() -> Iterator[tuple[str, str]]:
    """Findings, a name and a line each."""
    yield "devices", ", ".join(provenance.devices())
    yield "versions", ", ".join(f"{name} {version}" for name, version in versions().items())
    code = provenance.git_state()
    yield "code", f"commit {code['commit'][:12]}{' with changes' if code['dirty'] else ''}" if code else "installed"
    weights = lpips_weights()
    yield "LPIPS weights", str(weights) if weights else "not here: fetched at the first run that wants LPIPS"
    yield "cache", str(storage.cache_dir())
    yield "attacks", ", ".join(ATTACKS)
    yield "models", ", ".join(MODELS)
    yield "zoo", ", ".join(zoo_names()) or "empty"
    yield "datasets", ", ".join(DATASETS)
    root = os.environ.get("FREQBENCH_DATA")
    yield "FREQBENCH_DATA", _folders(Path(root)) if root else "not set: name your data's root in the job file"


def _folders(root: Path) -> str:
    if not root.is_dir():
        return f"{root}: no such folder"
    found = sorted(path.parent.name for path in root.glob("*/dataset.json"))
    return f"{root}: {', '.join(found) if found else 'no folder with a dataset.json'}"
