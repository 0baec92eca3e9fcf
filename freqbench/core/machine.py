"""Reads facts that results depend on beside the job: this machine's cores, and versions of numerical packages."""

import gc
import importlib.metadata
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

PACKAGES = ("freqbench", "torch", "ray", "monai", "numpy", "scipy", "scikit-image", "lpips", "nibabel", "pyarrow")


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the installed packages that numbers depend on."""
    releases = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            releases[name] = importlib.metadata.version(name)
    return releases


def available_cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def uncollected() -> Iterator[None]:
    """Keeps objects of imports and grids out of garbage collection, which takes a second, and another at exit."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
