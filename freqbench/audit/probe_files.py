"""Reads and writes measurements of probes: OUT/audit/gradients.json and saved.json."""

from collections.abc import Mapping
from typing import Annotated, TypeVar

from pydantic import Field

from freqbench.core.config import Strict, validate
from freqbench.core.documents import object_of
from freqbench.core.files import storage

FOLDER = "audit"
GRADIENTS, SAVED = "gradients.json", "saved.json"
Share = Annotated[float, Field(ge=0, le=1)]


class _OfCase(Strict):
    dataset: str
    model: str
    model_id: str
    case_id: str
    case_key: str


class GradientFacts(_OfCase):
    """One window of one case, whose loss (Dice + cross-entropy) was differentiated twice and then raised by PGD."""

    window: int
    precision: str
    zero_share: Share | None  # voxels whose gradient is exactly 0; None if there was no gradient at all
    sign_agreement: Share | None  # equal signs, of voxels with a gradient in either pass; None: no such voxel
    draws: int | None = None  # that an attacker averages at every pass; None if the defence draws none
    eps: float
    losses: tuple[float, ...]  # before each step of PGD; empty if one is not finite
    error: str | None = None  # reason why there was no gradient or loss


class Gradients(Strict):
    """Content of the file GRADIENTS: all windows, the settings of PGD, and the versions of the software."""

    steps: int
    step_size: str
    versions: dict[str, str]
    windows: tuple[GradientFacts, ...]


class SavedScore(_OfCase):
    """One saved adversarial volume, predicted anew by the model that it was made on; DSC are fractions."""

    attack: str
    cell_id: str
    dsc: float  # of the row
    dsc_stored: float  # of the volume as the store has it
    dsc_8bit: float  # of the same rounded to 256 intensities, as the papers' code saves volumes


class SavedScores(Strict):
    """Content of the file SAVED."""

    versions: dict[str, str]
    volumes: tuple[SavedScore, ...]


FILES: Mapping[type[Strict], str] = {Gradients: GRADIENTS, SavedScores: SAVED}
Content = TypeVar("Content", bound=Gradients | SavedScores)


def root_of(out: str) -> str:
    """Root of the store that an audit of `out` computed."""
    return storage.join(out, FOLDER)


def read(out: str, kind: type[Content]) -> Content | None:
    """Reads the measurements for the store `out`, if any; UserError for a file that is not of `write`."""
    path = storage.join(root_of(out), FILES[kind])
    return validate(object_of(storage.read_bytes(path), path), kind, path) if storage.exists(path) else None


def write(out: str, content: Gradients | SavedScores) -> None:
    """Writes either file in one step; UserError if another one is there."""
    read(out, type(content))
    storage.write_atomic(storage.join(root_of(out), FILES[type(content)]), content.model_dump_json(indent=1).encode())
