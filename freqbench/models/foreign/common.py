"""Shares what the readers of other frameworks' models need: descriptions, configuration files, axes, construction."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from freqbench.core.config import Strict
from freqbench.core.documents import mapping_of, object_of
from freqbench.core.errors import CheckpointError, UserError
from freqbench.core.files import storage
from freqbench.core.input_space import Preprocess
from freqbench.core.types import Shape
from freqbench.models.entry import AXES, DEFAULT_INPUT, RAS_LETTERS, InputAdapter
from freqbench.models.networks.construction import refusing, seeded


class NoArgs(Strict):
    """Arguments, in a job, of a model whose folder holds them all: none."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """Description of a model, read from a file or folder of another framework.

    Attributes:
        roi: voxels of the window that the network was trained with, in its own axis order.
        sha256: hex digest of all files that its output depends on.
        input: adapter from a volume to the network's input.
        preprocess: preprocessing of its training data; None if the file does not state it.
        inference: keys of `Inference`, as it was deployed.
        black_box: why no gradient goes through it; None if one does.
        notes: what its framework does beside, and freqbench does not: one line each.
    """

    roi: Shape
    num_classes: int
    num_channels: int
    sha256: str
    input: InputAdapter = DEFAULT_INPUT
    preprocess: Preprocess | None = None
    inference: Mapping[str, Any] = field(default_factory=dict)
    black_box: str | None = None
    notes: tuple[str, ...] = ()


def read_object(path: Path) -> dict[str, Any]:
    """Returns the object in a JSON or YAML file; raises CheckpointError if it holds none."""
    if not path.is_file():
        raise CheckpointError(f"{path}: expected a file, found none: check the path, or fetch the whole folder again")
    try:
        content = path.read_bytes()
        return object_of(content, str(path)) if path.suffix == ".json" else mapping_of(content, str(path), True)
    except UserError as error:
        raise CheckpointError(str(error)) from None


def fingerprint(files: Mapping[str, Path]) -> str:
    """Returns the SHA-256 (hex) of several files' contents under their names; the folder's path does not matter."""
    contents = sorted((name, storage.sha256(str(path))) for name, path in files.items())
    return hashlib.sha256(json.dumps(contents).encode()).hexdigest()


def axes_towards(codes: str) -> str:
    """Returns `axes` of an `InputAdapter` from the direction in which each axis of a network's input increases.

    `codes` are one of R or L, one of A or P, and one of S or I, in the network's order; raises ValueError otherwise.

    >>> axes_towards("SPL")
    'D-W-H'
    """
    axes = "".join(RAS_LETTERS.get(code, code) for code in codes)
    if sorted(axes.replace("-", "")) != sorted(AXES):
        raise ValueError(f"expected one of R or L, one of A or P and one of S or I, as in LPS, got {codes!r}")
    return axes


def construct(where: str, make: Callable[[], nn.Module]) -> nn.Module:
    """Returns the network of `make` with the fresh weights of seed 0; raises UserError if it refuses its arguments."""
    with seeded(0), refusing(f"{where} does not fit its class"):
        return make()
