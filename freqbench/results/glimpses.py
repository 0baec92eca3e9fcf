"""Keeps one slice per cell in the store, of the case that lost most: glimpses/CELL_ID_CASE_KEY_DROP.json, DROP in
points of foreground DSC. Readers take the worst, so that parallel runs and shards need no lock."""

import base64
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import Field, model_validator

from freqbench.core.config import Strict
from freqbench.core.files import storage
from freqbench.core.types import Window
from freqbench.ops.planes import visible_words, window_words
from freqbench.results.volumes import RegionsOfLabels

GLIMPSES = "glimpses"
MAX_BYTES = 150_000
SIDE = 128  # pixels
# of the plane of the change: the value of none, and steps on each side
NO_CHANGE = 128
STEPS = 31
_NAME = re.compile(r"([0-9a-f]{16})_([0-9a-f]{16})_(-?\d+\.\d\d)\.json")
Planes = npt.NDArray[np.uint8]
Side = Annotated[int, Field(ge=1, le=SIDE)]


class Slice(Strict):
    """An axial slice of a case as a radiologist reads it: clean and attacked volume, their change, and label maps."""

    captions: list[str]  # of each plane: the clean volume, the adversarial one, the change, then label maps
    below: list[Literal[0, 1]]  # of each label map, its plane of the volume: 0 (clean) or 1 (adversarial)
    size: tuple[Side, Side]  # height and width in pixels
    aspect: Annotated[float, Field(ge=0.01, le=100)]  # height over width of a pixel
    full: Annotated[float, Field(gt=0, le=1)]  # magnitude of the change at NO_CHANGE +- STEPS, where it is cut
    planes: str  # a grey PNG in base64, planes one below the other: grey levels, steps, classes
    regions: RegionsOfLabels = Field(default=[])  # the regions of each label of label maps
    window: Window | None = None  # intensities of the file that are black and white in both volumes; None: unknown

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if len(self.captions) != 3 + len(self.below):
            raise ValueError(f"expected {3 + len(self.below)} captions, got {len(self.captions)}")
        self.unpack()
        return self

    @property
    def words(self) -> str:
        """Words for what is black and white, and for a change that a person sees."""
        return "; ".join(filter(None, (window_words(self.window), visible_words(self.full))))

    def unpack(self) -> Planes:
        """Returns the planes, `[P, H, W]`; ValueError if they are no such PNG."""
        height, width = self.size
        expected = ("L", (width, len(self.captions) * height))
        try:
            image = Image.open(io.BytesIO(base64.b64decode(self.planes, validate=True)), formats=["PNG"])
            if (image.mode, image.size) != expected:
                raise ValueError(f"expected planes of {expected}, got {image.mode, image.size}")
            return np.asarray(image).reshape(-1, height, width)
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"expected planes as PNG, got other bytes: {error}") from None


class KeptSlice(Slice):
    """A slice as its file has it, with the ids of the models with whose names captions begin."""

    models: dict[str, str] = Field(default={})

    def rename(self, names: Mapping[str, str]) -> Slice:
        """Returns the slice with captions that call models as `names` do, by id."""
        parts = [caption.partition(",") for caption in self.captions]
        captions = [names.get(self.models.get(name, ""), name) + comma + rest for name, comma, rest in parts]
        return Slice.model_construct(**{**dict(self), "captions": captions})


def pack_planes(planes: Planes) -> str:
    """Packs planes `[P, H, W]` for a Slice."""
    stream = io.BytesIO()
    Image.fromarray(planes.reshape(-1, planes.shape[-1])).save(stream, "PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode()


def read(path: str, names: Mapping[str, str]) -> Slice | None:
    """Reads the glimpse at `path`, with captions of the `names` of models by id; None for no such file or another
    one."""
    try:
        content = storage.read_range(path, 0, MAX_BYTES + 1)
        return KeptSlice.model_validate_json(content).rename(names) if len(content) <= MAX_BYTES else None
    except (FileNotFoundError, ValueError):  # a run may have replaced it
        return None


@dataclass(frozen=True, kw_only=True)
class Glimpse:
    """An attack's effect on a case of its dataset, which lost `drop` points of foreground DSC."""

    cell_id: str
    case_key: str
    drop: float
    shown: Slice

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"{self.cell_id}_{self.case_key}_{self.drop:.2f}.json"


class Glimpses:
    """The glimpses of a store, as a run adds to them; for one thread."""

    def __init__(self, root: str) -> None:
        self._folder = storage.join(root, GLIMPSES)
        self._there: dict[str, dict[str, float]] = {}  # of `_drops`, once listed
        self._waiting: dict[str, Glimpse] = {}

    def add(self, glimpse: Glimpse) -> None:
        """Queues a glimpse if it is worse than the one of its cell that waits."""
        if (waiting := self._waiting.get(glimpse.cell_id)) is None or glimpse.drop > waiting.drop:
            self._waiting[glimpse.cell_id] = glimpse

    def flush(self) -> None:
        """Replaces stored glimpses by waiting ones that are worse; after an OSError the rest keep waiting."""
        waiting = self._waiting
        folder = self._folder
        if waiting and not self._there:
            self._there = _drops(folder)
        for cell_id, glimpse in list(waiting.items()):
            former = self._there.setdefault(cell_id, {})
            if glimpse.name not in former and all(glimpse.drop > drop for drop in former.values()):
                storage.write_atomic(storage.join(folder, glimpse.name), glimpse.shown.model_dump_json().encode())
                self._there[cell_id] = {glimpse.name: glimpse.drop}
                for name in former:
                    storage.remove(storage.join(folder, name))
            del waiting[cell_id]


def paths_of(root: str) -> dict[tuple[str, str], str]:
    """Returns the paths of the glimpses of the store at `root`, one per cell, by cell id and case key."""
    folder = storage.join(root, GLIMPSES)
    worst = {cell_id: max(drops, key=drops.__getitem__) for cell_id, drops in _drops(folder).items()}
    return {(cell_id, name.split("_")[1]): storage.join(folder, name) for cell_id, name in worst.items()}


def _drops(folder: str) -> dict[str, dict[str, float]]:
    """Returns the drop of each glimpse, by cell and name of its file."""
    drops: dict[str, dict[str, float]] = {}
    for name in storage.list_files(folder, ""):
        if parts := _NAME.fullmatch(name):
            drops.setdefault(parts[1], {})[name] = float(parts[3])
    return drops
