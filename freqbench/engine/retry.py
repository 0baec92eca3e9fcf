"""How long a run bears a store that refuses: its rows wait meanwhile, and the work goes on."""

import time
from collections.abc import Callable
from typing import TypeVar

from freqbench.core.errors import UserError

PATIENCE_S = 600.0

T = TypeVar("T")


class Patience:
    """Bears what a store refuses, until nothing has worked for `PATIENCE_S` seconds.

    A full disk, credentials that are being renewed and a server that starts again look alike from here.

    Args:
        root: the store's folder or URI.
        warn: is told when it begins to refuse.
        tell: is told when it answers again.
    """

    def __init__(self, root: str, warn: Callable[[str], None], tell: Callable[[str], None]) -> None:
        self._root = root
        self._warn = warn
        self._tell = tell
        self._since: float | None = None

    def attempt(self, action: Callable[[], T]) -> T | None:
        """What an action returns; None where the store refused it, and it is to be tried again.

        Raises:
            UserError: for too long.
        """
        try:
            value = action()
        except OSError as error:
            reason = " ".join(f"{type(error).__name__}: {error.strerror or error}".split())
            now = time.monotonic()
            if self._since is None:
                self._since = now
                self._warn(f"{self._root}: the store refuses ({reason}): rows wait, and are tried again")
            elif now - self._since > PATIENCE_S:
                raise UserError(
                    f"{self._root}: expected a store that takes rows, got none for {PATIENCE_S:.0f} s ({reason}): mend "
                    "it, then the same command goes on from what is stored"
                ) from None
            return None
        if self._since is not None:
            self._tell(f"{self._root}: the store answers again, after {time.monotonic() - self._since:.0f} s")
            self._since = None
        return value
