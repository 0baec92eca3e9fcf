"""What a worker's time goes to: load, device, idle."""

import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from freqbench.engine.rows import Outcome


class Stopwatch:
    """Adds up the seconds of what is done within it; not within itself."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._started = 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.seconds += time.perf_counter() - self._started


@dataclass(kw_only=True)
class Clock:
    """A worker's three clocks, as whoever gives it work reads them.

    Load and device are what the worker measured of each unit that came through. Idle is what is left of the time since
    it was ready, without the unit that it is at; from a unit that it died over until it is ready again nothing counts.

    Attributes:
        worker: its number.
        node: name of the machine that it was last ready on.
    """

    worker: int
    node: str = ""
    _units: int = field(default=0, init=False)
    _load: float = field(default=0.0, init=False)
    _device: float = field(default=0.0, init=False)
    _whole: float = field(default=0.0, init=False)
    _counted: float = field(default=0.0, init=False)

    def start(self, node: str) -> None:
        """The worker is ready, for the first time or again."""
        self.node = node
        self._counted = time.monotonic()

    def add(self, outcome: Outcome) -> None:
        """A unit came through now."""
        self._units += 1
        self._load += outcome.load_seconds
        self._device += outcome.device_seconds
        now = time.monotonic()
        self._whole += now - self._counted
        self._counted = now

    def facts(self, waits: bool) -> dict[str, Any]:
        """What a run's file says: `worker`, `node`, `units` and `load_seconds`, `device_seconds`, `idle_seconds`.

        Args:
            waits: whether it has no unit now.
        """
        waited = time.monotonic() - self._counted if waits else 0.0
        idle = max(0.0, self._whole + waited - self._load - self._device)
        seconds = {"load_seconds": self._load, "device_seconds": self._device, "idle_seconds": idle}
        facts = {"worker": self.worker, "node": self.node, "units": self._units}
        return facts | {name: round(value, 3) for name, value in seconds.items()}
