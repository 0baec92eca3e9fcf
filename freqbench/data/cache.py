"""Caches preprocessed volumes on the node's disk: keyed by content, written atomically, limited in size."""

import contextlib
import json
import logging
import os
import zlib
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from freqbench.core.files import node_cache, storage
from freqbench.core.files.node_cache import limit
from freqbench.core.types import Beside, Case, CaseRef

if TYPE_CHECKING:
    from torch import Tensor

# Raise it with every change of a file's content; the output of `load` has its own revision in the recipe.
REVISION = 7

# Another release of these may round, resample or crop otherwise.
LIBRARIES = ("SimpleITK", "monai", "nibabel", "numpy", "scikit-image", "scipy", "torch")

# Fields of a case beside its volumes and its reference.
FACTS = ("spacing", "affine", "native_ranges", "original_spacing", "inner", "lost", "off_scale")

# Tensors of what a network's own pipeline made beside them.
BESIDE = ("fixed", "rest")

DAMAGED = "%s: expected a preprocessed volume, got a damaged file, which is made anew: %s"

logger = logging.getLogger(__name__)


class Kept(NamedTuple):
    """One volume on disk; `used` is when it was last written or read, seconds since 1970."""

    used: float
    path: Path
    num_bytes: int


@lru_cache(maxsize=1)
def libraries() -> tuple[str, ...]:
    """Returns the releases of the libraries that read and preprocess; they are part of every key."""
    return tuple(version(name) for name in LIBRARIES)


def require_usable() -> None:
    """Raises as `limit` and `node_cache.part` do: once before a run, not once per case."""
    limit()
    node_cache.part("volumes")


def entries() -> tuple[Kept, ...]:
    """Returns the cached volumes, the least recently used first."""
    volumes = []
    for path in node_cache.made_files("volumes"):
        with contextlib.suppress(FileNotFoundError):  # another process may clear at the same time
            facts = path.stat()
            if path.suffix == ".safetensors":
                volumes.append(Kept(facts.st_mtime, path, facts.st_size))
    return tuple(sorted(volumes))


def total() -> int:
    """Returns the bytes of all cached volumes."""
    return sum(entry.num_bytes for entry in entries())


def cached_case(key: str, ref: CaseRef, make: Callable[[], Case]) -> Case:
    """Returns the case that is cached under a key, equal to the bit; else makes it with `make` and caches it.

    `key` is a digest of all that the case depends on. The result carries the caller's `ref`: the same content may have
    another name elsewhere. A disk that is full or read-only costs time, not the case, and is logged. Raises as `limit`.
    """
    most = limit()
    if not most:
        return make()
    path = node_cache.part("volumes") / f"{key}.safetensors"
    case = _read(path, ref)
    if case is None:
        case = make()
        _keep(path, case, most)
    return case


def _read(path: Path, ref: CaseRef) -> Case | None:
    """Returns the case in a file; None if the file is missing or damaged."""
    import torch
    from safetensors import SafetensorError, safe_open

    if not path.is_file():  # a pipe has no end
        return None
    tensors: dict[str, Any] = {}
    try:
        # Read as tensors, it would be opened twice, and may be gone the second time.
        with safe_open(path, "np") as file:
            checksum, _, facts = file.metadata()["case"].partition(" ")
            tensors = {name: torch.from_numpy(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
            image, label = tensors.pop("image"), tensors.pop("label")
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        logger.warning(DAMAGED, path, error)
        return None
    if checksum != _checksum(facts, image, label, *(tensors[name] for name in sorted(tensors))):
        logger.warning(DAMAGED, path, "its checksum does not fit")
        return None
    with contextlib.suppress(OSError):  # a cache that another user owns, or clears just now, is good enough to read
        os.utime(path)
    stated = json.loads(facts)
    made = stated.pop("prepared")
    fields = {name: _tuples(value) for name, value in stated.items()}
    affine = np.array(fields.pop("affine"), np.float64)
    beside = {name: tensors.get(name) for name in BESIDE}
    prepared = made and Beside(bounds=_tuples(made["bounds"]), facts=made["facts"], **beside)
    return Case(ref=ref, image=image, label=label, affine=affine, prepared=prepared, **fields)


def _keep(path: Path, case: Case, most: int) -> None:
    """Writes a case; removes the least recently used ones if all would take more than `most` bytes."""
    from safetensors.torch import save

    made = case.prepared
    beside = {name: tensor for name in BESIDE if made and (tensor := getattr(made, name)) is not None}
    stated = {"prepared": made and {"bounds": made.bounds, "facts": made.facts}}
    facts = json.dumps(stated | {name: getattr(case, name) for name in FACTS}, default=np.ndarray.tolist)
    # In the order in which a reader meets them.
    checksum = _checksum(facts, case.image, case.label, *(beside[name] for name in sorted(beside)))
    content = save({"image": case.image, "label": case.label, **beside}, {"case": f"{checksum} {facts}"})
    if len(content) > most:
        return
    try:
        storage.write_atomic(str(path), content)
        volumes = entries()
        over = sum(volume.num_bytes for volume in volumes) - most
        for volume in volumes:
            if over <= 0:
                break
            volume.path.unlink(missing_ok=True)
            over -= volume.num_bytes
    except OSError as error:
        logger.warning("%s: a preprocessed volume could not be kept: %s", path, error)


def _checksum(facts: str, *tensors: "Tensor") -> str:
    """Returns a checksum of a file's whole content: without it, a flipped bit would pass for an intensity."""
    checksum = zlib.crc32(facts.encode())
    for tensor in tensors:
        checksum = zlib.crc32(tensor.numpy().data, checksum)
    return f"{checksum:08x}"


def _tuples(value: Any) -> Any:
    """Turns JSON lists back into the tuples that they were."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
