"""Reads facts of this machine that results depend on, and sets what their speed depends on."""

import ctypes
import gc
import importlib.metadata
import os
import platform
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from itertools import chain
from pathlib import Path

import psutil

from freqbench.core.errors import UserError

MOVE_NUMBERS = ("freqbench", "torch", "monai", "numpy", "scipy", "scikit-image", "nibabel", "SimpleITK")
"""The packages whose release may change the numbers of every row."""
TOOLCHAINS: Mapping[str, tuple[str, ...]] = {
    "nnunet": ("nnunetv2", "batchgenerators", "batchgeneratorsv2", "acvl-utils", "dynamic-network-architectures"),
    "onnx": ("onnx", "onnx2torch", "onnxruntime"),
    "dicom": ("pydicom",),
}
"""Further ones that may change the numbers of rows with a kind of network or pipeline, or a loader."""
PACKAGES = (*MOVE_NUMBERS, *chain.from_iterable(TOOLCHAINS.values()), "lpips", "ray", "pyarrow", "safetensors")
THREADS = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"),
    *("NUMEXPR_NUM_THREADS", "NUMEXPR_MAX_THREADS", "NUMBA_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"),
)
"""Variables with a number of threads, which libraries read when they are imported."""

PROC = Path("/proc")
CONTROL_GROUPS = Path("/sys/fs/cgroup")
# of glibc's malloc.h
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
LARGEST_TENSORS = 1 << 30, 32 << 20  # bytes; the second is the most that an older glibc takes


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the installed packages that numbers depend on."""
    return {"python": sys.version.split()[0], **_versions_of(PACKAGES)}


@cache
def releases(parts: frozenset[str] = frozenset()) -> str:
    """Returns the releases of what moves a row's numbers, `monai 1.6.0, ...`; `parts` may be of TOOLCHAINS or PACKAGES.

    >>> [part.split()[0] for part in releases(frozenset({"nnunet", "unet"})).split(", ")][3:6]
    ['nibabel', 'nnunetv2', 'numpy']
    """
    names = {*MOVE_NUMBERS, *parts.intersection(PACKAGES)}.union(*(TOOLCHAINS.get(part, ()) for part in parts))
    return ", ".join(f"{name} {release}" for name, release in _versions_of(sorted(names, key=str.lower)).items())


def _versions_of(names: Iterable[str]) -> dict[str, str]:
    found = {}
    for name in names:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def available_cores() -> int:
    """Returns the number of whole cores that this process may use, by its affinity and its container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, int(_quota())))


def available_threads() -> int:
    """Returns the number of threads for one process: the cores, or OMP_NUM_THREADS if that is less."""
    return min(available_cores(), stated_threads() or sys.maxsize)


def settle_threads() -> None:
    """Leaves of each of THREADS the first number, before libraries read it; raises UserError for one without."""
    for name in THREADS:
        if stated := os.environ.get(name, "").strip():
            numbers = [text.strip() for text in stated.split(",")]
            if not all(re.fullmatch("[1-9][0-9]{0,3}", number) for number in numbers):
                got = f"got {stated!r:.80}: correct it, or unset it"
                raise UserError(f"{name}: expected a whole number from 1 to 9999, or a list of them as 4,2, {got}")
            os.environ[name] = numbers[0]
        else:
            os.environ.pop(name, None)  # empty; numexpr would take it for 0


def stated_threads() -> int | None:
    """Returns OMP_NUM_THREADS, of a list the first number; None if it is unset or none."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) else None


def core_seconds() -> tuple[float, float]:
    """Returns the seconds that this process's threads ran, and waited for cores that others had; 0 beside Linux."""
    ran = 0.0
    waited = 0.0
    for path in (PROC / "self/task").glob("*/schedstat"):
        times = _read(path).split()
        if len(times) == 3:
            ran += int(times[0]) / 1e9
            waited += int(times[1]) / 1e9
    return ran, waited


def slowdown(since: tuple[float, float]) -> float:
    """Returns the factor by which other processes have slowed this one down since `core_seconds` was `since`."""
    ran, waited = (now - then for now, then in zip(core_seconds(), since, strict=True))
    return 1 + max(0.0, waited) / ran if ran > 0 else 1.0  # threads that end take their times along


def available_memory() -> int:
    """Returns the free bytes of this machine, or of this process's container."""
    free = [psutil.virtual_memory().available]
    for folder in _control_groups("memory"):
        for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            bound, taken = (_read(folder / name) for name in (limit, used))
            if bound.isdecimal() and taken.isdecimal():
                free.append(int(bound) - int(taken))
    return max(0, min(free))


def _quota() -> float:
    """Returns the cores' worth of time that the container's control groups, version 1 or 2, leave this process."""
    quotas = [float(sys.maxsize)]
    for folder in _control_groups("cpu"):
        v1 = f"{_read(folder / 'cpu.cfs_quota_us')} {_read(folder / 'cpu.cfs_period_us')}"
        for text in (_read(folder / "cpu.max"), v1):
            time, _, period = text.partition(" ")  # "max" or "-1": none
            if time.isdecimal() and period.isdecimal() and int(period):
                quotas.append(int(time) / int(period))
    return min(quotas)


def _control_groups(controller: str) -> Iterator[Path]:
    """Yields the folders of this process's control group and of those around it, which bound it too."""
    for line in _read(PROC / "self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue  # version 2 names no controller
        root = CONTROL_GROUPS / controller if controllers else CONTROL_GROUPS
        path = root / group.lstrip("/")
        yield path
        yield from (parent for parent in path.parents if parent.is_relative_to(root))


def _read(path: Path) -> str:
    """Returns a file's text without the space around it; empty if it cannot be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def keep_freed_memory() -> None:
    """Lets glibc keep what one pass on a CPU frees for the next, except tensors above a GiB; elsewhere does nothing."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        any(libc.mallopt(M_MMAP_THRESHOLD, size) for size in LARGEST_TENSORS)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


@contextmanager
def pause_gc() -> Iterator[None]:
    """Keeps objects of imports and grids out of garbage collection, which takes a second, and another at exit."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
