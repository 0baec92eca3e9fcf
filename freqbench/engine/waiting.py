"""Units whose data, checkpoints or volumes cannot be reached just now wait for them, and are done again."""

import logging
import time
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from freqbench.core.errors import StorageUnavailable

# Between tries, each of which has tried a few times itself: a server that starts again, a network that is mended.
WAITS_S = (5.0, 15.0, 40.0, 60.0)

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


def waiting_for_storage(run: Callable[P, T]) -> Callable[P, T]:
    """The same function, done again after each of `WAITS_S` while storage is unavailable; after the last it raises."""

    @wraps(run)
    def patient(*args: P.args, **kwargs: P.kwargs) -> T:
        for seconds in WAITS_S:
            try:
                return run(*args, **kwargs)
            except StorageUnavailable as error:
                logger.warning("%s: the unit is done again in %g s", error, seconds)
                time.sleep(seconds)
        return run(*args, **kwargs)

    return patient
