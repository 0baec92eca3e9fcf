"""What `audit --run` measures beside rows: gradients of a model, and saved volumes scored once more. Files of a store.

OUT/audit is a store of its own with the rows of the cells that the audit needed, and these two files; OUT is left as it
is.
"""

from typing import Annotated, TypeVar

from pydantic import Field

from freqbench.core import config, storage
from freqbench.core.config import Strict
from freqbench.core.documents import object_of

FOLDER = "audit"
GRADIENTS, SAVED = "gradients.json", "saved.json"
Share = Annotated[float, Field(ge=0, le=1)]
Found = TypeVar("Found", bound=Strict)


class GradientFacts(Strict):
    """One window of one case, whose loss (Dice + cross-entropy) was differentiated twice and then raised by PGD.

    Attributes:
        dataset: name of the dataset.
        model: name of the model, and `model_id` its id.
        case_id: of the case, and `case_key` its key.
        window: number of the window.
        precision: arithmetic of the network.
        zero_share: voxels whose gradient is exactly 0; None where there was no gradient at all.
        sign_agreement: voxels with a gradient in either of two passes whose sign is the same in both; None where no
            voxel has one.
        draws: of a defence at random that an attacker averages at every pass; None where nothing is drawn.
        eps: radius of the PGD.
        losses: the loss before each step of PGD; none where one is not finite.
        error: why there was no gradient, or no loss.
    """

    dataset: str
    model: str
    model_id: str
    case_id: str
    case_key: str
    window: int
    precision: str
    zero_share: Share | None
    sign_agreement: Share | None
    draws: int | None = None
    eps: float
    losses: tuple[float, ...]
    error: str | None = None


class Gradients(Strict):
    """The file GRADIENTS: all windows, what PGD was run with, and the versions of what computed it."""

    steps: int
    step_size: str
    versions: dict[str, str]
    windows: tuple[GradientFacts, ...]


class SavedScore(Strict):
    """One saved adversarial volume, predicted anew by the model that it was made on.

    Attributes:
        dataset: name of the dataset.
        model: name of the model, and `model_id` its id.
        case_id: of the case.
        attack: name of the attack, and `cell_id` the cell.
        dsc: of the row, a fraction.
        dsc_stored: of the volume as it lies in the store.
        dsc_8bit: of the same rounded to 256 intensities, as the papers' code saves volumes.
    """

    dataset: str
    model: str
    model_id: str
    case_id: str
    case_key: str
    attack: str
    cell_id: str
    dsc: float
    dsc_stored: float
    dsc_8bit: float


class Saved(Strict):
    """The file SAVED."""

    versions: dict[str, str]
    volumes: tuple[SavedScore, ...]


def root_of(out: str) -> str:
    """The store of what an audit of `out` computed."""
    return storage.join(out, FOLDER)


def read_gradients(out: str) -> Gradients | None:
    """Those of the store `out`; None where nothing was measured.

    Raises:
        UserError: the file is not what `write` wrote.
    """
    return _read(out, GRADIENTS, Gradients)


def read_saved(out: str) -> Saved | None:
    """The rescored volumes of the store `out`; None where none was.

    Raises:
        UserError: the file is not what `write` wrote.
    """
    return _read(out, SAVED, Saved)


def write(out: str, found: Gradients | Saved) -> None:
    """Write either file, whole or not at all."""
    name = GRADIENTS if isinstance(found, Gradients) else SAVED
    storage.write_atomic(storage.join(root_of(out), name), found.model_dump_json(indent=1).encode())


def _read(out: str, name: str, kind: type[Found]) -> Found | None:
    path = storage.join(root_of(out), name)
    if not storage.exists(path):
        return None
    return config.validate(object_of(storage.read_bytes(path), path), kind, path)
