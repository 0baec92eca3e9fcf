"""The versions that numbers depend on."""

import importlib.metadata
import sys
from contextlib import suppress

PACKAGES = ("freqbench", "torch", "ray", "monai", "numpy", "scipy", "scikit-image", "lpips", "nibabel", "pyarrow")


def versions() -> dict[str, str]:
    """Python and the packages that numbers depend on, as far as they are installed."""
    found = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
