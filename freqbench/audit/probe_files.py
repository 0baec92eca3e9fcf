"""Measures symptoms of gradients; reads and writes what probes measured: OUT/audit/gradients.json and saved.json."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, TypeVar

from pydantic import Field
from torch import Tensor

from freqbench.core.config import Strict, validate
from freqbench.core.documents import object_of
from freqbench.core.files import storage

FOLDER = "audit"
GRADIENTS = "gradients.json"
SAVED = "saved.json"
LAST_PART = 0.1  # of the steps of PGD
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
    """Reads the measurements of a `kind` for the store with the root `out`, if any; UserError for a file that is not of
    `write`."""
    path = storage.join(root_of(out), FILES[kind])
    return validate(object_of(storage.read_bytes(path), path), kind, path) if storage.exists(path) else None


def write(out: str, content: Gradients | SavedScores) -> None:
    """Writes the file of this kind of `content` for the store with the root `out` in one step; UserError if another one
    is there."""
    read(out, type(content))
    storage.write_atomic(storage.join(root_of(out), FILES[type(content)]), content.model_dump_json(indent=1).encode())


def zero_share(gradient: Tensor) -> float:
    """Returns the share of entries that are exactly 0, or not finite. Nearly all mean that the network rounds, clips or
    saturates: gradient attacks stand still (Athalye, Carlini, Wagner, ICML 2018, shattered gradients)."""
    return float(((gradient == 0) | ~gradient.isfinite()).double().mean())


def sign_agreement(first: Tensor, second: Tensor) -> float:
    """Returns the share of entries of one sign in two gradients, `first` and `second`, of those not 0 in both; NaN if
    all are. Not finite: they disagree. A deterministic network has 1, one that draws at random about 0.5 (stochastic
    gradients, ibid.)."""
    if not (counts := (first != 0) | (second != 0)).any():
        return math.nan
    return float(((first.sign() == second.sign()) & first.isfinite() & second.isfinite())[counts].double().mean())


def share_at_end(losses: Sequence[float]) -> float:
    r"""Returns the share of a loss's rise that its last tenth of steps makes, at least one step.

    .. math:: \frac{\max(0, L_n - \max(L_{n-k}, L_1))}{\max_i L_i - L_1}, \qquad k = \max(1, \mathrm{round}(n / 10))

    It is 0 if the loss has settled, about 0.1 if it rises steadily, and NaN if it never rose or has under three values.
    """
    if len(losses) < 3:
        return math.nan
    last = max(1, round(LAST_PART * len(losses)))
    rise = max(losses) - losses[0]
    return max(0.0, losses[-1] - max(losses[-1 - last], losses[0])) / rise if rise > 0 else math.nan
