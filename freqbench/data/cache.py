"""Keeps preprocessed volumes on the node's disk."""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np

from freqbench.core.documents import to_tuples
from freqbench.core.files import node_cache
from freqbench.core.files.kept import Kept, Packed
from freqbench.core.types import Beside, Case, CaseRef

_ANYBODY = CaseRef(case_id="anybody", patient_id="anybody", fingerprint="", shape=(0, 0, 0))


def require_usable() -> None:
    """Raises as `node_cache.limit` and `node_cache.part` do."""
    node_cache.limit()
    node_cache.part("volumes")


def cached_case(ref: CaseRef, make: Callable[[], Case], **asked: Any) -> Case:
    """Returns the stored case of what is `asked`, with the caller's `ref`, or what `make` makes, as `Kept.get` does;
    raises as `require_usable`."""
    require_usable()
    return replace(VOLUMES.get(make, **asked), ref=ref)


def _pack(case: Case) -> Packed:
    from torch import Tensor

    stated = {**vars(case), **(vars(case.prepared) if case.prepared else {}), "affine": case.affine.tolist()}
    tensors = {name: value for name, value in stated.items() if isinstance(value, Tensor)}
    return {name: stated[name] for name in stated if name not in (*tensors, "ref", "prepared")}, tensors


def _unpack(facts: Mapping[str, Any], tensors: Mapping[str, Any]) -> Case:
    made = {name: to_tuples(value) for name, value in facts.items()} | dict(tensors)
    made["affine"] = np.array(made["affine"], np.float64)
    beside = {each.name: made.pop(each.name, None) for each in fields(Beside)}
    return Case(ref=_ANYBODY, prepared=Beside(**beside) if beside["bounds"] else None, **made)


_NEEDS = ("case", "space", "code", "libraries")
VOLUMES = Kept[Case](
    name="preprocessed volume", depends=_NEEDS, place="volumes/{key}.safetensors", pack=_pack, unpack=_unpack
)
