"""Reads facts of this machine that results depend on, and sets what their speed depends on."""

import ctypes
import gc
import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

PACKAGES = (
    *("freqbench", "torch", "ray", "monai", "numpy", "scipy", "scikit-image", "lpips", "nibabel", "SimpleITK"),
    "pyarrow",
)

MALLOC_SIZES = {-3: 64 << 20, -1: 256 << 20}  # bytes; M_MMAP_THRESHOLD and M_TRIM_THRESHOLD in glibc's malloc.h


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


def keep_freed_memory() -> None:
    """Lets glibc keep what one pass on a CPU frees for the next, which then need not ask the kernel for zeroed pages.

    The process grows by the gaps between the tensors that it keeps. Does nothing where the C library is another.
    """
    if platform.libc_ver()[0] == "glibc":
        for option, size in MALLOC_SIZES.items():
            ctypes.CDLL(None).mallopt(option, size)


@contextmanager
def uncollected() -> Iterator[None]:
    """Keeps objects of imports and grids out of garbage collection, which takes a second, and another at exit."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
