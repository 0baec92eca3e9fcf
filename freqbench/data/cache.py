"""Keeps preprocessed volumes on the node's disk."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from freqbench.core.files import node_cache
from freqbench.core.files.kept import Kept, Packed, code, libraries
from freqbench.core.types import Beside, Case, CaseRef

if TYPE_CHECKING:
    from torch import Tensor

# Fields of a case beside its volumes and its reference.
FACTS = ("spacing", "affine", "native_ranges", "original_spacing", "inner", "lost", "off_scale")

# Tensors of what a network's own pipeline made beside them.
BESIDE = ("fixed", "rest")

_ANYBODY = CaseRef(case_id="anybody", patient_id="anybody", fingerprint="", shape=(0, 0, 0))


def require_usable() -> None:
    """Raises as `node_cache.limit` and `node_cache.part` do."""
    node_cache.limit()
    node_cache.part("volumes")


def cached_case(
    ref: CaseRef, make: Callable[[], Case], stays: Callable[[], bool] = lambda: True, **dependencies: Any
) -> Case:
    """Returns the case that is kept, equal to the bit; else makes it with `make` and keeps it if it still `stays`.

    `dependencies` are the case's key and the space's identity. The result carries the caller's `ref`: the same content
    may have another name elsewhere. Raises as `require_usable`.
    """
    require_usable()
    outside = {"code": code("core", "data", "ops", "pipelines"), "libraries": libraries()}
    return replace(VOLUMES.get(make, stays=stays, **dependencies, **outside), ref=ref)


def _pack(case: Case) -> Packed:
    made = case.prepared
    beside = {name: tensor for name in BESIDE if made and (tensor := getattr(made, name)) is not None}
    facts = {name: getattr(case, name) for name in FACTS}
    prepared = made and {"bounds": made.bounds, "facts": made.facts}
    return (
        {**facts, "affine": case.affine.tolist(), "prepared": prepared},
        {"image": case.image, "label": case.label, **beside},
    )


def _unpack(facts: dict[str, Any], tensors: Mapping[str, "Tensor"]) -> Case:
    made, affine = facts.pop("prepared"), np.array(facts.pop("affine"), np.float64)
    beside = {name: tensors.get(name) for name in BESIDE}
    prepared = made and Beside(bounds=_tuples(made["bounds"]), facts=made["facts"], **beside)
    volumes = {name: tensors[name] for name in ("image", "label")}
    fields = {name: _tuples(value) for name, value in facts.items()}
    return Case(ref=_ANYBODY, affine=affine, prepared=prepared, **volumes, **fields)


def _tuples(value: Any) -> Any:
    """Turns JSON lists back into the tuples that they were."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


VOLUMES = Kept[Case](
    name="preprocessed volume",
    depends=("case", "space", "code", "libraries"),
    place="volumes/{key}.safetensors",
    pack=_pack,
    unpack=_unpack,
)
