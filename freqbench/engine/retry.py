"""Retries after failures: a unit whose worker died, storage that does not answer, a store that refuses rows."""

import errno
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from freqbench.core.errors import StorageUnavailable, UserError
from freqbench.job.cells import Unit

TRIES = 3
NODE_LOSSES = 10  # a pre-empted machine is nobody's fault, but a unit may also kill machines
# Waits between tries, each with retries of its own: time for a server to restart or a network to recover.
WAITS_S = (5.0, 15.0, 40.0, 60.0)
PATIENCE_S = 600.0
AGAIN_S = 5.0
FULL = (errno.ENOSPC, errno.EDQUOT)

T = TypeVar("T")


@dataclass(kw_only=True)
class Attempt:
    """A unit and its losses: with its worker alone, or with the whole machine."""

    unit: Unit
    deaths: int = 0
    node_losses: int = 0
    is_retry: bool = False  # put back before: it runs alone, so that a death is its own

    @property
    def is_hopeless(self) -> bool:
        """True if the unit has been tried often enough."""
        return self.deaths >= TRIES or self.node_losses >= NODE_LOSSES


class StoreRefuses(UserError):  # noqa: N818 (a kind of refusal, as its readers say it)
    """Raised if the store takes no files: ends the run, because no unit is at fault and a failed row would be false."""


def is_away(error: BaseException) -> bool:
    """True if storage is unavailable or a disk is full: what failed is tried again after each of `WAITS_S`."""
    return isinstance(error, StorageUnavailable) or (isinstance(error, OSError) and error.errno in FULL)


class Patience:
    """Keeps a run going while its store refuses files, for PATIENCE_S seconds without a success; warns the user."""

    def __init__(
        self, root: str, warn: Callable[[str], None], tell: Callable[[str], None], waiting: Callable[[], int]
    ) -> None:
        self._root = root
        self._warn = warn
        self._tell = tell
        self._waiting = waiting
        self._since: float | None = None

    def attempt(self, action: Callable[[], T]) -> T | None:
        """Runs an action; None if the store refused it and it must be tried again, StoreRefuses if for too long."""
        try:
            value = action()
        except OSError as error:
            if error.errno == errno.EFBIG:
                raise StoreRefuses(
                    f"{self._root}: expected to write files of any size, got a limit that its files exceed: raise it "
                    "(ulimit -f), then the same command goes on from what is stored"
                ) from None
            reason = " ".join(f"{type(error).__name__}: {error.strerror or error}".split())
            now = time.monotonic()
            if self._since is None:
                self._since = now
                self._warn(f"{self._root}: the store refuses files ({reason}): they wait and are tried again")
            elif now - self._since > PATIENCE_S:
                raise StoreRefuses(
                    f"{self._root}: expected a store that takes files, got none for {PATIENCE_S:.0f} s ({reason}): "
                    "fix it, then the same command goes on from what is stored"
                ) from None
            return None
        if not self._waiting():
            self._answered()
        return value

    def keep(self, save: Callable[[], object]) -> None:
        """Runs an action that saves a unit's files, again and again until the store takes them; raises as `attempt`."""
        is_refused = False
        while self.attempt(lambda: [save()]) is None:
            is_refused = True
            time.sleep(AGAIN_S)
        if is_refused:
            self._answered()

    def _answered(self) -> None:
        if self._since is not None:
            self._tell(f"{self._root}: the store answers again, after {time.monotonic() - self._since:.0f} s")
            self._since = None
