"""Keeps one small picture per cell in the store: the glimpse of the case that lost most.

glimpses/CELL_ID_CASE_KEY_DROP.webp, where DROP is in points of foreground DSC. The name tells which picture counts, so
that parallel runs and shards need no lock: each writes pictures that are worse than all it knows of, and readers take
the worst.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from freqbench.core.files import storage

GLIMPSES = "glimpses"
MAX_BYTES = 60_000

_NAME = re.compile(r"([0-9a-f]{16})_([0-9a-f]{16})_(-?\d+\.\d\d)\.webp")


@dataclass(frozen=True, kw_only=True)
class Glimpse:
    """A picture of an attack's effect on a case of its dataset, which lost `drop` points of foreground DSC."""

    cell_id: str
    case_key: str
    drop: float
    image: bytes  # WebP, at most MAX_BYTES

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"{self.cell_id}_{self.case_key}_{self.drop:.2f}.webp"


class Glimpses:
    """The glimpses of a store, as a run adds to them; for one thread."""

    def __init__(self, root: str) -> None:
        self._folder = storage.join(root, GLIMPSES)
        self._there: dict[str, set[str]] = {}  # names of a cell's files, once listed
        self._waiting: dict[str, Glimpse] = {}

    def add(self, glimpse: Glimpse) -> None:
        """Queues a glimpse if it is worse than the one of its cell that waits."""
        waiting = self._waiting.get(glimpse.cell_id)
        if waiting is None or glimpse.drop > waiting.drop:
            self._waiting[glimpse.cell_id] = glimpse

    def flush(self) -> None:
        """Replaces stored glimpses by waiting ones that are worse; after an OSError the rest keep waiting."""
        if self._waiting and not self._there:
            self._there = _by_cell(storage.list_files(self._folder, ".webp"))
        for cell_id, glimpse in list(self._waiting.items()):
            former = self._there.setdefault(cell_id, set())
            if glimpse.name not in former and all(glimpse.drop > _drop(name) for name in former):
                storage.write_atomic(storage.join(self._folder, glimpse.name), glimpse.image)
                self._there[cell_id] = {glimpse.name}
                for name in former:
                    storage.remove(storage.join(self._folder, name))
            del self._waiting[cell_id]


def listed(root: str) -> dict[tuple[str, str], str]:
    """Returns the paths of a store's glimpses, one per cell, by cell id and case key."""
    folder = storage.join(root, GLIMPSES)
    worst = {cell_id: max(names, key=_drop) for cell_id, names in _by_cell(storage.list_files(folder, ".webp")).items()}
    return {(cell_id, name.split("_")[1]): storage.join(folder, name) for cell_id, name in worst.items()}


def _by_cell(names: Iterable[str]) -> dict[str, set[str]]:
    grouped: dict[str, set[str]] = {}
    for name in names:
        if parts := _NAME.fullmatch(name):
            grouped.setdefault(parts[1], set()).add(name)
    return grouped


def _drop(name: str) -> float:
    return float(name.removesuffix(".webp").rpartition("_")[2])
